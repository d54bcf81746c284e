// Advantages of one group's samples from their rewards.
//
//   grpo     A(i) = (r(i) - mean) / (std + 1e-6), std unbiased    Shao et al. 2024
//            (arXiv:2402.03300), section 4.1.2
//   dr_grpo  A(i) = r(i) - mean               Liu et al. 2025 (arXiv:2503.20783), section 3.2
//   rloo     A(i) = r(i) - mean of the others        Ahmadian et al. 2024 (arXiv:2402.14740), eq. 8
//
// Undecided samples are masked: they count neither in the mean nor in the deviation, and have no
// advantage. Pure; thread-safe.
#ifndef CRESCENDO_SERVICES_LEARNER_ADVANTAGE_H_
#define CRESCENDO_SERVICES_LEARNER_ADVANTAGE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/ids.h"
#include "services/learner/experience.h"

namespace crescendo {

enum class AdvantageKind { kGrpo, kDrGrpo, kRloo };

// "grpo", "dr_grpo", "rloo"; INVALID_ARGUMENT names the others.
absl::StatusOr<AdvantageKind> ParseAdvantageKind(absl::string_view name);

struct GroupAdvantages {
  std::vector<double> advantages;  // one a sample; 0 where masked
  std::vector<bool> masked;        // undecided, or truncated where that is asked for
  bool zero_variance =
      false;  // all decided rewards are equal (or there are none): nothing to learn
};

// `rewards` and `masked` are equally long.
GroupAdvantages ComputeAdvantages(AdvantageKind kind, const std::vector<double>& rewards,
                                  const std::vector<bool>& masked);

// Of a closed group's samples. With `random_reward` every reward is replaced by a coin of
// (seed, group, sample): the control that must not learn.
struct RewardOptions {
  AdvantageKind kind = AdvantageKind::kGrpo;
  bool random_reward = false;
  // Truncated samples are masked like undecided ones (DAPO's overlong filtering, Yu et al. 2025,
  // arXiv:2503.14476, section 3.4), instead of scored.
  bool mask_truncated = false;
  uint64_t seed = 0;
};
GroupAdvantages ComputeAdvantages(const RewardOptions& options, const GroupExperience& group);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_ADVANTAGE_H_
