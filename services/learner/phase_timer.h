// Where the time of a step goes, as the thread that trains sees it: what a device computes while
// nobody waits for it counts where it is waited for. No device is waited for because of a timer.
//
// Not thread-safe.
#ifndef CRESCENDO_SERVICES_LEARNER_PHASE_TIMER_H_
#define CRESCENDO_SERVICES_LEARNER_PHASE_TIMER_H_

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace crescendo {

// Seconds of one step.
struct StepPhases {
  // Forward passes up to the loss: of the policy, of the reference, for the mismatch. The output
  // layer's gradients are made with its log-probs and count here.
  double forward = 0;
  double backward = 0;   // and, with ranks, the sums over them after it
  double optimizer = 0;  // gradients summed over the ranks, clipped, applied; weights gathered
};

class PhaseTimer {
 public:
  // `clock` outlives the timer; null: every time is 0.
  explicit PhaseTimer(Clock* clock) : clock_(clock), since_(Now()) {}

  // Adds the time since the last call, at first since the timer was made.
  void AddTo(double& seconds) {
    const absl::Time now = Now();
    seconds += absl::ToDoubleSeconds(now - since_);
    since_ = now;
  }

 private:
  absl::Time Now() const { return clock_ != nullptr ? clock_->Now() : absl::UnixEpoch(); }

  Clock* clock_;
  absl::Time since_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_PHASE_TIMER_H_
