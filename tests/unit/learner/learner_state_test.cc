// The learner's state machine: the order of its actions, and what it does when others come and go.
#include "services/learner/learner_state.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "tests/unit/learner/learner_state_harness.h"

namespace crescendo {
namespace {

TEST_CASE("The order of a step: plan, collect, train, checkpoint, publish, report") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  h.Plan(PlanOf(0, {7, 5}));
  h.ExpectNone();
  CHECK(h.Send(5, 0).group_complete);
  h.ExpectNone();
  h.now += absl::Milliseconds(300);
  CHECK(h.state.Awaiting(h.now) ==
        "step 0 waits for 1 of 2 groups: group 7 (nothing of it yet), since 300ms");
  CHECK(h.Send(7, 0).group_complete);
  const LearnerAction train = h.Train();
  REQUIRE(train.groups.size() == 2);
  CHECK(train.groups[0].group == GroupId(7));
  CHECK(train.groups[1].group == GroupId(5));
  h.Checkpoint();
  h.Publish(1);
  const StepReport report = h.Report();
  CHECK(report.checkpointed);
  CHECK(report.metrics.wait_seconds == Approx(0.3));
  CHECK(report.metrics.checkpoint_seconds == Approx(0.002));
  CHECK(report.metrics.publish_seconds == Approx(0.003));
  CHECK(h.state.steps_trained() == 1);
  CHECK(h.Expect(Kind::kNextStep).step == StepId(1));
}

TEST_CASE("Until the first attach chunks wait: nobody knows which leases were granted") {
  Harness h;
  const SampleChunk chunk = WithHeader(TestChunk(0, 0, 0, 6), TestHeader(1));
  CHECK_FALSE(h.state.HasRoomFor(chunk));
  h.Publish(0);
  CHECK_FALSE(h.state.HasRoomFor(chunk));
  h.Attach(0);
  CHECK(h.state.HasRoomFor(chunk));
}

TEST_CASE("Groups of the next step that came early are there when it is planned") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  h.Plan(PlanOf(0, {0}, 1));
  CHECK(h.Send(1, 0).group_complete);
  CHECK(h.Send(0, 0).group_complete);
  h.Train();
  h.Checkpoint();
  h.Publish(1);
  h.Report();
  h.Plan(PlanOf(1, {1}, 1));
  CHECK(h.Train().groups[0].group == GroupId(1));
}

TEST_CASE("FINISHED: last checkpoint when none is fresh, the policy is saved, then it serves") {
  LearnerOptions options = TestOptions();
  options.checkpoint_every = 10;
  Harness h(options);
  h.Publish(0);
  h.Attach(0);
  h.Plan(PlanOf(0, {0}));
  h.Send(0, 0);
  h.Train();
  h.Publish(1);
  CHECK_FALSE(h.Report().checkpointed);
  h.Expect(Kind::kNextStep);
  h.state.OnNextStep(LearnerDirective::kFinished, {}, h.now);
  h.Checkpoint();
  h.Expect(Kind::kSavePolicy);
  h.state.OnPolicySaved(absl::OkStatus(), h.now);
  CHECK(h.state.phase() == LearnerPhase::kServe);
  h.ExpectNone();
  // It asks now and then; that the coordinator is gone is no error any more.
  h.now += absl::Hours(1);
  h.Expect(Kind::kNextStep);
  h.state.OnCallFailed(absl::UnavailableError("gone"), h.now);
  h.now += absl::Hours(1);
  h.Expect(Kind::kNextStep);
  h.state.OnCallFailed(absl::UnavailableError("gone"), h.now);
  CHECK(h.state.phase() == LearnerPhase::kServe);
  h.state.RequestStop(h.now);
  h.Expect(Kind::kStop);
}

TEST_CASE("A coordinator that restarted is attached to again, and the report is sent again") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  h.Step(0, 0);
  h.Expect(Kind::kNextStep);
  h.state.OnCallFailed(absl::FailedPreconditionError("who are you"), h.now);
  h.ExpectNone();
  h.now += absl::Seconds(1);
  h.Attach(1);
  CHECK(h.Report().step == StepId(0));
  h.Step(1, 1);
}

TEST_CASE("While it collects it notices a restarted coordinator") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  h.Plan(PlanOf(0, {0, 1}));
  h.Send(0, 0);
  h.ExpectNone();
  h.now += absl::Seconds(1);
  h.Expect(Kind::kNextStep);
  h.state.OnCallFailed(absl::FailedPreconditionError("who are you"), h.now);
  h.now += absl::Seconds(1);
  h.Attach(0);
  h.Plan(PlanOf(0, {0, 1}));
  h.Send(1, 0);
  CHECK(h.Train().groups.size() == 2);
}

