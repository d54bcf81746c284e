#include "services/learner/advantage.h"

#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"

namespace crescendo {

namespace {

constexpr double kStdEpsilon = 1e-6;

}  // namespace

absl::StatusOr<AdvantageKind> ParseAdvantageKind(absl::string_view name) {
  if (name == "grpo") return AdvantageKind::kGrpo;
  if (name == "dr_grpo") return AdvantageKind::kDrGrpo;
  if (name == "rloo") return AdvantageKind::kRloo;
  return absl::InvalidArgumentError(
      absl::StrCat("objective.advantage: expected grpo, dr_grpo or rloo, found \"", name, "\""));
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

GroupAdvantages ComputeAdvantages(const RewardOptions& options, const GroupExperience& group) {
  std::vector<double> rewards;
  std::vector<bool> masked;
  CounterRng coin(MixSeed(options.seed, group.group.value()), /*stream=*/1);
  for (const SampleExperience& sample : group.samples) {
    const double draw = coin.Uniform();
    rewards.push_back(options.random_reward ? (draw < 0.5 ? 0.0 : 1.0) : sample.reward);
    masked.push_back(sample.verdict == Verdict::kUndecided ||
                     (options.mask_truncated && sample.finish == FinishReason::kTruncated));
  }
  return ComputeAdvantages(options.kind, rewards, masked);
}

}  // namespace crescendo
