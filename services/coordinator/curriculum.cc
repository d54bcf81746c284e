#include "services/coordinator/curriculum.h"

#include <algorithm>
#include <array>
#include <cmath>

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

std::optional<StageDecision> LengthRule(const CurriculumOptions& options,
                                        absl::Span<const StageStep> trace) {
  const size_t window = options.length_window;
  if (trace.size() < 2 * window) return std::nullopt;
  const auto length = [](const StageStep& step) { return step.response_tokens_mean; };
  const double last = Mean(trace.last(window), length);
  const double before = Mean(trace.subspan(trace.size() - 2 * window, window), length);
  if (!(last > options.length_ratio * before)) return std::nullopt;
  return StageDecision{
      CurriculumRule::kLength,
      absl::StrFormat("length: the mean response length has stopped falling: %.1f tokens over the "
                      "last %d steps, %.1f over the %d before (ratio %.3f > %.3f)",
                      last, window, before, window, last / before, options.length_ratio)};
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
    if (last - lowest >= threshold) return {true, width, lowest, last, threshold};
  }
  return best;
}

std::optional<StageDecision> TruncationRule(const CurriculumOptions& options,
                                            absl::Span<const StageStep> trace) {
  const Rise rise = TruncationRise(options, trace);
  if (!rise.fires || !TruncationRise(options, trace.first(trace.size() - 1)).fires) {
    return std::nullopt;
  }
  return StageDecision{
      CurriculumRule::kTruncation,
      absl::StrFormat("truncation: the truncation ratio has bottomed out and risen: %.4f over the "
                      "last %d steps, %.4f at its lowest (rise %.4f >= %.4f)",
                      rise.last, rise.width, rise.lowest, rise.last - rise.lowest, rise.threshold)};
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

std::optional<StageDecision> PlateauRule(const CurriculumOptions& options,
                                         absl::Span<const StageStep> trace) {
  const size_t window = options.plateau_window;
  if (window < 3 || trace.size() < window + 1) return std::nullopt;
  const Slope slope = PassRateSlope(trace.last(window));
  const Slope before = PassRateSlope(trace.subspan(trace.size() - window - 1, window));
  if (!(slope.upper <= options.plateau_min_slope && before.upper <= options.plateau_min_slope)) {
    return std::nullopt;
  }
  return StageDecision{
      CurriculumRule::kPlateau,
      absl::StrFormat("plateau: the pass rate is flat: slope %+.5f a step over the last %d steps, "
                      "95%% bound %+.5f <= %.5f",
                      slope.value, window, slope.upper, options.plateau_min_slope)};
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

std::optional<StageDecision> DecideStageEnd(const CurriculumOptions& options, int stage, int stages,
                                            int64_t planned, absl::Span<const StageStep> trace) {
  if (stage + 1 >= stages) return std::nullopt;
  if (trace.size() >= static_cast<size_t>(std::max(1, options.min_steps))) {
    std::optional<StageDecision> decision;
    if (options.length_rule) decision = LengthRule(options, trace);
    if (!decision && options.truncation_rule) decision = TruncationRule(options, trace);
    if (!decision && options.plateau_rule) decision = PlateauRule(options, trace);
    if (decision) return decision;
  }
  const int cap =
      static_cast<size_t>(stage) < options.max_steps.size() ? options.max_steps[stage] : 0;
  if (cap <= 0 || planned < cap) return std::nullopt;
  return StageDecision{CurriculumRule::kCap,
                       absl::StrFormat("cap: %d steps of at most %d", planned, cap)};
}

}  // namespace crescendo
