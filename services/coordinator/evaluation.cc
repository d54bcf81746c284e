#include "services/coordinator/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"

namespace crescendo {

namespace {

// Draws of the bootstrap in all: it bounds the time that a round's end takes (some 50 ms).
constexpr int64_t kBootstrapDrawsMax = 4'000'000;
constexpr int kResamplesMax = 2000;
constexpr int kResamplesMin = 200;
constexpr uint64_t kBootstrapStream = 0x626f6f74;  // "boot"

double Rate(const EvaluationOutcomeRow& outcome) {
  return outcome.samples == 0 ? 0.0 : static_cast<double>(outcome.correct) / outcome.samples;
}

}  // namespace

PassAtOne EvaluatePassAtOne(absl::Span<const EvaluationOutcomeRow> outcomes, uint64_t seed) {
  if (outcomes.empty()) return {};
  std::vector<double> rates;
  rates.reserve(outcomes.size());
  double sum = 0;
  for (const EvaluationOutcomeRow& outcome : outcomes) {
    rates.push_back(Rate(outcome));
    sum += rates.back();
  }
  const auto n = static_cast<int64_t>(rates.size());
  const int resamples =
      static_cast<int>(std::clamp<int64_t>(kBootstrapDrawsMax / n, kResamplesMin, kResamplesMax));
  CounterRng rng(seed, kBootstrapStream);
  std::vector<double> means;
  means.reserve(resamples);
  for (int r = 0; r < resamples; ++r) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += rates[rng.Below(n)];
    means.push_back(total / static_cast<double>(n));
  }
  std::sort(means.begin(), means.end());
  const int tail = static_cast<int>(std::lround(0.025 * resamples));
  PassAtOne out;
  out.mean = sum / static_cast<double>(n);
  out.ci95_low = means[tail];
  out.ci95_high = means[resamples - 1 - tail];
  return out;
}

double EvaluatePassAtK(absl::Span<const EvaluationOutcomeRow> outcomes, int k) {
  if (outcomes.empty() || k < 1) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (const EvaluationOutcomeRow& outcome : outcomes) {
    const int n = outcome.samples;
    const int wrong = n - outcome.correct;
    if (k > n) return std::numeric_limits<double>::quiet_NaN();
    // C(n - c, k) / C(n, k) = prod_{i = n - c + 1}^{n} (1 - k / i)
    double all_wrong = wrong < k ? 0.0 : 1.0;
    for (int i = wrong + 1; i <= n && all_wrong > 0; ++i)
      all_wrong *= 1.0 - static_cast<double>(k) / i;
    sum += 1.0 - all_wrong;
  }
  return sum / static_cast<double>(outcomes.size());
}

EvaluationRow SummarizeRound(absl::Span<const EvaluationOutcomeRow> outcomes, uint64_t seed) {
  EvaluationRow row;
  row.problems = static_cast<int>(outcomes.size());
  int64_t samples = 0;
  int64_t truncated = 0;
  for (const EvaluationOutcomeRow& outcome : outcomes) {
    samples += outcome.samples;
    truncated += outcome.truncated;
    row.generated_tokens += outcome.tokens;
    row.samples = std::max(row.samples, outcome.samples);
  }
  const PassAtOne pass = EvaluatePassAtOne(outcomes, seed);
  row.pass_at_1 = pass.mean;
  row.ci95_low = pass.ci95_low;
  row.ci95_high = pass.ci95_high;
  if (samples > 0) {
    row.mean_tokens = static_cast<double>(row.generated_tokens) / static_cast<double>(samples);
    row.truncation_ratio = static_cast<double>(truncated) / static_cast<double>(samples);
  }
  return row;
}

absl::StatusOr<EvaluationOutcomeRow> ToOutcome(GroupId group, uint32_t problem, int samples,
                                               absl::Span<const SampleResult> results) {
  EvaluationOutcomeRow row;
  row.group = group;
  row.problem = problem;
  row.samples = samples;
  if (results.size() != static_cast<size_t>(samples)) {
    return absl::InvalidArgumentError(
        absl::StrCat("CompleteGroup: results of evaluation group ", group.value(), ": expected ",
                     samples, ", one for each sample, found ", results.size()));
  }
  std::vector<bool> seen(samples, false);
  for (const SampleResult& result : results) {
    if (result.sample >= seen.size() || seen[result.sample]) {
      return absl::InvalidArgumentError(absl::StrCat(
          "CompleteGroup: results of evaluation group ", group.value(), ": sample ", result.sample,
          result.sample >= seen.size() ? " is out of range" : " comes twice"));
    }
    if (result.verdict == Verdict::kUnspecified) {
      return absl::InvalidArgumentError(absl::StrCat("CompleteGroup: results of evaluation group ",
                                                     group.value(), ": sample ", result.sample,
                                                     " has no verdict"));
    }
    seen[result.sample] = true;
    row.correct += result.verdict == Verdict::kCorrect ? 1 : 0;
    row.undecided += result.verdict == Verdict::kUndecided ? 1 : 0;
    row.truncated += result.truncated ? 1 : 0;
    row.tokens += result.tokens;
  }
  return row;
}

}  // namespace crescendo
