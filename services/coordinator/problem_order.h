// Which problem a training group is about: one seeded permutation of the data set an epoch, so that
// every problem comes once an epoch and the order is a function of (seed, group id) alone.
//
// Thread rule: not thread-safe (it keeps the permutation of the last epoch asked for).
#ifndef CRESCENDO_SERVICES_COORDINATOR_PROBLEM_ORDER_H_
#define CRESCENDO_SERVICES_COORDINATOR_PROBLEM_ORDER_H_

#include <cstdint>
#include <vector>

#include "common/base/ids.h"

namespace crescendo {

class ProblemOrder {
 public:
  ProblemOrder(uint64_t seed, uint32_t problems) : seed_(seed), problems_(problems) {}

  // Requires at least one problem.
  uint32_t ProblemOf(GroupId group);
  uint64_t EpochOf(GroupId group) const { return group.value() / problems_; }

 private:
  uint64_t seed_;
  uint32_t problems_;
  bool ready_ = false;
  uint64_t epoch_ = 0;
  std::vector<uint32_t> permutation_;
};

// What training has shown about a problem so far.
struct ProblemStatistics {
  int64_t groups = 0;
  int64_t correct = 0;
  int64_t samples = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_PROBLEM_ORDER_H_
