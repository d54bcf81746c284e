#include "deploy/cli/live_view.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace crescendo {
namespace {

constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
constexpr int kWorkersShown = 4;
constexpr size_t kSpeedSteps = 5;

class Painter {
 public:
  explicit Painter(const ViewOptions& options) : options_(options) {}
  std::string Bold(absl::string_view text) const { return Paint("1", text); }
  std::string Dim(absl::string_view text) const { return Paint("2", text); }
  std::string Green(absl::string_view text) const { return Paint("32", text); }
  std::string Yellow(absl::string_view text) const { return Paint("33", text); }
  std::string Cyan(absl::string_view text) const { return Paint("36", text); }

 private:
  std::string Paint(absl::string_view code, absl::string_view text) const {
    if (!options_.color || text.empty()) return std::string(text);
    return absl::StrCat("\x1b[", code, "m", text, "\x1b[0m");
  }
  const ViewOptions& options_;
};

// Cut to `width` columns; escape sequences take none and are kept whole.
std::string Clip(const std::string& text, int width) {
  if (DisplayWidth(text) <= width) return text;
  std::string out;
  int columns = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {
      const size_t end = text.find('m', i);
      out += text.substr(i, end - i + 1);
      i = end;
      continue;
    }
    const bool starts = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (starts && columns++ >= width - 1) break;
    out += text[i];
  }
  return out + "…\x1b[0m";
}

std::string Bar(double share, int width) {
  const int full = static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * width));
  std::string out;
  for (int i = 0; i < width; ++i) out += i < full ? "█" : "░";
  return out;
}

std::vector<double> Series(const RunPicture& run, double (v1::StepMetrics::*field)() const) {
  std::vector<double> values;
  for (const auto& [step, record] : run.steps) values.push_back((record.metrics().*field)());
  return values;
}

double HighestOf(const std::vector<double>& values) {
  double highest = 0;
  for (const double value : values) highest = std::max(highest, value);
  return highest;
}

std::string StageText(const RunPicture& run) {
  const uint32_t index = run.status.stage();
  uint32_t context = 0;
  for (const v1::StageStatus& stage : run.stages) {
    if (stage.index() == index) context = stage.context_tokens();
  }
  return absl::StrCat("stage ", index + 1,
                      context > 0 ? absl::StrCat(" (", context, " tokens)") : "");
}

// A name, the last value, and the curve so far.
std::string CurveLine(const Painter& paint, absl::string_view name, const std::string& value,
                      const std::vector<double>& values, double high, int width) {
  const int room = std::clamp(width - 32, 8, 60);
  return absl::StrCat("  ", paint.Dim(absl::StrFormat("%-10s", name)), " ",
                      absl::StrFormat("%10s", value), "  ",
                      paint.Cyan(Sparkline(values, room, 0, high)));
}

std::string PassLine(const RunPicture& run, const Painter& paint, int width) {
  if (run.evaluations.empty()) {
    return absl::StrCat("  ", paint.Dim("pass@1    "), "  not measured yet");
  }
  std::vector<std::string> points;
  const size_t shown = width < 100 ? 3 : 5;
  const size_t skip = run.evaluations.size() > shown ? run.evaluations.size() - shown : 0;
  size_t i = 0;
  for (const auto& [step, evaluation] : run.evaluations) {
    if (i++ < skip && step != run.evaluations.begin()->first) continue;
    points.push_back(absl::StrFormat("%.3f", evaluation.pass_at_1()));
  }
  const v1::EvaluationResult& last = run.evaluations.rbegin()->second;
  return absl::StrCat(
      "  ", paint.Dim("pass@1    "), " ", paint.Bold(absl::StrJoin(points, " → ")),
      absl::StrFormat("  ±%.3f", 0.5 * (last.ci95_high() - last.ci95_low())),
      paint.Dim(absl::StrCat("  on ", last.problems(), " held out, step ", last.step())));
}

std::string WorkersLine(const RunPicture& run, const Painter& paint) {
  std::vector<std::string> words;
  for (const v1::WorkerStatus& worker : run.status.workers()) {
    if (static_cast<int>(words.size()) == kWorkersShown) {
      words.push_back(absl::StrCat("and ", run.status.workers_size() - kWorkersShown, " more"));
      break;
    }
    const bool healthy = worker.state() == "healthy";
    words.push_back(
        absl::StrCat(worker.worker_id(), " ",
                     healthy ? absl::StrCat(FormatCount(worker.tokens_per_second()), " tok/s")
                             : paint.Yellow(worker.state())));
  }
  const bool finished = run.status.state() == "finished";
  if (words.empty()) words.push_back(finished ? "they have left" : paint.Yellow("none yet"));
  return absl::StrCat("  ", paint.Dim("workers   "), " ", absl::StrJoin(words, "  "));
}

