// Advantages of one group's samples from their rewards.
//
//   grpo     A(i) = (r(i) - mean) / (std + 1e-6), std unbiased    Shao et al. 2024
//            (arXiv:2402.03300), section 4.1.2
//   dr_grpo  A(i) = r(i) - mean               Liu et al. 2025 (arXiv:2503.20783), section 3.2
//   rloo     A(i) = r(i) - mean of the others        Ahmadian et al. 2024 (arXiv:2402.14740), eq. 8
//
// Undecided samples are masked: they count neither in the mean nor in the deviation, and have no
// advantage. What else makes a reward, before the advantages:
//
//   overlong   truncated samples as graded, as incorrect ones (DeepScaleR), masked (DAPO's overlong
//              filtering, Yu et al. 2025, arXiv:2503.14476, section 3.4), or DAPO's soft
//              punishment (eq. 13) of every long one
//   KL         r(i) - beta KL(i), KL(i) the sum over the sample's tokens: Ziegler et al. 2019
//              (arXiv:1909.08593), eq. 2
//
// Pure; thread-safe.
#ifndef CRESCENDO_SERVICES_LEARNER_ADVANTAGE_H_
#define CRESCENDO_SERVICES_LEARNER_ADVANTAGE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/ids.h"
#include "services/learner/experience.h"

namespace crescendo {

enum class AdvantageKind { kGrpo, kDrGrpo, kRloo };

// "grpo", "dr_grpo", "rloo"; INVALID_ARGUMENT names the others.
absl::StatusOr<AdvantageKind> ParseAdvantageKind(absl::string_view name);

struct GroupAdvantages {
  std::vector<double> advantages;  // one a sample; 0 where masked
  std::vector<bool> masked;        // undecided, or truncated where that is asked for
  // All decided rewards are equal before any KL (or there are none): nothing to learn.
  bool zero_variance = false;
};

// `rewards` and `masked` are equally long.
GroupAdvantages ComputeAdvantages(AdvantageKind kind, const std::vector<double>& rewards,
                                  const std::vector<bool>& masked);

enum class Overlong {
  kGraded,  // as the verdict says
  kZero,    // truncated: the reward of an incorrect answer, whatever the verdict
  kMask,    // truncated: masked like undecided ones
  kSoft,    // with L tokens of a limit M and a buffer B: 0 up to M - B, from there (M - B - L) / B
            // is added to the reward, which is -1 for a truncated sample
};

// "graded", "zero", "mask", "soft"; INVALID_ARGUMENT names the others.
absl::StatusOr<Overlong> ParseOverlong(absl::string_view name);

// Of a closed group's samples. With `random_reward` every reward is replaced by a coin of
// (seed, group, sample): the control that must not learn.
struct RewardOptions {
  AdvantageKind kind = AdvantageKind::kGrpo;
  bool random_reward = false;
  Overlong overlong = Overlong::kGraded;
  int overlong_buffer = 0;      // tokens, above 0 with kSoft
  double incorrect_reward = 0;  // what kZero gives
  uint64_t seed = 0;
};
// `penalties`, when not empty, has one entry a sample, taken off its reward.
GroupAdvantages ComputeAdvantages(const RewardOptions& options, const GroupExperience& group,
                                  absl::Span<const double> penalties = {});

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_ADVANTAGE_H_
