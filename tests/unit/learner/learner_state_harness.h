// A learner's state machine with its time, and the events that come to it in short, for its tests.
#ifndef CRESCENDO_TESTS_UNIT_LEARNER_LEARNER_STATE_HARNESS_H_
#define CRESCENDO_TESTS_UNIT_LEARNER_LEARNER_STATE_HARNESS_H_

#include <optional>
#include <utility>
#include <vector>

#include "catch2/catch.hpp"
#include "services/learner/learner_state.h"
#include "tests/unit/learner/experience_builder.h"

namespace crescendo {

using Kind = LearnerAction::Kind;

inline LearnerOptions TestOptions() {
  LearnerOptions options;
  options.experience.vocabulary_size = kTestVocabulary;
  return options;
}

inline StepPlan PlanOf(int64_t step, std::vector<uint64_t> groups, int max_staleness = 0) {
  StepPlan plan;
  plan.step = StepId(step);
  for (uint64_t group : groups) plan.groups.emplace_back(group);
  plan.group_samples = 1;
  plan.context_tokens = 64;
  plan.max_staleness = max_staleness;
  return plan;
}

// A learner with its time, and the events in short.
struct Harness {
  explicit Harness(LearnerOptions options = TestOptions(), LearnerRestore restore = {})
      : state(options, std::move(restore), now) {}

  LearnerAction Expect(Kind kind) {
    std::optional<LearnerAction> action = state.NextAction(now);
    INFO("phase " << LearnerPhaseName(state.phase()));
    REQUIRE(action.has_value());
    REQUIRE(action->kind == kind);
    return *std::move(action);
  }
  void ExpectNone() { REQUIRE_FALSE(state.NextAction(now).has_value()); }
  void Publish(int64_t version) {
    REQUIRE(Expect(Kind::kPublish).version == PolicyVersion(version));
    state.OnPublished(absl::Milliseconds(3), now);
  }
  void Attach(int64_t steps) {
    REQUIRE(Expect(Kind::kAttach).steps_trained == steps);
    state.OnAttached({}, now);
  }
  void Plan(const StepPlan& plan) {
    REQUIRE(Expect(Kind::kNextStep).step == plan.step);
    state.OnNextStep(LearnerDirective::kTrain, plan, now);
  }
  ChunkAck Send(uint64_t group, int64_t version) {
    return state.Accept(WithHeader(TestChunk(group, 0, 0, 6, true, 1, version), TestHeader(1)),
                        now);
  }
  LearnerAction Train(bool skipped = false) {
    LearnerAction action = Expect(Kind::kTrain);
    StepMetrics metrics;
    metrics.skipped = skipped;
    state.OnTrained(metrics, {GroupOutcome{action.plan.groups[0]}}, now);
    return action;
  }
  void Checkpoint() {
    Expect(Kind::kCheckpoint);
    state.OnCheckpointed(absl::Milliseconds(2), now);
  }
  StepReport Report() {
    const StepReport report = Expect(Kind::kReport).report;
    state.OnReported(now);
    return report;
  }
  // One whole step of one group.
  void Step(int64_t step, uint64_t group) {
    Plan(PlanOf(step, {group}));
    Send(group, step);
    Train();
    Checkpoint();
    Publish(step + 1);
    REQUIRE(Report().step == StepId(step));
  }

  absl::Time now = absl::UnixEpoch();
  LearnerState state;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_LEARNER_LEARNER_STATE_HARNESS_H_