// What was used, and what it will come to.
std::string CostLine(const v1::CostStatus& cost, const Painter& paint) {
  std::string out =
      absl::StrCat("  ", paint.Dim("cost      "), " ",
                   UsedText(cost.gpu_hours(), cost.core_hours(), cost.money(), cost.currency()));
  if (!cost.has_run_end()) return out;
  const v1::CostProjection& end = cost.run_end();
  const std::string range =
      end.money() > 0 ? absl::StrFormat(", %s%.2f to %s%.2f", cost.currency(), end.money_low(),
                                        cost.currency(), end.money_high())
                      : "";
  return absl::StrCat(
      out, paint.Dim(absl::StrCat(
               "  at the end ",
               UsedText(end.gpu_hours(), end.core_hours(), end.money(), cost.currency()), range)));
}

std::string HeadLine(const RunPicture& run, const ViewOptions& options, const Painter& paint) {
  const std::string left = absl::StrCat(paint.Bold("crescendo"), "  ", options.title);
  const std::string state = run.status.state().empty() ? "starting" : run.status.state();
  const int gap = options.width - DisplayWidth(left) - static_cast<int>(state.size());
  return absl::StrCat(left, std::string(static_cast<size_t>(std::max(2, gap)), ' '),
                      state == "failed" ? paint.Yellow(state) : paint.Green(state));
}

std::string ProgressLine(const RunPicture& run, const ViewOptions& options, const Painter& paint) {
  const double share =
      run.status.steps_total() > 0
          ? static_cast<double>(run.status.step()) / static_cast<double>(run.status.steps_total())
          : 0;
  return absl::StrCat("  ", paint.Green(Bar(share, std::clamp(options.width / 4, 8, 30))),
                      "  step ",
                      paint.Bold(absl::StrCat(run.status.step(), "/", run.status.steps_total())),
                      "  ", StageText(run), "  ", FormatTime(run.status.elapsed_seconds()), " + ",
                      FormatTime(run.status.eta_seconds()), " left");
}

}  // namespace

int DisplayWidth(absl::string_view text) {
  int columns = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {
      const size_t end = text.find('m', i);
      if (end == absl::string_view::npos) break;
      i = end;
    } else if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) {
      ++columns;
    }
  }
  return columns;
}

std::string Sparkline(const std::vector<double>& values, int width, double low, double high) {
  std::string out;
  const auto columns = std::min(values.size(), static_cast<size_t>(std::max(0, width)));
  for (size_t column = 0; column < columns; ++column) {
    const size_t begin = column * values.size() / columns;
    const size_t end = std::max(begin + 1, (column + 1) * values.size() / columns);
    double mean = 0;
    for (size_t i = begin; i < end; ++i) mean += values[i] / static_cast<double>(end - begin);
    const double share = high > low ? (mean - low) / (high - low) : 0;
    const double height = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) * 7 : 0;
    out += kBlocks[std::lround(height)];
  }
  return out;
}

std::string FormatTime(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole >= 3600) {
    return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
  }
  return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
}

std::string FormatCount(double count) {
  if (!(std::fabs(count) < 1e15)) return "?";
  std::string digits = absl::StrCat(static_cast<int64_t>(std::llround(count)));
  for (int at = static_cast<int>(digits.size()) - 3; at > (digits[0] == '-' ? 1 : 0); at -= 3) {
    digits.insert(static_cast<size_t>(at), ",");
  }
  return digits;
}

std::string UsedText(double gpu_hours, double core_hours, double money,
                     const std::string& currency) {
  const bool gpus = gpu_hours > 0;
  std::string out =
      absl::StrFormat("%.3g %s", gpus ? gpu_hours : core_hours, gpus ? "GPU-hours" : "core-hours");
  if (money > 0) absl::StrAppendFormat(&out, ", %s%.2f", currency, money);
  return out;
}

double TokensPerSecond(const RunPicture& run) {
  if (run.steps.size() < 2) return run.status.tokens_per_second();
  const size_t back = std::min(run.steps.size() - 1, kSpeedSteps);
  const v1::StepRecord& last = run.steps.rbegin()->second;
  const v1::StepRecord& first = std::next(run.steps.rbegin(), static_cast<long>(back))->second;
  const double seconds = last.train_elapsed_seconds() - first.train_elapsed_seconds();
  const auto tokens =
      static_cast<double>(last.train_generated_tokens() - first.train_generated_tokens());
  return seconds > 0 ? tokens / seconds : run.status.tokens_per_second();
}

