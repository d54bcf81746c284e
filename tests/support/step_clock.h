// A clock of which every look takes a second: what is timed with it tells how often it looked.
#ifndef CRESCENDO_TESTS_SUPPORT_STEP_CLOCK_H_
#define CRESCENDO_TESTS_SUPPORT_STEP_CLOCK_H_

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace crescendo {

class StepClock : public Clock {
 public:
  absl::Time Now() override { return now_ += absl::Seconds(1); }
  void SleepFor(absl::Duration) override {}

 private:
  absl::Time now_ = absl::UnixEpoch();
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_STEP_CLOCK_H_
