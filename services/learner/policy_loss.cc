#include "services/learner/policy_loss.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

// exp(20) is far beyond any clip, and its square still a float.
constexpr double kLogRatioMax = 20;

// NaN stays NaN.
double LogRatio(float numerator, float denominator) {
  const double ratio = static_cast<double>(numerator) - static_cast<double>(denominator);
  return ratio > kLogRatioMax ? kLogRatioMax : ratio < -kLogRatioMax ? -kLogRatioMax : ratio;
}

struct Term {
  double value = 0;
  double slope = 0;  // d value / d log_prob of the token (kSequence: d value / d log of the mean)
};

enum class Cut { kNone, kLow, kHigh };

// -min(r A, clip(r) A), dual-clipped, as a function of log r.
Term Surrogate(double log_ratio, double advantage, const PolicyLossOptions& options, Cut& cut) {
  const double ratio = std::exp(log_ratio);
  const double clipped = std::clamp(ratio, 1 - options.clip_low, 1 + options.clip_high);
  cut = Cut::kNone;
  Term term{-ratio * advantage, -ratio * advantage};
  if (-clipped * advantage > term.value) {
    term = {-clipped * advantage, 0};
    cut = ratio < clipped ? Cut::kLow : Cut::kHigh;
  }
  if (options.dual_clip > 0 && advantage < 0 && term.value > -options.dual_clip * advantage) {
    term = {-options.dual_clip * advantage, 0};
    cut = Cut::kHigh;
  }
  return term;
}

// -clip(r) A log_prob with the clipped ratio held fixed.
Term Cispo(double log_ratio, double log_prob, double advantage, const PolicyLossOptions& options,
           Cut& cut) {
  const double ratio = std::exp(log_ratio);
  const double clipped = std::clamp(ratio, 1 - options.clip_low, 1 + options.clip_high);
  cut = ratio < clipped ? Cut::kLow : ratio > clipped ? Cut::kHigh : Cut::kNone;
  return {-clipped * advantage * log_prob, -clipped * advantage};
}

Term KlTerm(double d, KlEstimator estimator) {
  switch (estimator) {
    case KlEstimator::kK1:
      return {-d, 1};
    case KlEstimator::kK2:
      return {d * d / 2, -d};
    case KlEstimator::kK3:
      break;
  }
  return {std::exp(d) - 1 - d, 1 - std::exp(d)};
}

void CountCut(Cut cut, int64_t tokens, PolicyLossStats& stats) {
  if (cut == Cut::kLow) stats.clipped_low += tokens;
  if (cut == Cut::kHigh) stats.clipped_high += tokens;
}

// Mean of the sample's log-ratios: the log of GSPO's s(theta), eq. 7.
double MeanLogRatio(const PolicyLossInput& input, const LossSample& sample) {
  double sum = 0;
  for (size_t t = sample.begin; t < sample.end; ++t) {
    sum += LogRatio(input.log_probs[t], input.old_log_probs[t]);
  }
  return sum / static_cast<double>(sample.end - sample.begin);
}

double ImportanceWeight(const PolicyLossInput& input, const PolicyLossOptions& options, size_t t,
                        PolicyLossStats& stats) {
  if (options.off_policy == OffPolicy::kNone || input.behavior_log_probs.empty()) return 1;
  const double weight = std::exp(LogRatio(input.old_log_probs[t], input.behavior_log_probs[t]));
  if (options.importance_cap <= 0 || weight <= options.importance_cap) return weight;
  ++stats.truncated_weights;
  return options.off_policy == OffPolicy::kTruncated ? options.importance_cap : 0;
}

void AddSample(const PolicyLossInput& input, const PolicyLossOptions& options,
               const LossSample& sample, PolicyLossResult& result) {
  PolicyLossStats& stats = result.stats;
  const bool by_sequence = options.ratio == RatioKind::kSequence;
  const double tokens = static_cast<double>(sample.end - sample.begin);
  Cut cut = Cut::kNone;
  Term of_sequence;
  double mean_slope = 0;  // GSPO: the weighted terms' slope is shared by all tokens of the sample
  if (by_sequence) {
    of_sequence = Surrogate(MeanLogRatio(input, sample), sample.advantage, options, cut);
    CountCut(cut, static_cast<int64_t>(sample.end - sample.begin), stats);
  }
  for (size_t t = sample.begin; t < sample.end; ++t) {
    const double log_ratio = LogRatio(input.log_probs[t], input.old_log_probs[t]);
    Term term = of_sequence;
    if (options.ratio == RatioKind::kToken) {
      term = Surrogate(log_ratio, sample.advantage, options, cut);
      CountCut(cut, 1, stats);
    } else if (options.ratio == RatioKind::kCispo) {
      term = Cispo(log_ratio, input.log_probs[t], sample.advantage, options, cut);
      CountCut(cut, 1, stats);
    }
    const double weight = ImportanceWeight(input, options, t, stats);
    stats.ratio_max = std::max(stats.ratio_max, std::exp(log_ratio));
    double value = weight * term.value;
    double slope = by_sequence ? 0 : weight * term.slope;
    mean_slope += by_sequence ? weight * term.slope / tokens : 0;
    if (!input.reference_log_probs.empty()) {
      const Term kl =
          KlTerm(LogRatio(input.reference_log_probs[t], input.log_probs[t]), options.kl_estimator);
      stats.kl_sum += kl.value;
      value += options.kl_coefficient * kl.value;
      slope += options.kl_coefficient * kl.slope;
    }
    if (!result.entropy_gradient.empty()) {
      value -= options.entropy_coefficient * static_cast<double>(input.entropies[t]);
      result.entropy_gradient[t] =
          static_cast<float>(-sample.token_weight * options.entropy_coefficient);
    }
    stats.loss += sample.token_weight * value;
    result.gradient[t] = static_cast<float>(sample.token_weight * slope);
  }
  if (by_sequence) {
    for (size_t t = sample.begin; t < sample.end; ++t) {
      result.gradient[t] += static_cast<float>(sample.token_weight * mean_slope);
    }
  }
  stats.tokens += static_cast<int64_t>(sample.end - sample.begin);
}

}  // namespace

