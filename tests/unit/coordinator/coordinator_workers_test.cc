// How the coordinator's core shares work among workers and judges their health.
#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "services/coordinator/coordinator_state.h"
#include "tests/unit/coordinator/coordinator_fixture.h"

namespace crescendo {
namespace {

TEST_CASE("32 groups of a step are shared by halves, whoever asks first") {
  CoordinatorOptions options = SmallRun();
  options.stages[0].groups_per_step = 32;
  Driver run(options);
  REQUIRE(run.Join("a", "i1", 256).ok());
  REQUIRE(run.Join("b", "i1", 256).ok());
  REQUIRE(run.Attach(0).ok());
  REQUIRE(run.Lease("a", 32).size() == 16);
  REQUIRE(run.Lease("a", 16).empty());
  REQUIRE(run.Lease("b", 32).size() == 16);
}

TEST_CASE("a small worker gets what fits it, a large one the rest") {
  CoordinatorOptions options = SmallRun();
  options.stages[0].groups_per_step = 32;
  Driver run(options);
  REQUIRE(run.Join("a", "i1", 256).ok());
  REQUIRE(run.Join("b", "i1", 8).ok());  // 4 groups of 2
  REQUIRE(run.Attach(0).ok());
  REQUIRE(run.Lease("a", 64).size() == 28);
  REQUIRE(run.Lease("b", 4).size() == 4);
}

TEST_CASE("what another worker leaves for two heartbeats goes to whoever asks") {
  CoordinatorOptions options = SmallRun();
  options.stages[0].groups_per_step = 8;
  Driver run(options);
  REQUIRE(run.Join("a", "i1", 256).ok());
  REQUIRE(run.Join("b", "i1", 256).ok());
  REQUIRE(run.Attach(0).ok());
  REQUIRE(run.Lease("a", 8).size() == 4);
  REQUIRE(run.Lease("a", 8).empty());
  run.now += 3 * options.heartbeat;
  REQUIRE(run.Lease("a", 8).size() == 2);
  REQUIRE(run.Lease("a", 8).size() == 1);
  REQUIRE(run.Lease("a", 8).size() == 1);
}

TEST_CASE("a draining worker hands back and gets nothing more") {
  Driver run(SmallRun());
  REQUIRE(run.Join("a").ok());
  REQUIRE(run.Attach(0).ok());
  const auto leases = run.Lease("a", 4);
  REQUIRE(run.state->Abandon("a", {leases[0].lease, leases[1].lease}, "draining", run.now).ok());
  REQUIRE(run.Lease("a", 4).empty());
  REQUIRE(run.state->View(run.now).workers[0].state == "draining");
  REQUIRE(run.state->View(run.now).groups_pending == 2);
  REQUIRE(run.state->Leave("a", "i1", "", run.now).ok());
  REQUIRE(run.state->Leave("a", "i1", "", run.now).ok());
  REQUIRE(run.state->View(run.now).groups_pending == 4);
  REQUIRE(run.state->View(run.now).workers.empty());
}

TEST_CASE("a worker that keeps failing is quarantined, with the reason") {
  Driver run(SmallRun());
  REQUIRE(run.Join("a").ok());
  REQUIRE(run.Attach(0).ok());
  for (int i = 0; i < Membership::kIncidentsMax; ++i) {
    run.now += absl::Seconds(6);
    const auto leases = run.Lease("a", 4);
    REQUIRE(leases.size() == 4);
    for (const GroupLease& lease : leases) {  // for one cause
      REQUIRE(run.state->Abandon("a", {lease.lease}, "no memory", run.now).ok());
    }
  }
  REQUIRE(run.Lease("a", 1).empty());
  const WorkerView worker = run.state->View(run.now).workers[0];
  REQUIRE(worker.state == "quarantined");
  REQUIRE(absl::StrContains(worker.reason, "no memory"));
  const absl::Time later = run.now + absl::Seconds(20);
  REQUIRE(run.state->View(later).awaiting ==
          "step 0 waits for 4 of 4 groups: 4 leased to nobody (0 of 1 workers can take groups), "
          "handed back by a: no memory");
  run.now += absl::Seconds(9);
  for (int i = 0; i < 4; ++i, run.now += absl::Seconds(9)) REQUIRE(run.Heartbeat("a").ok());
  run.state->Tick(run.now);
  REQUIRE(run.Lease("a", 1).size() == 1);
}

TEST_CASE("a worker far below its peers is called slow") {
  CoordinatorOptions options = SmallRun();
  Driver run(options);
  for (const char* id : {"a", "b", "c"}) REQUIRE(run.Join(id, "i1", 2).ok());
  REQUIRE(run.Attach(0).ok());
  for (const char* id : {"a", "b", "c"}) {
    REQUIRE(run.Lease(id, 1).size() == 1);
    HeartbeatEvent event;
    event.worker_id = id;
    event.incarnation = "i1";
    event.tokens_per_second = id[0] == 'a' ? 40 : 100;
    REQUIRE(run.state->Heartbeat(event, run.now).ok());
  }
  run.state->Tick(run.now);
  REQUIRE(run.state->View(run.now).workers[0].state == "slow");
  REQUIRE(run.state->View(run.now).workers[1].state == "healthy");
}

}  // namespace
}  // namespace crescendo