TEST_CASE("Groups that become whole while it asks the coordinator are trained after the answer") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  h.Plan(PlanOf(0, {0}));
  h.now += absl::Seconds(1);
  h.Expect(Kind::kNextStep);
  CHECK(h.Send(0, 0).group_complete);
  h.ExpectNone();
  SECTION("the answer is the same plan") {
    h.state.OnNextStep(LearnerDirective::kTrain, PlanOf(0, {0}), h.now);
  }
  SECTION("the coordinator cannot be reached") {
    h.state.OnCallFailed(absl::UnavailableError("down"), h.now);
  }
  CHECK(h.Train().groups.size() == 1);
}

TEST_CASE("Retries are spaced and bounded, and the error says who, for what, how long") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  const absl::Time start = h.now;
  int calls = 0;
  while (h.state.phase() != LearnerPhase::kFail) {
    h.now = std::max(h.now, h.state.NextDue());
    h.Expect(Kind::kNextStep);
    h.state.OnCallFailed(absl::UnavailableError("connection refused"), h.now);
    REQUIRE(++calls < 5000);
  }
  CHECK(h.now - start > absl::Minutes(10));
  CHECK(calls < 700);
  const absl::Status status = h.Expect(Kind::kFail).status;
  CHECK(absl::StrContains(status.message(), "coordinator did not serve the learner (next step)"));
  CHECK(absl::StrContains(status.message(), "connection refused"));
}

TEST_CASE("The first attach gives up after the connect time; a refusal to attach ends the run") {
  Harness h;
  h.Publish(0);
  SECTION("nobody there") {
    while (h.state.phase() != LearnerPhase::kFail) {
      h.now = std::max(h.now, h.state.NextDue());
      h.Expect(Kind::kAttach);
      h.state.OnCallFailed(absl::UnavailableError("refused"), h.now);
    }
    CHECK(h.now - absl::UnixEpoch() > absl::Seconds(30));
    CHECK(h.now - absl::UnixEpoch() < absl::Seconds(33));
    CHECK(h.Expect(Kind::kFail).status.code() == absl::StatusCode::kUnavailable);
  }
  SECTION("another configuration") {
    h.Expect(Kind::kAttach);
    h.state.OnCallFailed(absl::FailedPreconditionError("config_digest differs"), h.now);
    CHECK(absl::StrContains(h.Expect(Kind::kFail).status.message(), "config_digest differs"));
  }
}

TEST_CASE("A group that is too old for its step is dropped and asked for anew") {
  LearnerRestore restore;
  restore.steps_trained = 5;
  Harness h(TestOptions(), restore);
  h.Publish(5);
  h.Attach(5);
  h.Plan(PlanOf(5, {9, 10}));
  h.Send(9, 5);
  h.Send(10, 4);
  const LearnerAction attach = h.Expect(Kind::kAttach);
  CHECK(attach.incarnation == 1);
  CHECK(h.state.stale_groups() == 1);
  h.state.OnAttached({}, h.now);
  CHECK(h.state.Resume(GroupId(9)).state == ResumeState::kEnded);
  CHECK(h.state.Resume(GroupId(10)).state == ResumeState::kUnknown);
  h.Plan(PlanOf(5, {9, 10}));
  h.Send(10, 5);
  CHECK(h.Train().groups.size() == 2);
}

TEST_CASE("A restart goes on where the checkpoint is, and reports its last step again") {
  LearnerRestore restore;
  restore.steps_trained = 3;
  REQUIRE(restore.ledger.Record(StepId(2), {GroupId(2)}).ok());
  StepReport report;
  report.step = StepId(2);
  restore.last_report = report;
  Harness h(TestOptions(), restore);
  h.Publish(3);
  h.Attach(3);
  const StepReport again = h.Report();
  CHECK(again.step == StepId(2));
  CHECK(again.checkpointed);
  CHECK(h.Send(2, 3).outcome == ChunkOutcome::kGroupEnded);
  h.Step(3, 3);
}