absl::StatusOr<RatioKind> ParseRatioKind(absl::string_view name) {
  if (name == "token") return RatioKind::kToken;
  if (name == "sequence") return RatioKind::kSequence;
  if (name == "cispo") return RatioKind::kCispo;
  return absl::InvalidArgumentError(
      absl::StrCat("objective.ratio: expected token, sequence or cispo, found \"", name, "\""));
}

absl::StatusOr<KlEstimator> ParseKlEstimator(absl::string_view name) {
  if (name == "k1") return KlEstimator::kK1;
  if (name == "k2") return KlEstimator::kK2;
  if (name == "k3") return KlEstimator::kK3;
  return absl::InvalidArgumentError(
      absl::StrCat("objective.kl_estimator: expected k1, k2 or k3, found \"", name, "\""));
}

absl::StatusOr<OffPolicy> ParseOffPolicy(absl::string_view name) {
  if (name == "none") return OffPolicy::kNone;
  if (name == "truncated") return OffPolicy::kTruncated;
  if (name == "decoupled") return OffPolicy::kDecoupled;
  return absl::InvalidArgumentError(absl::StrCat(
      "objective.off_policy: expected none, truncated or decoupled, found \"", name, "\""));
}

void PolicyLossStats::Add(const PolicyLossStats& other) {
  loss += other.loss;
  kl_sum += other.kl_sum;
  ratio_max = std::max(ratio_max, other.ratio_max);
  tokens += other.tokens;
  clipped_low += other.clipped_low;
  clipped_high += other.clipped_high;
  truncated_weights += other.truncated_weights;
}

double KlEstimate(float reference, float policy, KlEstimator estimator) {
  return KlTerm(LogRatio(reference, policy), estimator).value;
}

PolicyLossResult PolicyLoss(const PolicyLossInput& input, const PolicyLossOptions& options) {
  const size_t tokens = input.log_probs.size();
  CRESCENDO_CHECK(input.old_log_probs.size() == tokens);
  CRESCENDO_CHECK(input.behavior_log_probs.empty() || input.behavior_log_probs.size() == tokens);
  CRESCENDO_CHECK(input.reference_log_probs.empty() || input.reference_log_probs.size() == tokens);
  PolicyLossResult result;
  result.gradient.assign(tokens, 0.0f);
  if (options.entropy_coefficient != 0 && !input.entropies.empty()) {
    CRESCENDO_CHECK(input.entropies.size() == tokens);
    result.entropy_gradient.assign(tokens, 0.0f);
  }
  for (const LossSample& sample : input.samples) {
    CRESCENDO_CHECK(sample.begin <= sample.end && sample.end <= tokens);
    if (sample.token_weight == 0 || sample.begin == sample.end) continue;
    AddSample(input, options, sample, result);
  }
  return result;
}

PolicyLossResult PolicyLossOfPart(const PolicyLossInput& input, const PolicyLossOptions& options,
                                  size_t begin, size_t end) {
  CRESCENDO_CHECK(options.ratio != RatioKind::kSequence && begin <= end);
  const auto part_of = [&](absl::Span<const float> span) {
    return span.empty() ? span : span.subspan(begin, end - begin);
  };
  std::vector<LossSample> samples;
  for (LossSample sample : input.samples) {
    if (sample.end <= begin || sample.begin >= end) continue;
    sample.begin = std::max(sample.begin, begin) - begin;
    sample.end = std::min(sample.end, end) - begin;
    samples.push_back(sample);
  }
  PolicyLossInput part;
  part.log_probs = input.log_probs;
  part.entropies = input.entropies;
  part.old_log_probs = part_of(input.old_log_probs);
  part.behavior_log_probs = part_of(input.behavior_log_probs);
  part.reference_log_probs = part_of(input.reference_log_probs);
  part.samples = samples;
  return PolicyLoss(part, options);
}

}  // namespace crescendo
