// The learning rate as a function of the step: linear warm-up, then constant, linear or cosine.
// Thread-safe: pure.
#ifndef CRESCENDO_SERVICES_LEARNER_LR_SCHEDULE_H_
#define CRESCENDO_SERVICES_LEARNER_LR_SCHEDULE_H_

#include <cstdint>

namespace crescendo {

struct LrSchedule {
  enum class Decay { kConstant, kLinear, kCosine };
  double peak = 0;
  int64_t warmup_steps = 0;  // step s < warmup_steps has peak x (s + 1) / warmup_steps
  Decay decay = Decay::kConstant;
  int64_t decay_from = 0;     // first step below the peak is decay_from + 1
  int64_t decay_until = 0;    // from here on the rate is peak x final_fraction
  double final_fraction = 0;  // [0, 1]
};

// The rate of step `step` (from 0). Warm-up and decay multiply where they overlap. Requires step >=
// 0.
double LearningRateAt(const LrSchedule& schedule, int64_t step);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_LR_SCHEDULE_H_
