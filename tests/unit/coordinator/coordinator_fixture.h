// A small run for tests of the coordinator's core: options, and a driver that plays workers and
// learner by hand.
#ifndef CRESCENDO_TESTS_UNIT_COORDINATOR_COORDINATOR_FIXTURE_H_
#define CRESCENDO_TESTS_UNIT_COORDINATOR_COORDINATOR_FIXTURE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "services/coordinator/coordinator_state.h"
#include "tests/support/memory_journal.h"

namespace crescendo {

inline std::vector<Problem> MakeProblems(int count, const std::string& prefix) {
  std::vector<Problem> problems;
  for (int i = 0; i < count; ++i) {
    problems.push_back({absl::StrCat(prefix, i), absl::StrCat("what is ", i, "?"),
                        RewardSpec{"math", {absl::StrCat(i)}}});
  }
  return problems;
}

// Two stages of 4 groups of 2 samples, 10 steps, no evaluation, no rule.
inline CoordinatorOptions SmallRun() {
  CoordinatorOptions options;
  options.run_id = "small";
  options.seed = 7;
  options.config_digest = "digest";
  options.steps = 10;
  options.stages.resize(2);
  options.stages[0].context_tokens = 48;
  options.stages[1].context_tokens = 96;
  for (StageOptions& stage : options.stages) {
    stage.group_samples = 2;
    stage.groups_per_step = 4;
  }
  options.curriculum.length_rule = false;
  options.curriculum.truncation_rule = false;
  options.problems = MakeProblems(6, "p");
  return options;
}

// The coordinator with its journal, and the events in short form. Time only passes when told.
class Driver {
 public:
  explicit Driver(CoordinatorOptions options) : options_(std::move(options)) { Restart(); }

  // As if the process had died and come back: everything from the journal.
  void Restart() {
    auto made = CoordinatorState::Create(options_, journal_.image(), now);
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    state = std::move(made).value();
    Commit();
  }
  void SetSecret(const LeaseSecret& secret) { options_.lease_secret = secret; }
  void Commit() {
    const std::vector<JournalRecord> records = state->TakeRecords();
    REQUIRE(journal_.Append(records).ok());
    mirrored_.insert(mirrored_.end(), records.begin(), records.end());
  }
  // The records since the last call, for a second journal.
  std::vector<JournalRecord> TakeMirrored() { return std::exchange(mirrored_, {}); }

  absl::Status Join(const std::string& worker, const std::string& incarnation = "i1",
                    int slots = 8) {
    const auto reply = state->Join({worker, worker + ":1", incarnation, slots}, now);
    Commit();
    return reply.status();
  }
  std::vector<GroupLease> Lease(const std::string& worker, int groups_max,
                                const std::string& incarnation = "i1") {
    auto leases = state->Lease(worker, incarnation, groups_max, now);
    INFO(leases.status().ToString());
    REQUIRE(leases.ok());
    Commit();
    return std::move(leases).value();
  }
  absl::StatusOr<HeartbeatReply> Heartbeat(const std::string& worker,
                                           const std::vector<GroupLease>& leases = {},
                                           uint64_t tokens = 0,
                                           const std::string& incarnation = "i1") {
    HeartbeatEvent event;
    event.worker_id = worker;
    event.incarnation = incarnation;
    for (const GroupLease& lease : leases) event.leases.push_back({lease.lease, tokens});
    auto reply = state->Heartbeat(event, now);
    Commit();
    return reply;
  }
  absl::StatusOr<bool> Complete(const std::string& worker, const GroupLease& lease,
                                Verdict verdict = Verdict::kCorrect,
                                const std::string& learner = "") {
    GroupCompletion completion;
    completion.worker_id = worker;
    completion.lease = lease.lease;
    completion.group = lease.group;
    completion.purpose = lease.purpose;
    completion.learner_incarnation = learner;
    if (lease.purpose == GroupPurpose::kEvaluate) {
      completion.version_min = PolicyVersion(lease.pinned_version);
      completion.version_max = PolicyVersion(lease.pinned_version);
      for (int i = 0; i < lease.samples; ++i) {
        completion.results.push_back({static_cast<uint32_t>(i), verdict, 1.0, 10, false, ""});
      }
    }
    auto reply = state->CompleteGroup(completion, now);
    Commit();
    return reply;
  }
  absl::StatusOr<int64_t> Attach(int64_t step, const std::string& incarnation = "L1") {
    auto reply = state->AttachLearner({"learner:1", incarnation, step, "digest"}, now);
    Commit();
    return reply;
  }
  absl::StatusOr<NextStepReply> NextStep(int64_t step, const std::string& incarnation = "L1") {
    auto reply = state->NextStep(StepId(step), incarnation, now);
    Commit();
    return reply;
  }
  absl::Status Report(int64_t step, StepMetrics metrics = {},
                      const std::string& incarnation = "L1") {
    ReportStepEvent event;
    event.step = StepId(step);
    event.incarnation = incarnation;
    event.metrics = metrics;
    const JournalImage image = state->DurableImage();
    if (const auto plan = image.plans.find(step); plan != image.plans.end()) {
      for (int i = 0; i < plan->second.groups; ++i) {
        GroupOutcome outcome;
        outcome.group = GroupId(plan->second.first_group + i);
        outcome.correct = static_cast<int>((plan->second.first_group + i) % 3 == 0 ? 2 : 1);
        outcome.incorrect = 2 - outcome.correct;
        outcome.tokens = 20;
        event.groups.push_back(outcome);
      }
    }
    const absl::Status status = state->ReportStep(event, now);
    Commit();
    return status;
  }
  // Generates and trains the next step with worker "w".
  void TrainStep(StepMetrics metrics = {}) {
    const int64_t step = state->trained();
    for (int round = 0; round < 100 && state->HasLeasableWork(); ++round) {
      for (const GroupLease& lease : Lease("w", 256)) REQUIRE(*Complete("w", lease));
    }
    REQUIRE(Report(step, metrics).ok());
  }

  void SetSteps(int64_t steps) { options_.steps = steps; }
  const JournalImage& journal() const { return journal_.image(); }
  const CoordinatorOptions& options() const { return options_; }

  absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  std::unique_ptr<CoordinatorState> state;

 private:
  CoordinatorOptions options_;
  MemoryJournal journal_;
  std::vector<JournalRecord> mirrored_;
};

// The image without what passes with time alone.
inline std::string Timeless(JournalImage image) {
  image.scalars.elapsed_seconds = 0;
  image.scalars.train_elapsed_seconds = 0;
  image.scalars.evaluation_seconds = 0;
  return DebugString(image);
}

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_COORDINATOR_COORDINATOR_FIXTURE_H_