TEST_CASE("Stop: gives up the step, checkpoints what is new, and leaves") {
  LearnerOptions options = TestOptions();
  options.checkpoint_every = 100;
  Harness h(options);
  h.Publish(0);
  h.Attach(0);
  h.Plan(PlanOf(0, {0}));
  h.Send(0, 0);
  h.Train();
  h.Publish(1);
  h.Report();
  h.Plan(PlanOf(1, {1}));
  h.Send(1, 1);
  h.Expect(Kind::kTrain);
  h.state.RequestStop(h.now);
  h.ExpectNone();
  h.state.OnTrainFailed(absl::CancelledError("stopped"), h.now);
  // The step that was given up is not in the ledger of the checkpoint.
  CHECK(h.state.LedgerForCheckpoint().Serialize() == "v1 0:1:0:1");
  h.Checkpoint();
  h.Expect(Kind::kStop);
  h.ExpectNone();
}

TEST_CASE("Stop while it waits is at once, without another checkpoint") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  h.Step(0, 0);
  h.Plan(PlanOf(1, {1}));
  h.state.RequestStop(h.now);
  h.Expect(Kind::kStop);
}

TEST_CASE("Steps whose gradients are not finite end the run after so many in a row") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  for (int64_t step = 0; step < 4; ++step) {
    h.Plan(PlanOf(step, {static_cast<uint64_t>(step)}));
    h.Send(static_cast<uint64_t>(step), step);
    // The second is fine, so that the row begins anew.
    h.Train(step != 1);
    if (step == 4) break;
    h.Checkpoint();
    h.Publish(step + 1);
    h.Report();
  }
  h.Plan(PlanOf(4, {4}));
  h.Send(4, 4);
  h.Train(true);
  const absl::Status status = h.Expect(Kind::kFail).status;
  CHECK(absl::StrContains(status.message(),
                          "not finite in 3 steps in a row, the last of them step 4"));
}

TEST_CASE("A checkpoint that fails is reported as such; several in a row end the run") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  for (int64_t step = 0; step < 3; ++step) {
    h.Plan(PlanOf(step, {static_cast<uint64_t>(step)}));
    h.Send(static_cast<uint64_t>(step), step);
    h.Train();
    h.Expect(Kind::kCheckpoint);
    h.state.OnCheckpointFailed(absl::ResourceExhaustedError("disk full"), h.now);
    if (step == 2) break;
    h.Publish(step + 1);
    CHECK_FALSE(h.Report().checkpointed);
  }
  CHECK(absl::StrContains(h.Expect(Kind::kFail).status.message(), "disk full"));
}

TEST_CASE("Plans that cannot be are refused by field") {
  for (const auto& [plan, field] : std::vector<std::pair<StepPlan, std::string>>{
           {PlanOf(1, {}), "group_ids"},
           {PlanOf(1, {4, 4}), "group 4 stands twice"},
           {PlanOf(1, {0}), "group 0 was consumed by step 0"}}) {
    Harness h;
    h.Publish(0);
    h.Attach(0);
    h.Step(0, 0);
    h.Plan(plan);
    CHECK(absl::StrContains(h.Expect(Kind::kFail).status.message(), field));
  }
}

TEST_CASE("A plan of another step means that the two disagree: attach again") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  h.Expect(Kind::kNextStep);
  h.state.OnNextStep(LearnerDirective::kTrain, PlanOf(3, {0}), h.now);
  h.now += absl::Seconds(1);
  h.Attach(0);
}

TEST_CASE("WAIT asks again") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  h.Expect(Kind::kNextStep);
  h.state.OnNextStep(LearnerDirective::kWait, {}, h.now);
  h.ExpectNone();
  h.now = h.state.NextDue();
  h.Expect(Kind::kNextStep);
}

// Trains one step of one group up to its checkpoint's begin.
void TrainAndBegin(Harness& h, int64_t step) {
  h.Plan(PlanOf(step, {static_cast<uint64_t>(step)}));
  h.Send(static_cast<uint64_t>(step), step);
  h.Train();
  h.Expect(Kind::kCheckpoint);
  h.state.OnCheckpointBegun(absl::Milliseconds(1), h.now);
}

TEST_CASE("A checkpoint in the background lets the run go on, and the next one waits for it") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  TrainAndBegin(h, 0);
  h.Publish(1);
  const StepReport report = h.Report();
  CHECK_FALSE(report.checkpointed);
  CHECK(report.metrics.checkpoint_seconds == Approx(0.001));
  h.Plan(PlanOf(1, {1}));
  h.Send(1, 1);
  h.Train();
  CHECK(h.state.phase() == LearnerPhase::kCheckpoint);
  h.ExpectNone();
  CHECK(h.state.NextDue() == absl::InfiniteFuture());
  h.state.OnCheckpointed(absl::Seconds(1), h.now);
  CHECK(h.state.steps_checkpointed() == 1);
  h.Expect(Kind::kCheckpoint);
  h.state.OnCheckpointBegun(absl::Milliseconds(1), h.now);
  h.state.OnCheckpointed(absl::Seconds(1), h.now);
  h.Publish(2);
  CHECK(h.Report().checkpointed);
}

