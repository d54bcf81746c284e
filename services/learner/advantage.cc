#include "services/learner/advantage.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"

namespace crescendo {

namespace {

constexpr double kStdEpsilon = 1e-6;

// DAPO, eq. 13.
double SoftPunishment(int buffer, int limit, const SampleExperience& sample) {
  CRESCENDO_CHECK(buffer > 0);
  const double over = static_cast<double>(sample.tokens.size()) - (limit - buffer);
  return over <= 0 ? 0 : -std::min(1.0, over / buffer);
}

}  // namespace

absl::StatusOr<AdvantageKind> ParseAdvantageKind(absl::string_view name) {
  if (name == "grpo") return AdvantageKind::kGrpo;
  if (name == "dr_grpo") return AdvantageKind::kDrGrpo;
  if (name == "rloo") return AdvantageKind::kRloo;
  return absl::InvalidArgumentError(
      absl::StrCat("objective.advantage: expected grpo, dr_grpo or rloo, found \"", name, "\""));
}

absl::StatusOr<Overlong> ParseOverlong(absl::string_view name) {
  if (name == "graded") return Overlong::kGraded;
  if (name == "zero") return Overlong::kZero;
  if (name == "mask") return Overlong::kMask;
  if (name == "soft") return Overlong::kSoft;
  return absl::InvalidArgumentError(absl::StrCat(
      "objective.overlong: expected graded, zero, mask or soft, found \"", name, "\""));
}

GroupAdvantages ComputeAdvantages(AdvantageKind kind, const std::vector<double>& rewards,
                                  const std::vector<bool>& masked) {
  CRESCENDO_CHECK(rewards.size() == masked.size());
  GroupAdvantages out;
  out.advantages.assign(rewards.size(), 0);
  out.masked = masked;
  size_t decided = 0;
  double sum = 0;
  bool equal = true;
  double first = 0;
  for (size_t i = 0; i < rewards.size(); ++i) {
    if (masked[i]) continue;
    if (decided == 0) first = rewards[i];
    equal = equal && rewards[i] == first;
    sum += rewards[i];
    ++decided;
  }
  // Exactly equal rewards have an advantage of exactly 0, whatever the rounding of their mean.
  out.zero_variance = decided < 2 || equal;
  if (out.zero_variance) return out;
  const double n = static_cast<double>(decided);
  const double mean = sum / n;
  double squares = 0;
  for (size_t i = 0; i < rewards.size(); ++i) {
    if (!masked[i]) squares += (rewards[i] - mean) * (rewards[i] - mean);
  }
  double scale = 1;
  if (kind == AdvantageKind::kGrpo) scale = 1 / (std::sqrt(squares / (n - 1)) + kStdEpsilon);
  // r - (sum - r) / (n - 1) = (r - mean) n / (n - 1)
  if (kind == AdvantageKind::kRloo) scale = n / (n - 1);
  for (size_t i = 0; i < rewards.size(); ++i) {
    if (!masked[i]) out.advantages[i] = (rewards[i] - mean) * scale;
  }
  return out;
}

GroupAdvantages ComputeAdvantages(const RewardOptions& options, const GroupExperience& group,
                                  absl::Span<const double> penalties) {
  CRESCENDO_CHECK(penalties.empty() || penalties.size() == group.samples.size());
  std::vector<double> rewards;
  std::vector<bool> masked;
  CounterRng coin(MixSeed(options.seed, group.group.value()), /*stream=*/1);
  for (const SampleExperience& sample : group.samples) {
    const double draw = coin.Uniform();
    double reward = options.random_reward ? (draw < 0.5 ? 0.0 : 1.0) : sample.reward;
    bool mask = sample.verdict == Verdict::kUndecided;
    if (sample.finish == FinishReason::kTruncated) {
      if (options.overlong == Overlong::kMask) mask = true;
      if (options.overlong == Overlong::kZero) {
        reward = options.incorrect_reward;
        mask = false;  // the score does not hang on the verdict
      }
    }
    if (options.overlong == Overlong::kSoft) {
      reward += SoftPunishment(options.overlong_buffer, group.header.context_tokens, sample);
    }
    rewards.push_back(reward);
    masked.push_back(mask);
  }
  GroupAdvantages plain = ComputeAdvantages(options.kind, rewards, masked);
  if (penalties.empty()) return plain;
  for (size_t i = 0; i < rewards.size(); ++i) rewards[i] -= penalties[i];
  GroupAdvantages out = ComputeAdvantages(options.kind, rewards, masked);
  out.zero_variance = plain.zero_variance;
  return out;
}

}  // namespace crescendo