std::string StepLine(const v1::StepRecord& step, const RunPicture& run) {
  const v1::StepMetrics& m = step.metrics();
  return absl::StrFormat(
      "step %d/%d  stage %d  reward %.3f  truncated %.3f  length %.1f  tokens/s %s  left %s%s",
      step.step() + 1, run.status.steps_total(), step.stage() + 1, m.reward_mean(),
      m.truncation_ratio(), m.response_tokens_mean(), FormatCount(TokensPerSecond(run)),
      FormatTime(run.status.eta_seconds()), m.skipped() ? "  SKIPPED: non-finite gradients" : "");
}

std::string EvaluationLine(const v1::EvaluationResult& e) {
  return absl::StrFormat(
      "evaluation at step %d%s: pass@1 %.3f [%.3f, %.3f]  length %.1f  truncated %.3f", e.step(),
      e.set().empty() ? "" : absl::StrCat(", ", e.set()), e.pass_at_1(), e.ci95_low(),
      e.ci95_high(), e.mean_tokens(), e.truncation_ratio());
}

std::string StageLine(const v1::StageStatus& ended) {
  return absl::StrCat("stage ", ended.index() + 1, " (", ended.context_tokens(),
                      " tokens) ended after step ", ended.last_step() + 1, ": ", ended.reason());
}

std::vector<std::string> RenderView(const RunPicture& run, const ViewOptions& options) {
  const Painter paint(options);
  const v1::StepMetrics& last = run.status.last();
  std::vector<std::string> lines = {HeadLine(run, options, paint),
                                    ProgressLine(run, options, paint),
                                    PassLine(run, paint, options.width)};
  const bool any = !run.steps.empty();
  const auto value = [&](const std::string& text) { return any ? text : std::string("-"); };
  const auto lengths = Series(run, &v1::StepMetrics::response_tokens_mean);
  lines.push_back(CurveLine(paint, "reward", value(absl::StrFormat("%.3f", last.reward_mean())),
                            Series(run, &v1::StepMetrics::reward_mean), 1, options.width));
  lines.push_back(CurveLine(paint, "truncated",
                            value(absl::StrFormat("%.1f%%", 100 * last.truncation_ratio())),
                            Series(run, &v1::StepMetrics::truncation_ratio), 1, options.width));
  lines.push_back(CurveLine(paint, "length",
                            value(absl::StrFormat("%.1f", last.response_tokens_mean())), lengths,
                            HighestOf(lengths), options.width));
  std::vector<std::string> stages;
  for (const v1::StageStatus& stage : run.stages) {
    if (stage.last_step() < 0) {
      stages.push_back(paint.Bold(absl::StrCat(stage.context_tokens())));
    } else {
      stages.push_back(absl::StrCat(stage.context_tokens(), " to step ", stage.last_step() + 1));
    }
  }
  lines.push_back(absl::StrCat("  ", paint.Dim("context   "), " ", absl::StrJoin(stages, " → ")));
  lines.push_back(absl::StrCat(
      "  ", paint.Dim("tokens/s  "), " ", FormatCount(TokensPerSecond(run)),
      paint.Dim(absl::StrCat("  generated ", FormatCount(run.status.generated_tokens()),
                             "  trained ", FormatCount(run.status.trained_tokens()))),
      any ? paint.Dim(absl::StrFormat("  mismatch %.1e", last.mismatch_max())) : ""));
  if (run.status.has_cost()) lines.push_back(CostLine(run.status.cost(), paint));
  lines.push_back(WorkersLine(run, paint));
  if (!run.status.page().empty()) {
    lines.push_back(absl::StrCat("  ", paint.Dim("page      "), " ", run.status.page()));
  }
  std::string waits = !run.status.failure().empty() ? run.status.failure() : run.status.awaiting();
  // A frame is redrawn by its count of lines.
  std::replace(waits.begin(), waits.end(), '\n', ' ');
  if (!waits.empty())
    lines.push_back(absl::StrCat("  ", paint.Dim("awaiting  "), " ", paint.Yellow(waits)));
  if (!options.notice.empty()) lines.push_back(absl::StrCat("  ", paint.Yellow(options.notice)));
  for (std::string& line : lines) line = Clip(line, options.width);
  return lines;
}

}  // namespace crescendo
