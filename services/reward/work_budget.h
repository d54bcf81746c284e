// Work counted in operations, so that a verdict never depends on the machine or its load.
//
// One unit is about one node of an expression handled with numbers of one machine word (some 10
// ns). Thread-compatible.
#ifndef CRESCENDO_SERVICES_REWARD_WORK_BUDGET_H_
#define CRESCENDO_SERVICES_REWARD_WORK_BUDGET_H_

#include <cstdint>

namespace crescendo {

// What one answer may cost. The bench prints what the dearest inputs take in time; 20 ms is the
// promise.
inline constexpr int64_t kAnswerOperationsMax = 400'000;

class WorkBudget {
 public:
  explicit WorkBudget(int64_t operations_max = kAnswerOperationsMax) : left_(operations_max) {}

  // False once more was asked for than there was; stays false then.
  bool Charge(int64_t operations) {
    used_ += operations;
    left_ -= operations;
    return left_ >= 0;
  }
  bool spent() const { return left_ < 0; }
  int64_t used() const { return used_; }

 private:
  int64_t left_;
  int64_t used_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_WORK_BUDGET_H_
