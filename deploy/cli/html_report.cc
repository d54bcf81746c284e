#include "deploy/cli/html_report.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "deploy/cli/evaluation_report.h"
#include "deploy/cli/live_view.h"
#include "deploy/cli/plots.h"

namespace crescendo {
namespace {

constexpr absl::string_view kStyle = R"(
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #f6f7f9; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 8px 0 2px; }
h2 { font-size: 18px; margin: 34px 0 10px; }
.sub { color: #5b6470; margin: 0 0 18px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 10px; }
.figure { background: #fff; border: 1px solid #e2e5ea; border-radius: 8px; padding: 10px 14px; }
.figure .value { font-size: 21px; font-weight: 600; white-space: nowrap; }
.figure .name { color: #5b6470; font-size: 13px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 12px; }
.plot { background: #fff; border: 1px solid #e2e5ea; border-radius: 8px; padding: 6px; }
.plot svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; background: #fff; border: 1px solid #e2e5ea; width: 100%; }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid #e8ebef; font-size: 14px; }
th { color: #5b6470; font-weight: 600; }
td:not(:last-child), th { white-space: nowrap; }
pre { background: #fff; border: 1px solid #e2e5ea; border-radius: 8px; padding: 12px; overflow-x: auto;
  font-size: 12.5px; }
.words { background: #fff; border-left: 4px solid #1f6feb; padding: 10px 16px; border-radius: 4px; }
.empty { color: #5b6470; padding: 30px; text-align: center; }
)";

// Something of a run over an axis: the steps trained, or the tokens generated for training.
class Axis {
 public:
  Axis(const RunPicture& run, bool tokens) : run_(run), tokens_(tokens) {}

  double AfterSteps(int64_t steps) const {
    if (!tokens_) return static_cast<double>(steps);
    const auto it = run_.steps.find(steps - 1);
    return it == run_.steps.end() ? 0 : static_cast<double>(it->second.train_generated_tokens());
  }
  std::string label() const { return tokens_ ? "tokens generated for training" : "steps"; }
  std::string id(absl::string_view name) const { return absl::StrCat(name, tokens_ ? "T" : "S"); }

  std::vector<PlotMark> StageMarks() const {
    std::vector<PlotMark> marks;
    for (const v1::StageStatus& stage : run_.stages) {
      if (stage.index() == 0 || stage.first_step() >= run_.status.step()) continue;
      marks.push_back({AfterSteps(stage.first_step()), absl::StrCat(stage.context_tokens())});
    }
    return marks;
  }
  PlotSeries Steps(absl::string_view name, int color,
                   const std::function<double(const v1::StepRecord&)>& value) const {
    PlotSeries series{std::string(name), PlotStyle::kLine, color, {}};
    for (const auto& [step, record] : run_.steps) {
      const double y = value(record);
      series.points.push_back({AfterSteps(step + 1), y, y, y});
    }
    return series;
  }
  PlotSeries Evaluations() const {
    PlotSeries series{"95% interval", PlotStyle::kLineWithErrors, 0, {}};
    for (const auto& [step, e] : run_.evaluations) {
      const double x =
          tokens_ ? static_cast<double>(e.train_generated_tokens()) : static_cast<double>(step);
      series.points.push_back({x, e.pass_at_1(), e.ci95_low(), e.ci95_high()});
    }
    return series;
  }
  // The context limit of each step, as a staircase.
  PlotSeries Limits() const {
    PlotSeries series{"context limit", PlotStyle::kSteps, 5, {}};
    for (const v1::StageStatus& stage : run_.stages) {
      const double y = stage.context_tokens();
      series.points.push_back({AfterSteps(stage.first_step()), y, y, y});
    }
    if (!series.points.empty()) {
      series.points.push_back(series.points.back());
      series.points.back().x = AfterSteps(run_.status.step());
    }
    return series;
  }

 private:
  const RunPicture& run_;
  const bool tokens_;
};

std::string PlotHtml(Plot plot) {
  const auto svg = DrawPlot(plot);
  return absl::StrCat("<div class=\"plot\">",
                      svg.ok() ? *svg
                               : absl::StrCat("<p class=\"empty\">No plot: ",
                                              HtmlEscape(svg.status().message()), "</p>"),
                      "</div>\n");
}

std::vector<Plot> PlotsOver(const Axis& axis) {
  const auto plot = [&](const char* id, const char* title, const char* y_label) {
    Plot made;
    made.id = axis.id(id);
    made.title = title;
    made.x_label = axis.label();
    made.y_label = y_label;
    made.marks = axis.StageMarks();
    return made;
  };
  std::vector<Plot> plots;
  plots.push_back(plot("pass", "pass@1 on held-out problems", "pass@1"));
  plots.back().y_max = 1;
  plots.back().series = {axis.Evaluations()};
  plots.push_back(plot("reward", "Mean reward of a step", "reward"));
  plots.back().y_max = 1;
  plots.back().series = {
      axis.Steps("", 2, [](const v1::StepRecord& r) { return r.metrics().reward_mean(); })};
  plots.push_back(plot("length", "Response length", "tokens"));
  plots.back().series = {axis.Limits(), axis.Steps("mean length", 3, [](const v1::StepRecord& r) {
                           return r.metrics().response_tokens_mean();
                         })};
  plots.push_back(plot("truncation", "Share of samples cut by the limit", "truncated"));
  plots.back().y_max = 1;
  plots.back().series = {
      axis.Steps("", 1, [](const v1::StepRecord& r) { return r.metrics().truncation_ratio(); })};
  plots.push_back(
      plot("mismatch", "|log-prob(learner) - log-prob(rollout)|, same weights", "nats"));
  plots.back().log_y = true;
  // A logarithm has no place for 0: what is equal to the bit stands at 1e-9.
  const auto drawn = [](double value) { return value > 1e-9 ? value : 1e-9; };
  plots.back().series = {
      axis.Steps("largest", 4,
                 [=](const v1::StepRecord& r) { return drawn(r.metrics().mismatch_max()); }),
      axis.Steps("mean", 5,
                 [=](const v1::StepRecord& r) { return drawn(r.metrics().mismatch_mean()); })};
  return plots;
}

// What the run used, beside what the published recipe did.
std::string Cost(const nlohmann::ordered_json& report) {
  if (!report.contains("cost")) return "";
  const auto& cost = report["cost"];
  const std::string currency = cost["currency"].get<std::string>();
  std::vector<std::vector<std::string>> rows = {
      {"service", "GPUs", "GPU-hours", "core-hours", "money"}};
  const auto add = [&](const std::string& name, const std::string& gpus, const auto& line) {
    rows.push_back({name, gpus, absl::StrFormat("%.4g", line["gpu_hours"].template get<double>()),
                    absl::StrFormat("%.4g", line["core_hours"].template get<double>()),
                    absl::StrFormat("%s%.2f", currency, line["money"].template get<double>())});
  };
  for (const auto& service : cost["services"]) {
    add(service["service"].get<std::string>(), service["gpu_type"].get<std::string>(), service);
  }
  add("in all", "", cost);
  rows.push_back({"DeepScaleR, published", "A100", "3,800", "", "$4,500"});
  return absl::StrCat("<h2>Cost</h2>\n", HtmlTable(rows));
}

std::string Percent(const nlohmann::ordered_json& value) {
  return value.is_number() ? absl::StrFormat("%.1f%%", 100 * value.get<double>()) : "-";
}
std::string Fixed(const nlohmann::ordered_json& value, int digits) {
  return value.is_number() ? absl::StrFormat("%.*f", digits, value.get<double>()) : "-";
}

std::string Stages(const nlohmann::ordered_json& report) {
  std::vector<std::vector<std::string>> rows = {
      {"stage", "context limit", "steps", "mean length", "truncated", "why it ended"}};
  for (size_t i = 0; i < report["stages"].size(); ++i) {
    const auto& stage = report["stages"][i];
    rows.push_back({absl::StrCat(i + 1),
                    absl::StrCat(stage["context_tokens"].get<int64_t>(), " tokens"),
                    absl::StrCat(stage["first_step"].get<int64_t>() + 1, " to ",
                                 stage["last_step"].get<int64_t>() + 1),
                    Fixed(report["mean_length_by_stage"][i], 1),
                    Percent(report["truncation_by_stage"][i]), stage["reason"].get<std::string>()});
  }
  return HtmlTable(rows);
}

// What the sets came to, and what was published for them.
std::string Evaluations(const nlohmann::ordered_json& report) {
  if (!report.contains("evaluations") || report["evaluations"].empty()) return "";
  std::string out =
      absl::StrCat("<h2>Evaluation</h2>\n", HtmlTable(EvaluationRows(report["evaluations"])));
  std::vector<std::vector<std::string>> rows = {{"set", "model", "pass@1"}};
  for (const auto& set : report["evaluations"]) {
    if (set["published"].empty()) continue;
    rows.push_back(
        {set["set"].get<std::string>(), "this run", Fixed(set["final"]["pass_at_1"], 3)});
    for (const auto& result : set["published"]) {
      rows.push_back({set["set"].get<std::string>(), result["model"].get<std::string>(),
                      Fixed(result["pass_at_1"], 3)});
    }
  }
  if (rows.size() == 1) return out;
  return absl::StrCat(out, "<p class=\"sub\">Published for the same sets: ",
                      HtmlEscape(kPublishedSource), ".</p>\n", HtmlTable(rows));
}

}  // namespace

std::string HtmlEscape(absl::string_view text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string HtmlPage(absl::string_view title, absl::string_view body) {
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>",
      HtmlEscape(title), "</title>\n<style>", kStyle, "</style></head>\n<body><main>\n", body,
      "</main></body></html>\n");
}

std::string HtmlFigures(const std::vector<std::pair<std::string, std::string>>& figures) {
  std::string out = "<div class=\"figures\">\n";
  for (const auto& [name, value] : figures) {
    absl::StrAppend(&out, "<div class=\"figure\"><div class=\"value\">", HtmlEscape(value),
                    "</div><div class=\"name\">", HtmlEscape(name), "</div></div>\n");
  }
  return out + "</div>\n";
}

std::string HtmlTable(const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<table>\n";
  for (size_t i = 0; i < rows.size(); ++i) {
    absl::StrAppend(&out, "<tr>");
    for (const std::string& cell : rows[i]) {
      const char* tag = i == 0 ? "th" : "td";
      absl::StrAppend(&out, "<", tag, ">", HtmlEscape(cell), "</", tag, ">");
    }
    absl::StrAppend(&out, "</tr>\n");
  }
  return out + "</table>\n";
}

std::string HtmlReport(const std::string& name, const RunPicture& run,
                       const nlohmann::ordered_json& report, const std::string& config_toml) {
  std::string body = absl::StrCat(
      "<h1>", HtmlEscape(name), "</h1>\n<p class=\"sub\">A run of Crescendo, seed ",
      report["seed"].get<uint64_t>(), ". ", HtmlEscape(report["machine"].get<std::string>()),
      ". Commit ", HtmlEscape(report["commit"].get<std::string>()), ".</p>\n");
  std::vector<std::pair<std::string, std::string>> figures = {
      {"pass@1 of the base", Fixed(report["base_pass_at_1"], 3)},
      {"pass@1 at the end", Fixed(report["final_pass_at_1"], 3)}};
  if (report["ci95"].is_array()) {
    figures.push_back({"95% interval of it", absl::StrCat(Fixed(report["ci95"][0], 3), "–",
                                                          Fixed(report["ci95"][1], 3))});
  }
  figures.push_back({"steps", FormatCount(report["steps"].get<double>())});
  figures.push_back({"time", FormatTime(report["wall_seconds"].get<double>())});
  figures.push_back({"tokens generated", FormatCount(report["generated_tokens"].get<double>())});
  figures.push_back({"tokens trained", FormatCount(report["trained_tokens"].get<double>())});
  figures.push_back({"rollout workers", absl::StrCat(report["rollout_workers"].get<int>())});
  figures.push_back(
      {"largest mismatch, nats", absl::StrFormat("%.1e", report["mismatch_max"].get<double>())});
  absl::StrAppend(&body, HtmlFigures(figures), "<h2>Stages</h2>\n", Stages(report),
                  Evaluations(report), Cost(report));
  absl::StrAppend(&body,
                  "<h2>Curves</h2>\n<p class=\"sub\">Left over steps, right over tokens. Dotted "
                  "lines: where a stage began, with its context limit.</p>\n"
                  "<div class=\"plots\">\n");
  const std::vector<Plot> over_steps = PlotsOver(Axis(run, false));
  const std::vector<Plot> over_tokens = PlotsOver(Axis(run, true));
  for (size_t i = 0; i < over_steps.size(); ++i) {
    absl::StrAppend(&body, PlotHtml(over_steps[i]), PlotHtml(over_tokens[i]));
  }
  absl::StrAppend(&body, "</div>\n<h2>Configuration</h2>\n<pre>", HtmlEscape(config_toml),
                  "</pre>\n");
  return HtmlPage(absl::StrCat(name, " - Crescendo"), body);
}

}  // namespace crescendo
