// Each shape of the learning rate at the steps where it changes.
#include "services/learner/lr_schedule.h"

#include <cmath>

#include "catch2/catch.hpp"

namespace crescendo {
namespace {

TEST_CASE("Warm-up is linear and ends at the peak") {
  LrSchedule schedule;
  schedule.peak = 2e-3;
  schedule.warmup_steps = 50;
  CHECK(LearningRateAt(schedule, 0) == Approx(2e-3 / 50));
  CHECK(LearningRateAt(schedule, 24) == Approx(1e-3));
  CHECK(LearningRateAt(schedule, 49) == 2e-3);
  CHECK(LearningRateAt(schedule, 1'000'000) == 2e-3);
}

TEST_CASE("Linear decay falls from the peak to its fraction and stays there") {
  LrSchedule schedule;
  schedule.peak = 2e-3;
  schedule.decay = LrSchedule::Decay::kLinear;
  schedule.decay_from = 282;
  schedule.decay_until = 450;
  schedule.final_fraction = 0.3;
  CHECK(LearningRateAt(schedule, 282) == 2e-3);
  CHECK(LearningRateAt(schedule, 366) == Approx(2e-3 * 0.65));
  CHECK(LearningRateAt(schedule, 450) == Approx(6e-4));
  CHECK(LearningRateAt(schedule, 9999) == Approx(6e-4));
}

TEST_CASE("Cosine decay halves midway and multiplies with warm-up") {
  LrSchedule schedule;
  schedule.peak = 1;
  schedule.decay = LrSchedule::Decay::kCosine;
  schedule.decay_until = 100;
  CHECK(LearningRateAt(schedule, 0) == 1);
  CHECK(LearningRateAt(schedule, 50) == Approx(0.5));
  CHECK(LearningRateAt(schedule, 100) == Approx(0).margin(1e-15));
  schedule.warmup_steps = 100;
  CHECK(LearningRateAt(schedule, 49) == Approx(0.5 * (1 + std::cos(3.14159265358979 * 0.49)) / 2));
}

}  // namespace
}  // namespace crescendo
