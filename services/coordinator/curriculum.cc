#include "services/coordinator/curriculum.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace crescendo {

namespace {

// The noise bound of the truncation rule: chance of a false alarm over the whole trace.
constexpr double kFalseAlarm = 0.01;

// Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom; the normal one beyond.
double StudentQuantile(int freedom) {
  static constexpr std::array<double, 30> kTable = {
      12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
      2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
      2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
  if (freedom < 1) return kTable[0];
  return freedom <= static_cast<int>(kTable.size()) ? kTable[freedom - 1] : 1.96;
}

template <typename Get>
double Mean(absl::Span<const StageStep> steps, Get get) {
  double sum = 0;
  for (const StageStep& step : steps) sum += get(step);
  return sum / static_cast<double>(steps.size());
}

// What a rule sees in a trace.
struct Look {
  double value = std::numeric_limits<double>::quiet_NaN();
  double threshold = 0;
  bool holds = false;
  std::string inputs;
};

Look LengthLook(const CurriculumOptions& options, absl::Span<const StageStep> trace) {
  const size_t window = options.length_window;
  Look look;
  look.threshold = options.length_ratio;
  if (trace.size() < 2 * window) return look;
  const auto length = [](const StageStep& step) { return step.response_tokens_mean; };
  const double last = Mean(trace.last(window), length);
  const double before = Mean(trace.subspan(trace.size() - 2 * window, window), length);
  look.value = last / before;
  look.holds = last > options.length_ratio * before;
  look.inputs = absl::StrFormat(
      "%.1f tokens over the last %d steps, %.1f over the %d before (ratio %.3f > "
      "%.3f)",
      last, window, before, window, last / before, options.length_ratio);
  return look;
}

// The rise of the truncation ratio that stands out of the noise most, at any width.
struct Rise {
  bool fires = false;
  size_t width = 0;
  double lowest = 0;
  double last = 0;
  double threshold = 0;
};

Rise TruncationRise(const CurriculumOptions& options, absl::Span<const StageStep> trace) {
  Rise best;
  const size_t n = trace.size();
  double squares = 0;
  std::vector<double> sums(n + 1, 0.0);
  for (size_t i = 0; i < n; ++i) {
    sums[i + 1] = sums[i] + trace[i].truncation_ratio;
    if (i > 0) {
      squares += std::pow(trace[i].truncation_ratio - trace[i - 1].truncation_ratio, 2);
    }
  }
  if (n < 3) return best;
  const double sigma = std::sqrt(squares / static_cast<double>(n - 1) / 2);
  const double quantile = std::sqrt(2 * std::log(static_cast<double>(n) / kFalseAlarm));
  for (size_t width = options.truncation_window; 2 * width <= n; width *= 2) {
    const auto w = static_cast<double>(width);
    const double last = (sums[n] - sums[n - width]) / w;
    double lowest = 1;
    for (size_t end = width; end + width <= n; ++end) {
      lowest = std::min(lowest, (sums[end] - sums[end - width]) / w);
    }
    const double noise = 2 * sigma * quantile / std::sqrt(w);
    const double threshold = std::max(options.truncation_margin, noise);
    const bool fires = last - lowest >= threshold;
    const bool nearer = last - lowest - threshold > best.last - best.lowest - best.threshold;
    if (fires || best.width == 0 || nearer) best = {fires, width, lowest, last, threshold};
    if (fires) return best;
  }
  return best;
}

Look TruncationLook(const CurriculumOptions& options, absl::Span<const StageStep> trace) {
  const Rise rise = TruncationRise(options, trace);
  Look look;
  look.threshold = options.truncation_margin;
  if (rise.width == 0) return look;
  look.value = rise.last - rise.lowest;
  look.threshold = rise.threshold;
  look.holds = rise.fires;
  look.inputs =
      absl::StrFormat("%.4f over the last %d steps, %.4f at its lowest (rise %.4f >= %.4f)",
                      rise.last, rise.width, rise.lowest, look.value, rise.threshold);
  return look;
}

struct Slope {
  double value = 0;  // of the pass rate, per step
  double upper = 0;  // 95% bound
};

Slope PassRateSlope(absl::Span<const StageStep> window) {
  const auto n = static_cast<double>(window.size());
  const double x_mean = (n - 1) / 2;
  const double y_mean = Mean(window, [](const StageStep& step) { return step.pass_rate; });
  double sxx = 0;
  double sxy = 0;
  for (size_t i = 0; i < window.size(); ++i) {
    const double x = static_cast<double>(i) - x_mean;
    sxx += x * x;
    sxy += x * (window[i].pass_rate - y_mean);
  }
  Slope slope;
  slope.value = sxy / sxx;
  double residual = 0;
  for (size_t i = 0; i < window.size(); ++i) {
    const double fit = y_mean + slope.value * (static_cast<double>(i) - x_mean);
    residual += std::pow(window[i].pass_rate - fit, 2);
  }
  const double error = std::sqrt(residual / (n - 2) / sxx);
  slope.upper = slope.value + StudentQuantile(static_cast<int>(window.size()) - 2) * error;
  return slope;
}

Look PlateauLook(const CurriculumOptions& options, absl::Span<const StageStep> trace) {
  const size_t window = options.plateau_window;
  Look look;
  look.threshold = options.plateau_min_slope;
  if (window < 3 || trace.size() < window) return look;
  const Slope slope = PassRateSlope(trace.last(window));
  look.value = slope.upper;
  look.holds = slope.upper <= options.plateau_min_slope;
  look.inputs =
      absl::StrFormat("slope %+.5f a step over the last %d steps, 95%% bound %+.5f <= %.5f",
                      slope.value, window, slope.upper, options.plateau_min_slope);
  return look;
}

using LookFunction = Look (*)(const CurriculumOptions&, absl::Span<const StageStep>);

// The rule over the trace, and over the traces that ended up to confirm - 1 steps before.
RuleReading Read(CurriculumRule rule, bool enabled, int confirm, LookFunction look,
                 const CurriculumOptions& options, absl::Span<const StageStep> trace) {
  RuleReading reading;
  reading.rule = rule;
  reading.enabled = enabled;
  reading.confirm = confirm;
  reading.value = std::numeric_limits<double>::quiet_NaN();
  if (!enabled) return reading;
  Look now = look(options, trace);
  reading.value = now.value;
  reading.threshold = now.threshold;
  reading.inputs = std::move(now.inputs);
  if (!now.holds) return reading;
  reading.held = 1;
  while (reading.held < confirm && static_cast<size_t>(reading.held) < trace.size() &&
         look(options, trace.first(trace.size() - reading.held)).holds) {
    ++reading.held;
  }
  return reading;
}

const char* WhatHeld(CurriculumRule rule) {
  switch (rule) {
    case CurriculumRule::kLength:
      return "length: the mean response length has stopped falling: ";
    case CurriculumRule::kTruncation:
      return "truncation: the truncation ratio has bottomed out and risen: ";
    case CurriculumRule::kPlateau:
      return "plateau: the pass rate is flat: ";
    case CurriculumRule::kCap:
      break;
  }
  return "cap: ";
}

}  // namespace

const char* CurriculumRuleName(CurriculumRule rule) {
  switch (rule) {
    case CurriculumRule::kCap:
      return "cap";
    case CurriculumRule::kLength:
      return "length";
    case CurriculumRule::kTruncation:
      return "truncation";
    case CurriculumRule::kPlateau:
      return "plateau";
  }
  return "unknown";
}

std::vector<RuleReading> ReadRules(const CurriculumOptions& o, int stage, int64_t planned,
                                   absl::Span<const StageStep> trace) {
  std::vector<RuleReading> readings = {
      Read(CurriculumRule::kLength, o.length_rule, o.length_confirm, LengthLook, o, trace),
      Read(CurriculumRule::kTruncation, o.truncation_rule, o.truncation_confirm, TruncationLook, o,
           trace),
      Read(CurriculumRule::kPlateau, o.plateau_rule, o.plateau_confirm, PlateauLook, o, trace)};
  const auto index = static_cast<size_t>(stage);
  const int cap = index < o.max_steps.size() ? o.max_steps[index] : 0;
  RuleReading capped;
  capped.enabled = cap > 0;
  capped.value = static_cast<double>(planned);
  capped.threshold = cap;
  capped.held = capped.enabled && planned >= cap ? 1 : 0;
  capped.inputs = absl::StrFormat("%d steps of at most %d", planned, cap);
  readings.push_back(std::move(capped));
  return readings;
}

std::optional<StageDecision> DecideStageEnd(const CurriculumOptions& options, int stage, int stages,
                                            int64_t planned, absl::Span<const StageStep> trace) {
  if (stage + 1 >= stages) return std::nullopt;
  const auto index = static_cast<size_t>(stage);
  const bool own = index < options.stage_min_steps.size() && options.stage_min_steps[index] > 0;
  const int min_steps = own ? options.stage_min_steps[index] : options.min_steps;
  const bool early = trace.size() < static_cast<size_t>(std::max(1, min_steps));
  for (const RuleReading& reading : ReadRules(options, stage, planned, trace)) {
    const bool asked = reading.rule == CurriculumRule::kCap || !early;
    if (!asked || !reading.enabled || reading.held < reading.confirm) continue;
    return StageDecision{reading.rule, absl::StrCat(WhatHeld(reading.rule), reading.inputs)};
  }
  return std::nullopt;
}

}  // namespace crescendo
