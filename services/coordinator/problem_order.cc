#include "services/coordinator/problem_order.h"

#include <numeric>

#include "common/base/rng.h"
#include "common/base/status_macros.h"

namespace crescendo {

namespace {
constexpr uint64_t kOrderStream = 0x6f72646572;  // "order"
}  // namespace

uint32_t ProblemOrder::ProblemOf(GroupId group) {
  CRESCENDO_CHECK(problems_ > 0);
  const uint64_t epoch = EpochOf(group);
  if (!ready_ || epoch != epoch_) {
    permutation_.resize(problems_);
    std::iota(permutation_.begin(), permutation_.end(), 0);
    CounterRng rng(MixSeed(seed_, epoch), kOrderStream);
    rng.Shuffle(permutation_);
    epoch_ = epoch;
    ready_ = true;
  }
  return permutation_[group.value() % problems_];
}

}  // namespace crescendo
