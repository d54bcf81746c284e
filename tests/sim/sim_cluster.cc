#include "tests/sim/sim_cluster.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace crescendo::sim {
namespace {

constexpr absl::Duration kFaultsLast = absl::Seconds(4);
constexpr absl::Duration kHealedBound = absl::Seconds(120);  // from healing to the end of the run
constexpr int64_t kEventsMax = 20'000'000;

CoordinatorOptions RunOf(const ClusterOptions& options) {
  CoordinatorOptions run;
  run.run_id = "sim";
  run.seed = options.run_seed;
  run.config_digest = "digest";
  run.config = "simulated";
  run.steps = options.steps;
  run.max_staleness = options.max_staleness;
  run.stages = {{24, 4, 3, {}, 1e-3, {}}, {40, 3, 4, {}, 1e-3, {}}, {64, 4, 3, {}, 1e-3, {}}};
  run.curriculum.min_steps = 2;
  run.curriculum.max_steps = {3, 3};
  run.curriculum.length_window = 1;
  run.curriculum.truncation_rule = false;
  run.evaluations = {{"held-out", 3, 2, {}, 64, 3}, {"other", 1, 3, {}, 40, 0}};
  for (int i = 0; i < 11; ++i) {
    run.problems.push_back({absl::StrCat("p", i), absl::StrCat("problem ", i), {"math", {"7"}}});
  }
  for (int i = 0; i < 4; ++i) {
    run.evaluation_problems.push_back(
        {absl::StrCat("e", i), absl::StrCat("held out ", i), {"math", {"7"}}});
  }
  run.heartbeat = absl::Milliseconds(100);
  run.lease = absl::Milliseconds(600);
  run.awaited_after = absl::Seconds(1);
  run.second_leases = options.second_leases;
  return run;
}

class Cluster {
 public:
  explicit Cluster(const ClusterOptions& options) : options_(options), world_(options.seed) {
    experiment_.world = &world_;
    experiment_.live = &live_;
    experiment_.knobs.coordinator = RunOf(options);
    experiment_.knobs.model.mean_tokens = 20;
    experiment_.knobs.model.block_tokens = 4;
    experiment_.knobs.model.version_moves = true;
    experiment_.knobs.checkpoint_every = options.checkpoint_every;
    experiment_.knobs.broken = options.broken;
    experiment_.coordinator = world_.AddProcess(
        "coordinator",
        [this] { live_.coordinator = std::make_unique<SimCoordinator>(&experiment_); },
        [this] { live_.coordinator.reset(); });
    experiment_.learner = world_.AddProcess(
        "learner", [this] { live_.learner = std::make_unique<SimLearner>(&experiment_); },
        [this] { live_.learner.reset(); });
    experiment_.reward = world_.AddProcess(
        "reward", [this] { live_.reward = std::make_unique<SimReward>(&experiment_); },
        [this] { live_.reward.reset(); });
    live_.workers.resize(options.workers);
    for (int i = 0; i < options.workers; ++i) {
      experiment_.knobs.worker_speed.push_back(1.0);
      experiment_.workers.push_back(world_.AddProcess(
          absl::StrCat("rollout-", i),
          [this, i] { live_.workers[i] = std::make_unique<SimWorker>(&experiment_, i); },
          [this, i] { live_.workers[i].reset(); }));
    }
  }

  ClusterResult Run() {
    const absl::Time begin = world_.Now();
    StartAll();
    if (options_.faults) {
      PlanFaults();
      world_.AfterInWorld(kFaultsLast, [this] { HealEverything(); });
    } else {
      healed_ = true;
    }
    if (!options_.speeds.empty()) experiment_.knobs.worker_speed = options_.speeds;
    if (options_.failing_worker) FailAgain();
    ClusterResult result;
    while (experiment_.violation.empty() && !experiment_.finished) {
      if (!world_.Step() || ++result.events > kEventsMax ||
          world_.Now() - begin > kFaultsLast + kHealedBound) {
        experiment_.Violate(absl::StrCat("the run stands still; the coordinator: '",
                                         live_.coordinator ? live_.coordinator->Awaiting() : "down",
                                         "', the learner: '",
                                         live_.learner ? live_.learner->Awaiting() : "down", "'"));
      }
    }
    if (experiment_.violation.empty()) CheckEnd();
    result.violation = experiment_.violation;
    result.batches = experiment_.final_batches;
    result.faults = faults_;
    result.second_leases = experiment_.second_leases;
    result.quarantines = experiment_.quarantines;
    result.simulated = world_.Now() - begin;
    return result;
  }

 private:
  void StartAll() {
    for (ProcessId process : Everyone()) world_.Start(process);
  }
  std::vector<ProcessId> Everyone() const {
    std::vector<ProcessId> all = {experiment_.coordinator, experiment_.learner, experiment_.reward};
    all.insert(all.end(), experiment_.workers.begin(), experiment_.workers.end());
    return all;
  }
  ProcessId AnyProcess() { return Everyone()[world_.rng().Below(Everyone().size())]; }

