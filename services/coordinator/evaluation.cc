#include "services/coordinator/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
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

// The mean with the percentile interval of its bootstrap.
PassAtOne BootstrapMean(const std::vector<double>& values, uint64_t seed) {
  if (values.empty()) return {};
  double sum = 0;
  for (const double value : values) sum += value;
  const auto n = static_cast<int64_t>(values.size());
  const int resamples =
      static_cast<int>(std::clamp<int64_t>(kBootstrapDrawsMax / n, kResamplesMin, kResamplesMax));
  CounterRng rng(seed, kBootstrapStream);
  std::vector<double> means;
  means.reserve(resamples);
  for (int r = 0; r < resamples; ++r) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += values[rng.Below(n)];
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

// Originals with variants, and what they come to against them.
void SummarizeVariants(absl::Span<const EvaluationOutcomeRow> outcomes,
                       absl::Span<const int64_t> variant_of, uint64_t seed, EvaluationRow* row) {
  std::map<int64_t, double> rate_of;  // by problem
  for (const EvaluationOutcomeRow& outcome : outcomes) rate_of[outcome.problem] = Rate(outcome);
  std::map<int64_t, std::vector<double>> variants;  // by original
  for (const EvaluationOutcomeRow& outcome : outcomes) {
    if (outcome.problem >= variant_of.size()) continue;
    const int64_t original = variant_of[outcome.problem];
    if (rate_of.count(original) > 0) variants[original].push_back(Rate(outcome));
  }
  if (variants.empty()) return;
  std::vector<double> drops;
  for (const auto& [original, rates] : variants) {
    double mean = 0;
    for (const double rate : rates) mean += rate / static_cast<double>(rates.size());
    row->variants += static_cast<int>(rates.size());
    row->original_pass_at_1 += rate_of[original];
    row->variant_pass_at_1 += mean;
    drops.push_back(rate_of[original] - mean);
  }
  const auto originals = static_cast<double>(variants.size());
  row->originals = static_cast<int>(variants.size());
  row->original_pass_at_1 /= originals;
  row->variant_pass_at_1 /= originals;
  const PassAtOne drop = BootstrapMean(drops, seed);
  row->drop_low = drop.ci95_low;
  row->drop_high = drop.ci95_high;
}

}  // namespace

PassAtOne EvaluatePassAtOne(absl::Span<const EvaluationOutcomeRow> outcomes, uint64_t seed) {
  std::vector<double> rates;
  rates.reserve(outcomes.size());
  for (const EvaluationOutcomeRow& outcome : outcomes) rates.push_back(Rate(outcome));
  return BootstrapMean(rates, seed);
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

std::string PassAtKText(absl::Span<const EvaluationOutcomeRow> outcomes) {
  int samples = 0;
  for (const EvaluationOutcomeRow& outcome : outcomes) samples = std::max(samples, outcome.samples);
  std::string out;
  for (int k = 1; samples > 0; k = std::min(2 * k, samples)) {
    absl::StrAppendFormat(&out, "%s%d:%.17g", out.empty() ? "" : ",", k,
                          EvaluatePassAtK(outcomes, k));
    if (k == samples) break;
  }
  return out;
}

std::vector<std::pair<int, double>> ParsePassAtK(absl::string_view text) {
  std::vector<std::pair<int, double>> out;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> fields = absl::StrSplit(part, ':');
    int k = 0;
    double value = 0;
    if (absl::SimpleAtoi(fields.first, &k) && absl::SimpleAtod(fields.second, &value)) {
      out.emplace_back(k, value);
    }
  }
  return out;
}

std::string VoteOf(absl::string_view extracted) {
  std::string out;
  while (!extracted.empty()) {
    if (absl::ConsumePrefix(&extracted, "\\left") || absl::ConsumePrefix(&extracted, "\\right") ||
        absl::ConsumePrefix(&extracted, "\\!") || absl::ConsumePrefix(&extracted, "\\,")) {
      continue;
    }
    if (absl::ConsumePrefix(&extracted, "\\dfrac") || absl::ConsumePrefix(&extracted, "\\tfrac")) {
      out += "\\frac";
      continue;
    }
    const char c = extracted.front();
    extracted.remove_prefix(1);
    if (c != '$' && !absl::ascii_isspace(static_cast<unsigned char>(c))) out.push_back(c);
  }
  while (absl::EndsWith(out, ".")) out.pop_back();
  return out;
}

double MajorityOf(absl::Span<const SampleResult> results) {
  int right = 0;
  std::map<std::string, int> others;
  for (const SampleResult& result : results) {
    if (result.verdict == Verdict::kCorrect) {
      ++right;
    } else if (std::string vote = VoteOf(result.extracted); !vote.empty()) {
      ++others[std::move(vote)];
    }
  }
  if (right == 0) return 0;
  int winners = 1;
  for (const auto& [vote, count] : others) {
    if (count > right) return 0;
    winners += count == right ? 1 : 0;
  }
  return 1.0 / winners;
}

EvaluationRow SummarizeSet(absl::Span<const EvaluationOutcomeRow> outcomes,
                           absl::Span<const int64_t> variant_of, uint64_t seed) {
  EvaluationRow row;
  row.problems = static_cast<int>(outcomes.size());
  int64_t samples = 0;
  int64_t truncated = 0;
  int64_t undecided = 0;
  for (const EvaluationOutcomeRow& outcome : outcomes) {
    samples += outcome.samples;
    truncated += outcome.truncated;
    undecided += outcome.undecided;
    row.generated_tokens += outcome.tokens;
    row.samples = std::max(row.samples, outcome.samples);
    row.majority += outcome.majority / static_cast<double>(outcomes.size());
  }
  const PassAtOne pass = EvaluatePassAtOne(outcomes, seed);
  row.pass_at_1 = pass.mean;
  row.ci95_low = pass.ci95_low;
  row.ci95_high = pass.ci95_high;
  row.pass_at_k = PassAtKText(outcomes);
  if (samples > 0) {
    const auto all = static_cast<double>(samples);
    row.mean_tokens = static_cast<double>(row.generated_tokens) / all;
    row.truncation_ratio = static_cast<double>(truncated) / all;
    row.undecided_ratio = static_cast<double>(undecided) / all;
  }
  SummarizeVariants(outcomes, variant_of, seed, &row);
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
  row.majority = MajorityOf(results);
  return row;
}

}  // namespace crescendo
