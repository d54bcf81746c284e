// The whole system on simulated time: thousands of seeded runs through crashes, partitions and a
// bad network, each of which must train every group exactly once, nothing too stale, and come to
// its end. A failing seed is printed; replay it with CRESCENDO_SIM_SEED=N build/tests/sim_test.
#include <cstdlib>
#include <map>
#include <string>

#include "catch2/catch.hpp"
#include "tests/sim/sim_cluster.h"

namespace crescendo::sim {
namespace {

int SeedsFromEnvironment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

ClusterOptions Scenario(uint64_t seed) {
  ClusterOptions options;
  options.seed = seed;
  options.run_seed = 1 + seed % 5;
  options.max_staleness = seed % 3 == 2 ? 2 : 0;
  options.workers = 1 + static_cast<int>(seed % 4);
  options.checkpoint_every = seed % 7 == 3 ? 3 : 1;
  return options;
}

TEST_CASE("A run without faults finishes, and replays exactly") {
  ClusterOptions options;
  options.faults = false;
  const ClusterResult first = RunCluster(options);
  INFO(first.violation);
  REQUIRE(first.violation.empty());
  CHECK(first.batches.size() == 12);
  const ClusterResult second = RunCluster(options);
  CHECK(first.batches == second.batches);
  CHECK(first.events == second.events);
}

TEST_CASE("Through any faults each group ends exactly once and nothing too stale trains") {
  const int seeds = SeedsFromEnvironment("CRESCENDO_SIM_SEEDS", 2000);
  const int only = SeedsFromEnvironment("CRESCENDO_SIM_SEED", -1);
  // On-policy, a run makes the same batches whatever happens to it: those of the run without
  // faults.
  std::map<uint64_t, std::map<int64_t, TrainedBatch>> expected;
  int64_t faults = 0;
  uint64_t second_leases = 0;
  for (int seed = only >= 0 ? only : 0; seed < (only >= 0 ? only + 1 : seeds); ++seed) {
    const ClusterOptions options = Scenario(seed);
    const ClusterResult result = RunCluster(options);
    INFO("seed " << seed << ": replay with CRESCENDO_SIM_SEED=" << seed);
    INFO(result.violation);
    REQUIRE(result.violation.empty());
    faults += result.faults;
    second_leases += result.second_leases;
    if (options.max_staleness > 0) continue;
    auto [entry, missing] = expected.try_emplace(options.run_seed);
    if (missing) {
      ClusterOptions quiet = options;
      quiet.faults = false;
      entry->second = RunCluster(quiet).batches;
    }
    REQUIRE(result.batches == entry->second);
  }
  if (only >= 0) return;
  WARN(faults << " faults, " << second_leases << " second leases");
  CHECK(faults > seeds);
  CHECK(second_leases > 0);
}

TEST_CASE("Second leases end a run with a slow worker sooner, with the same batches") {
  ClusterOptions options;
  options.faults = false;
  options.speeds = {0.02, 0.2, 0.2};
  const ClusterResult with = RunCluster(options);
  options.second_leases = false;
  const ClusterResult without = RunCluster(options);
  INFO(with.violation << without.violation << " with " << with.simulated << ", without "
                      << without.simulated);
  REQUIRE(with.violation.empty());
  REQUIRE(without.violation.empty());
  CHECK(with.second_leases > 0);
  CHECK(without.second_leases == 0);
  CHECK(with.batches == without.batches);
  CHECK(with.simulated < without.simulated);
  WARN("12 steps, a worker at a tenth of the others' speed: "
       << with.simulated << " with second leases, " << without.simulated << " without");
}

TEST_CASE("A worker that keeps dying is quarantined, and the others train the same batches") {
  ClusterOptions options;
  options.steps = 100;
  options.faults = false;
  const ClusterResult quiet = RunCluster(options);
  options.failing_worker = true;
  const ClusterResult result = RunCluster(options);
  INFO(result.violation << " after " << result.simulated);
  REQUIRE(result.violation.empty());
  CHECK(result.quarantines > 0);
  CHECK(result.batches == quiet.batches);
}

// The first seed within `seeds` at which the broken rule is noticed, with what was noticed.
std::string FirstNoticed(BrokenRule rule, int seeds) {
  for (int seed = 0; seed < seeds; ++seed) {
    ClusterOptions options = Scenario(seed);
    options.workers = 3;
    options.broken = rule;
    const ClusterResult result = RunCluster(options);
    if (!result.violation.empty()) return result.violation;
    if (options.max_staleness == 0) {
      options.broken = BrokenRule::kNone;
      options.faults = false;
      if (RunCluster(options).batches != result.batches) return "other batches";
    }
  }
  return "";
}

TEST_CASE("A rule broken on purpose is noticed") {
  for (BrokenRule rule : {BrokenRule::kLeasesNeverExpire, BrokenRule::kReplyBeforeDurable,
                          BrokenRule::kStampsWrongVersion, BrokenRule::kForgetsMinVersion}) {
    const std::string noticed = FirstNoticed(rule, 1000);
    INFO("broken rule " << static_cast<int>(rule));
    CHECK(noticed != "");
    WARN("broken rule " << static_cast<int>(rule) << " noticed: " << noticed);
  }
}

}  // namespace
}  // namespace crescendo::sim