TEST_CASE(
    "A checkpoint that is asked for: at once while it waits, after the step while it trains") {
  LearnerOptions options = TestOptions();
  options.checkpoint_every = 100;
  Harness h(options);
  h.Publish(0);
  h.Attach(0);
  h.Plan(PlanOf(0, {0}));
  h.state.RequestCheckpoint(h.now);
  CHECK(h.state.phase() == LearnerPhase::kCollect);  // nothing new to keep
  h.Send(0, 0);
  h.Train();
  h.Publish(1);
  h.Report();
  h.Plan(PlanOf(1, {1}));
  h.state.RequestCheckpoint(h.now);
  h.Checkpoint();
  CHECK(h.state.steps_checkpointed() == 1);
  h.Plan(PlanOf(1, {1}));
  h.Send(1, 1);
  h.Expect(Kind::kTrain);
  h.state.RequestCheckpoint(h.now);
  h.state.OnTrained(StepMetrics(), {GroupOutcome{GroupId(1)}}, h.now);
  h.Checkpoint();
  CHECK(h.state.steps_checkpointed() == 2);
  h.Publish(2);
  h.Report();
  h.Plan(PlanOf(2, {2}));
  h.Send(2, 2);
  h.Train();
  h.Publish(3);  // asked for once: written once
}

TEST_CASE("A stop and the end of the run wait for the checkpoint in the background") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  TrainAndBegin(h, 0);
  h.Publish(1);
  h.Report();
  SECTION("a stop") {
    h.state.RequestStop(h.now);
    h.ExpectNone();
    h.state.OnCheckpointed(absl::Seconds(1), h.now);
    h.Expect(Kind::kStop);
  }
  SECTION("the end") {
    h.Expect(Kind::kNextStep);
    h.state.OnNextStep(LearnerDirective::kFinished, {}, h.now);
    h.ExpectNone();
    h.state.OnCheckpointed(absl::Seconds(1), h.now);
    h.Expect(Kind::kSavePolicy);
  }
  SECTION("the end, and a stop before the policy is saved") {
    h.Expect(Kind::kNextStep);
    h.state.OnNextStep(LearnerDirective::kFinished, {}, h.now);
    h.state.RequestStop(h.now);
    h.ExpectNone();
    h.state.OnCheckpointed(absl::Seconds(1), h.now);
    h.Expect(Kind::kSavePolicy);
    h.state.OnPolicySaved(absl::OkStatus(), h.now);
    h.Expect(Kind::kStop);
  }
  SECTION("a stop whose checkpoint fails") {
    h.state.RequestStop(h.now);
    h.state.OnCheckpointFailed(absl::ResourceExhaustedError("disk full"), h.now);
    CHECK(absl::StrContains(h.Expect(Kind::kFail).status.message(),
                            "checkpoint of 1 steps: disk full"));
  }
}

TEST_CASE("Stopped after the last step, before FINISHED came, a run still writes its policy") {
  LearnerOptions options = TestOptions();
  options.steps_total = 1;
  Harness h(options);
  h.Publish(0);
  h.Attach(0);
  h.Step(0, 0);
  h.Expect(Kind::kNextStep);
  h.state.RequestStop(h.now);
  h.state.OnCallFailed(absl::CancelledError("stopping"), h.now);
  h.Expect(Kind::kSavePolicy);
  h.state.OnPolicySaved(absl::OkStatus(), h.now);
  h.Expect(Kind::kStop);
}

TEST_CASE("Checkpoints that fail in the background end the run after the action under way") {
  Harness h;
  h.Publish(0);
  h.Attach(0);
  for (int64_t step = 0; step < 3; ++step) {
    TrainAndBegin(h, step);
    h.Publish(step + 1);
    h.Report();
    if (step == 2) h.Expect(Kind::kNextStep);
    h.state.OnCheckpointFailed(absl::ResourceExhaustedError("disk full"), h.now);
  }
  h.ExpectNone();
  h.state.OnNextStep(LearnerDirective::kTrain, PlanOf(3, {3}), h.now);
  CHECK(absl::StrContains(h.Expect(Kind::kFail).status.message(), "disk full"));
}

}  // namespace
}  // namespace crescendo
