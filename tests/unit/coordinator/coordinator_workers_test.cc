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

TEST_CASE("workers pull weights one from the other, past a lost one, the first from the learner") {
  Driver run(SmallRun());
  for (const char* worker : {"c", "a", "b"}) REQUIRE(run.Join(worker).ok());
  REQUIRE(run.Attach(0).ok());
  const auto sources = [&](const std::string& worker) {
    return run.Heartbeat(worker)->weight_sources;
  };
  REQUIRE(sources("a").size() == 1);
  const std::string learner = sources("a")[0];
  REQUIRE(sources("b") == std::vector<std::string>{"a:1", learner});
  REQUIRE(sources("c") == std::vector<std::string>{"b:1", learner});
  for (int i = 0; i < 3; ++i) {  // b falls silent
    run.now += absl::Seconds(5);
    run.state->Tick(run.now);
    REQUIRE(sources("a").size() == 1);
    REQUIRE(sources("c").size() == 2);
  }
  REQUIRE(sources("c") == std::vector<std::string>{"a:1", learner});
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

TEST_CASE("a lease's key is the run's, in this process and in the next") {
  CoordinatorOptions options = SmallRun();
  options.lease_secret = {11, 12};
  Driver d(options);
  REQUIRE(d.Join("w").ok());
  REQUIRE(d.Attach(0).ok());
  const LeaseSecret secret = d.state->lease_secret();
  CHECK(secret == options.lease_secret);
  const auto check = [&](const GroupLease& lease) {
    CHECK(lease.key == LeaseKey(secret, lease.lease, lease.group));
  };
  check(d.Lease("w", 1).at(0));
  d.SetSecret({13, 14});  // what a process that starts anew draws
  d.Restart();
  REQUIRE(d.Join("w").ok());
  REQUIRE(d.Attach(0, "L2").ok());
  CHECK(d.state->lease_secret() == secret);
  check(d.Lease("w", 1).at(0));
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

// A step of two groups, one with a worker of `slow_rate` tokens/s, the other ended by one of 200.
struct LastGroup {
  explicit LastGroup(double slow_rate, CoordinatorOptions options = TwoGroups())
      : run(std::move(options)) {
    REQUIRE(run.Join("slow", "i1", 2).ok());
    REQUIRE(run.Join("fast", "i1", 2).ok());
    REQUIRE(run.Attach(0).ok());
    slow = run.Lease("slow", 1)[0];
    const GroupLease other = run.Lease("fast", 1)[0];
    for (int beat = 0; beat < 6; ++beat) {
      Beat("fast", other, 100 * beat, 2, 200);
      Beat("slow", slow, static_cast<uint64_t>(slow_rate / 2 * beat), 2, slow_rate);
      run.now += run.options().heartbeat;
    }
    REQUIRE(*run.Complete("fast", other));
    run.state->Tick(run.now);
  }
  static CoordinatorOptions TwoGroups() {
    CoordinatorOptions options = SmallRun();
    options.stages[0].groups_per_step = options.stages[1].groups_per_step = 2;
    return options;
  }
  HeartbeatReply Beat(const std::string& worker, const GroupLease& lease, uint64_t tokens,
                      int unfinished, double rate) {
    HeartbeatEvent event;
    event.worker_id = worker;
    event.incarnation = "i1";
    event.leases.push_back({lease.lease, tokens, unfinished});
    event.tokens_per_second = rate;
    auto reply = run.state->Heartbeat(event, run.now);
    REQUIRE(reply.ok());
    run.Commit();
    return *reply;
  }

  Driver run;
  GroupLease slow;
};

TEST_CASE("the last group of a slow worker goes to an idle faster one too; the first wins") {
  LastGroup last(10);
  REQUIRE(last.run.state->HasLeasableWork());
  const auto second = last.run.Lease("fast", 4);
  REQUIRE(second.size() == 1);
  REQUIRE(second[0].group == last.slow.group);
  REQUIRE(second[0].lease.value() > last.slow.lease.value());
  REQUIRE(second[0].attempt == 1);  // it asks the learner for what it holds
  REQUIRE(last.run.state->counters().second_leases == 1);
  REQUIRE_FALSE(last.run.state->HasLeasableWork());
  // Both go on while the first is ahead.
  REQUIRE(last.Beat("slow", last.slow, 31, 1, 10).revoked.empty());
  REQUIRE(last.Beat("fast", second[0], 20, 1, 100).revoked.empty());
  REQUIRE(last.Beat("slow", last.slow, 36, 1, 10).revoked.empty());
  REQUIRE(*last.run.Complete("slow", last.slow));
  REQUIRE_FALSE(*last.run.Complete("fast", second[0]));
  REQUIRE(last.Beat("fast", second[0], 30, 1, 100).revoked.size() == 1);
  REQUIRE(last.run.Report(0).ok());
  REQUIRE(last.run.state->trained() == 1);
}

TEST_CASE("a worker that was overtaken is told to stop, and that is no failure of its") {
  LastGroup last(10);
  const auto second = last.run.Lease("fast", 4);
  REQUIRE(second.size() == 1);
  REQUIRE(last.Beat("fast", second[0], 60, 1, 100).revoked.empty());
  REQUIRE(last.Beat("slow", last.slow, 40, 1, 10).revoked.size() == 1);
  REQUIRE(*last.run.Complete("fast", second[0]));
  REQUIRE_FALSE(*last.run.Complete("slow", last.slow));
  const RunView view = last.run.state->View(last.run.now);
  REQUIRE(view.workers[1].state == "healthy");
  REQUIRE(view.groups_buffered == 2);
  REQUIRE(view.groups_leased == 0);
}

TEST_CASE(
    "no second lease where it would not end sooner, where none is wanted, or nothing is left") {
  LastGroup equal(180);
  REQUIRE(equal.run.Lease("fast", 4).empty());
  CoordinatorOptions options = LastGroup::TwoGroups();
  options.second_leases = false;
  LastGroup off(10, options);
  REQUIRE(off.run.Lease("fast", 4).empty());
  LastGroup decoded(10);  // all samples are decoded: it waits for verdicts
  decoded.Beat("slow", decoded.slow, 40, 0, 0);
  REQUIRE(decoded.run.Lease("fast", 4).empty());
}

TEST_CASE(
    "a second worker that dies frees the group; a restart of the coordinator keeps the newer "
    "lease") {
  LastGroup last(10);
  auto second = last.run.Lease("fast", 4);
  REQUIRE(second.size() == 1);
  REQUIRE(last.run.Join("fast", "i2", 2).ok());
  REQUIRE(last.run.state->View(last.run.now).groups_pending == 1);
  REQUIRE(last.Beat("slow", last.slow, 40, 1, 10).revoked.size() == 1);

  LastGroup other(10);
  second = other.run.Lease("fast", 4);
  REQUIRE(second.size() == 1);
  other.run.Restart();
  for (const char* worker : {"slow", "fast"}) REQUIRE(other.run.Join(worker, "i1", 2).ok());
  REQUIRE(other.Beat("slow", other.slow, 40, 1, 10).revoked.size() == 1);
  REQUIRE(other.Beat("fast", second[0], 40, 1, 100).revoked.empty());
  REQUIRE(other.run.state->View(other.run.now).groups_leased == 1);
}

}  // namespace
}  // namespace crescendo
