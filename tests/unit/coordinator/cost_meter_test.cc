// The cost meter: what is held is counted to the second, priced, restored to the bit, and projected
// with an interval that holds as often as it says.
#include "services/coordinator/cost_meter.h"

#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"

namespace crescendo {
namespace {

CostMeter::Holdings Held() {
  CostMeter::Holdings held;
  CostMeter::Hold("rollout", {"A100-80GB", 1, 8}, &held);
  CostMeter::Hold("rollout", {"A100-80GB", 1, 8}, &held);
  CostMeter::Hold("rollout", {"H100", 2, 16}, &held);
  CostMeter::Hold("reward", {"", 0, 4}, &held);
  return held;
}

CostPrices Prices() { return {"$", {{"A100-80GB", 1.25}, {"H100", 2.5}}, 0.01}; }

TEST_CASE("Hours and money by service and GPU type, for as long as processes are there") {
  CostMeter meter(Prices());
  meter.Add(Held(), 1800);
  CostMeter::Holdings fewer;
  CostMeter::Hold("reward", {"", 0, 4}, &fewer);
  meter.Add(fewer, 3600);

  const CostView view = meter.View();
  REQUIRE(view.services.size() == 3);
  CHECK(view.services[0].service == "reward");
  CHECK(view.services[0].processes == 1);
  CHECK(view.services[0].used.core_hours == Approx(6));
  CHECK(view.services[1].gpu_type == "A100-80GB");
  CHECK(view.services[1].processes == 0);
  CHECK(view.services[1].used.gpu_hours == Approx(1));
  CHECK(view.services[1].used.money == Approx(1.25 + 8 * 0.01));
  CHECK(view.services[2].used.money == Approx(2.5 + 8 * 0.01));
  CHECK(view.used.gpu_hours == Approx(2));
  CHECK(view.used.core_hours == Approx(22));
  CHECK(view.used.money == Approx(3.75 + 0.22));
  CHECK(view.money_per_hour == Approx(0.04));
}

TEST_CASE("A GPU type without a price costs nothing and is counted") {
  CostMeter meter(Prices());
  CostMeter::Holdings held;
  CostMeter::Hold("learner", {"B300", 8, 0}, &held);
  meter.Add(held, 3600);
  CHECK(meter.totals().gpu_hours == Approx(8));
  CHECK(meter.totals().money == 0);
}

TEST_CASE("What was counted comes back to the same bits; a text of another kind is refused") {
  CostMeter meter(Prices());
  meter.Add(Held(), 1234.5678901);
  CostMeter restored(Prices());
  REQUIRE(restored.Restore(meter.Save()).ok());
  CHECK(restored.Save() == meter.Save());
  CHECK(restored.totals().money == meter.totals().money);
  CHECK(restored.View().money_per_hour == 0);  // nobody is there yet

  CHECK(restored.Restore("").ok());
  CHECK(restored.totals().gpu_hours == 0);
  for (const char* bad : {"rollout\tA100\t1", "rollout\tA100\t-1\t0", "rollout\tA100\tx\t0",
                          "rollout\tA100\tnan\t0"}) {
    CHECK(restored.Restore(bad).code() == absl::StatusCode::kDataLoss);
  }
}

TEST_CASE("A projection adds what is held now for the time to come") {
  CostMeter meter(Prices());
  meter.Add(Held(), 0);
  const CostProjectionView view = meter.Project(99, {3600, 1800, 7200});
  CHECK(view.last_step == 99);
  CHECK(view.used.gpu_hours == Approx(4));
  CHECK(view.low.gpu_hours == Approx(2));
  CHECK(view.high.money == Approx(2 * meter.View().money_per_hour));
}

TEST_CASE("Too few steps give no projection; steps of one length give one without a width") {
  CHECK(!ProjectSteps({1, 2, 3}, 5, 0));
  const auto even = ProjectSteps({2, 2, 2, 2}, 5, 7);
  REQUIRE(even);
  CHECK(even->seconds == Approx(17));
  CHECK(even->low == Approx(17));
  CHECK(even->high == Approx(17));
}

TEST_CASE("The interval of a projection holds the truth in about 95 of 100 runs") {
  int inside = 0;
  constexpr int kRuns = 2000, kSeen = 12, kLeft = 40;
  for (int run = 0; run < kRuns; ++run) {
    CounterRng rng(static_cast<uint64_t>(run) + 1);
    const auto step = [&rng] { return 10 + 2 * rng.Normal(); };
    std::vector<double> seen;
    for (int i = 0; i < kSeen; ++i) seen.push_back(step());
    double truth = 0;
    for (int i = 0; i < kLeft; ++i) truth += step();
    const auto projection = ProjectSteps(seen, kLeft, 0);
    REQUIRE(projection);
    inside += projection->low <= truth && truth <= projection->high;
  }
  CHECK(inside > kRuns * 0.935);
  CHECK(inside < kRuns * 0.965);
}

}  // namespace
}  // namespace crescendo