  void PlanFaults() {
    NetworkFaults network;
    network.lose = 0.02 * world_.rng().Uniform();
    network.duplicate = 0.02 * world_.rng().Uniform();
    network.break_stream = 0.002 * world_.rng().Uniform();
    network.delay_max = absl::Milliseconds(1 + world_.rng().Below(30));
    world_.SetFaults(network);
    experiment_.knobs.crash_before_durable =
        world_.Chance(0.5) || options_.broken == BrokenRule::kReplyBeforeDurable ? 0.002 : 0;
    for (double& speed : experiment_.knobs.worker_speed) {
      if (world_.Chance(0.3)) speed = 0.1 + 0.9 * world_.rng().Uniform();
    }
    // One worker may leave for good.
    if (options_.workers > 1 &&
        (world_.Chance(0.3) || options_.broken == BrokenRule::kLeasesNeverExpire)) {
      lost_for_good_ = experiment_.workers[world_.rng().Below(experiment_.workers.size())];
    }
    const int count = 3 + static_cast<int>(world_.rng().Below(10));
    for (int i = 0; i < count; ++i) {
      world_.AfterInWorld(kFaultsLast * world_.rng().Uniform(), [this] { OneFault(); });
    }
  }

  void OneFault() {
    if (healed_) return;
    ++faults_;
    if (world_.Chance(0.65)) {
      CrashAndReturn(AnyProcess());
      return;
    }
    const ProcessId a = AnyProcess();
    if (world_.Chance(0.2)) {  // its clock steps
      world_.SetClockOffset(a, world_.Between(absl::Seconds(-5), absl::Seconds(5)));
      return;
    }
    const ProcessId b = AnyProcess();
    if (a == b) return;
    world_.Partition(a, b);
    world_.AfterInWorld(world_.Between(absl::Milliseconds(50), absl::Seconds(2)),
                        [this, a, b] { world_.Heal(a, b); });
  }

  void CrashAndReturn(ProcessId process) {
    world_.Crash(process);
    // The new process may see another wall clock.
    world_.SetClockOffset(process, world_.Between(absl::Seconds(-5), absl::Seconds(5)));
    world_.AfterInWorld(world_.Between(absl::Milliseconds(10), absl::Milliseconds(1500)),
                        [this, process] {
                          if (process != gone_) world_.Start(process);
                        });
  }

  void FailAgain() {
    world_.AfterInWorld(absl::Milliseconds(40), [this] {
      world_.Crash(experiment_.workers[0]);
      world_.Start(experiment_.workers[0]);
      FailAgain();
    });
  }

  void HealEverything() {
    healed_ = true;
    world_.SetFaults({});
    world_.HealAll();
    experiment_.knobs.crash_before_durable = 0;
    for (double& speed : experiment_.knobs.worker_speed) speed = std::max(speed, 0.3);
    gone_ = lost_for_good_;
    if (gone_ >= 0) world_.Crash(gone_);
    for (ProcessId process : Everyone()) {
      if (process != gone_) world_.Start(process);
    }
  }

  // What must hold when the run says that it is finished.
  void CheckEnd() {
    const auto& batches = experiment_.final_batches;
    if (static_cast<int64_t>(batches.size()) != options_.steps) {
      experiment_.Violate(absl::StrCat("trained ", batches.size(), " steps of ", options_.steps));
    }
    uint64_t next = 0;
    for (const auto& [step, batch] : batches) {
      for (GroupId group : batch.groups) {
        if (group.value() != next++) {
          experiment_.Violate(absl::StrCat("step ", step, " trained group ", group.value(),
                                           ", its place is group ", next - 1, "'s"));
          return;
        }
      }
    }
    const JournalImage& journal = experiment_.disks.journal;
    if (journal.outcomes.size() != next) {
      experiment_.Violate(absl::StrCat("the journal holds ", journal.outcomes.size(),
                                       " outcomes of ", next, " groups"));
    }
    for (const auto& [id, outcome] : journal.outcomes) {
      const TrainedBatch& batch = batches.at(outcome.step);
      if (std::count(batch.groups.begin(), batch.groups.end(), GroupId(id)) != 1) {
        experiment_.Violate(absl::StrCat("the journal says that step ", outcome.step,
                                         " trained group ", id, "; it did not"));
        return;
      }
    }
    for (const auto& [entry, row] : journal.evaluations) {
      const size_t set = SetOfEntry(entry);
      if (row.problems != experiment_.knobs.coordinator.evaluations[set].problems) {
        experiment_.Violate(absl::StrCat("the evaluation at ", row.step, " misses problems"));
      }
    }
    for (const size_t set : {0, 1}) {
      if (!journal.evaluations.contains(EvaluationEntry(0, set)) ||
          !journal.evaluations.contains(EvaluationEntry(options_.steps, set))) {
        experiment_.Violate("the evaluation of the base or of the end is missing");
      }
    }
  }

  ClusterOptions options_;
  SimWorld world_;
  Live live_;
  Experiment experiment_;
  ProcessId lost_for_good_ = -1;
  ProcessId gone_ = -1;
  bool healed_ = false;
  int faults_ = 0;
};

}  // namespace

ClusterResult RunCluster(const ClusterOptions& options) { return Cluster(options).Run(); }

}  // namespace crescendo::sim
