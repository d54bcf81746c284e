#include "services/learner/lr_schedule.h"

#include <algorithm>
#include <cmath>

#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr double kPi = 3.14159265358979323846;

// 1 at and before decay_from, 0 at and after decay_until.
double Remaining(const LrSchedule& schedule, int64_t step) {
  if (step >= schedule.decay_until) return 0;
  const double span = static_cast<double>(schedule.decay_until - schedule.decay_from);
  const double done = static_cast<double>(std::max<int64_t>(0, step - schedule.decay_from)) / span;
  return schedule.decay == LrSchedule::Decay::kCosine ? (1 + std::cos(kPi * done)) / 2 : 1 - done;
}

}  // namespace

double LearningRateAt(const LrSchedule& schedule, int64_t step) {
  CRESCENDO_CHECK(step >= 0);
  double rate = schedule.peak;
  if (step < schedule.warmup_steps) {
    rate *= static_cast<double>(step + 1) / static_cast<double>(schedule.warmup_steps);
  }
  if (schedule.decay != LrSchedule::Decay::kConstant) {
    const double low = schedule.final_fraction;
    rate *= low + (1 - low) * Remaining(schedule, step);
  }
  return rate;
}

}  // namespace crescendo
