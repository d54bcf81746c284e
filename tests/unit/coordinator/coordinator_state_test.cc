// The life of groups, steps and leases in the coordinator's core, event by event.
#include "services/coordinator/coordinator_state.h"

#include <set>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "tests/unit/coordinator/coordinator_fixture.h"

namespace crescendo {
namespace {

TEST_CASE("a step is planned, leased, completed, trained, and the next one planned") {
  Driver run(SmallRun());
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Lease("w", 8).empty());  // no learner yet
  REQUIRE(*run.Attach(0) == 0);
  const auto leases = run.Lease("w", 8);
  REQUIRE(leases.size() == 4);
  for (uint64_t i = 0; i < 4; ++i) {
    REQUIRE(leases[i].group == GroupId(i));
    REQUIRE(leases[i].context_tokens == 48);
    REQUIRE(leases[i].samples == 2);
    REQUIRE(leases[i].attempt == 0);
    REQUIRE(leases[i].min_version == 0);
    REQUIRE(leases[i].pinned_version == -1);
  }
  const auto next = run.NextStep(0);
  REQUIRE(next->directive == LearnerDirective::kTrain);
  REQUIRE(next->plan.groups ==
          std::vector<GroupId>{GroupId(0), GroupId(1), GroupId(2), GroupId(3)});
  for (const GroupLease& lease : leases) REQUIRE(*run.Complete("w", lease));
  REQUIRE_FALSE(*run.Complete("w", leases[0]));  // once
  REQUIRE(run.Lease("w", 8).empty());            // step 1 waits for step 0
  REQUIRE(run.Report(0).ok());
  REQUIRE(run.state->trained() == 1);
  REQUIRE(run.Report(0).ok());  // idempotent
  REQUIRE(run.state->trained() == 1);
  REQUIRE_FALSE(*run.Complete("w", leases[0]));
  const auto second = run.Lease("w", 8);
  REQUIRE(second.size() == 4);
  REQUIRE(second[0].group == GroupId(4));
  REQUIRE(second[0].min_version == 1);
  REQUIRE(run.Heartbeat("w")->policy_version == 1);
}

TEST_CASE("each epoch brings every problem once, in another order of the same seed") {
  Driver run(SmallRun());
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  for (int step = 0; step < 6; ++step) run.TrainStep();
  std::vector<uint32_t> problems;
  for (const auto& [id, outcome] : run.journal().outcomes) problems.push_back(outcome.problem);
  REQUIRE(problems.size() == 24);
  std::set<std::vector<uint32_t>> orders;
  for (int epoch = 0; epoch < 4; ++epoch) {
    const std::vector<uint32_t> one(problems.begin() + epoch * 6, problems.begin() + epoch * 6 + 6);
    REQUIRE(std::set<uint32_t>(one.begin(), one.end()).size() == 6);
    orders.insert(one);
  }
  REQUIRE(orders.size() > 1);
}

TEST_CASE("staleness s admits s more steps, and no more") {
  CoordinatorOptions options = SmallRun();
  options.max_staleness = 2;
  Driver run(options);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  const auto leases = run.Lease("w", 100);
  REQUIRE(leases.size() == 12);
  REQUIRE(leases[0].min_version == -2);
  REQUIRE(leases[11].min_version == 0);
  REQUIRE(run.Report(0).ok());
  REQUIRE(run.Lease("w", 100).size() == 4);
}

TEST_CASE("a lease lives by heartbeats that name it, and runs out without") {
  Driver run(SmallRun());
  REQUIRE(run.Join("a").ok());
  REQUIRE(run.Attach(0).ok());
  const auto leases = run.Lease("a", 4);
  REQUIRE(leases.size() == 4);
  const std::vector<GroupLease> kept(leases.begin(), leases.begin() + 3);
  for (int i = 0; i < 5; ++i) {
    run.now += absl::Seconds(4);
    REQUIRE(run.Heartbeat("a", kept)->revoked.empty());
    run.state->Tick(run.now);
  }
  // The fourth was not named for 20 s: granted again with the next attempt and a larger id.
  const auto again = run.Lease("a", 4);
  REQUIRE(again.size() == 1);
  REQUIRE(again[0].group == leases[3].group);
  REQUIRE(again[0].attempt == 1);
  REQUIRE(again[0].lease > leases[3].lease);
  REQUIRE(run.Heartbeat("a", leases)->revoked == std::vector<LeaseId>{leases[3].lease});
  // Whoever ends the group first wins, also with the old lease.
  REQUIRE(*run.Complete("a", leases[3]));
  REQUIRE_FALSE(*run.Complete("a", again[0]));
  REQUIRE(run.Heartbeat("a", again)->revoked == std::vector<LeaseId>{again[0].lease});
}

TEST_CASE("a lost worker's groups go to another, and it may come back") {
  Driver run(SmallRun());
  REQUIRE(run.Join("a").ok());
  REQUIRE(run.Join("b").ok());
  REQUIRE(run.Attach(0).ok());
  const auto held = run.Lease("a", 8);
  REQUIRE(held.size() == 2);  // its half
  REQUIRE(run.Lease("b", 8).size() == 2);
  for (int i = 0; i < 3; ++i) {
    run.now += absl::Seconds(5);
    run.state->Tick(run.now);
    REQUIRE(run.Heartbeat("b").ok());
  }
  const RunView view = run.state->View(run.now);
  REQUIRE(view.workers[0].state == "lost");
  REQUIRE(view.workers[1].state == "healthy");
  REQUIRE(run.Lease("b", 8).size() == 4);
  REQUIRE(run.Heartbeat("a", held)->revoked.size() == 2);
  run.state->Tick(run.now);
  REQUIRE(run.state->View(run.now).workers[0].state == "healthy");
}

TEST_CASE("a restarted worker frees what it held; a reconnecting one keeps it") {
  Driver run(SmallRun());
  REQUIRE(run.Join("a").ok());
  REQUIRE(run.Attach(0).ok());
  const auto leases = run.Lease("a", 4);
  REQUIRE(run.Join("a").ok());
  REQUIRE(run.Heartbeat("a", leases)->revoked.empty());
  REQUIRE(run.Join("a", "i2").ok());
  REQUIRE(run.Heartbeat("a").status().code() == absl::StatusCode::kFailedPrecondition);
  const auto again = run.Lease("a", 4, "i2");
  REQUIRE(again.size() == 4);
  REQUIRE(again[0].attempt == 1);
}

TEST_CASE("a blocked step says what it waits for and from whom") {
  CoordinatorOptions options = SmallRun();
  options.lease = absl::Minutes(5);
  Driver run(options);
  REQUIRE(run.state->View(run.now).awaiting == "the learner has not attached yet");
  REQUIRE(run.Attach(0).ok());
  REQUIRE(run.state->View(run.now).awaiting == "no rollout worker has joined yet");
  REQUIRE(run.Join("rollout-2").ok());
  const auto leases = run.Lease("rollout-2", 4);
  REQUIRE(*run.Complete("rollout-2", leases[0]));
  REQUIRE(run.state->View(run.now).awaiting.empty());
  run.now += absl::Seconds(41);
  REQUIRE(run.state->View(run.now).awaiting ==
          "step 0 waits for 3 of 4 groups: leased to rollout-2, last heartbeat 41 s ago");
  REQUIRE(run.Heartbeat("rollout-2", leases, 5).ok());
  REQUIRE(run.state->View(run.now).awaiting.empty());  // its tokens grow: not late
  for (int i = 1; i < 4; ++i) REQUIRE(*run.Complete("rollout-2", leases[i]));
  run.now += absl::Seconds(20);
  REQUIRE(run.state->View(run.now).awaiting ==
          "step 0 waits for the learner (learner:1): its batch has been whole for 20 s");
}

TEST_CASE("the learner's checkpoint wins: rows are rolled back to its step") {
  CoordinatorOptions options = SmallRun();
  options.curriculum.max_steps = {3};
  Driver run(options);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  run.TrainStep();
  run.TrainStep();
  const std::string at_two = Timeless(run.state->DurableImage());
  std::vector<uint32_t> problems;
  for (const auto& [id, group] : run.journal().groups) problems.push_back(group.problem);
  run.TrainStep();
  run.TrainStep();
  REQUIRE(run.state->View(run.now).stage == 1);
  const auto leases = run.Lease("w", 8);
  REQUIRE(*run.Attach(2, "L2") == 2);
  REQUIRE(run.state->trained() == 2);
  REQUIRE(run.state->View(run.now).stage == 0);
  REQUIRE(run.Heartbeat("w", leases)->revoked.size() == leases.size());
  // The same groups with the same problems, to be asked of the learner first.
  const auto again = run.Lease("w", 8);
  REQUIRE(again.size() == 4);
  REQUIRE(again[0].group == GroupId(8));
  REQUIRE(again[0].attempt == 1);
  REQUIRE(again[0].context_tokens == 48);
  std::vector<uint32_t> problems_again;
  for (const auto& [id, group] : run.journal().groups) problems_again.push_back(group.problem);
  REQUIRE(problems_again == problems);
  // Reports and questions of the old learner are refused.
  REQUIRE(run.Report(2).code() == absl::StatusCode::kFailedPrecondition);
  REQUIRE(run.NextStep(2, "L2")->directive == LearnerDirective::kTrain);
}

TEST_CASE("a learner that comes back at the same step gets its buffered groups again") {
  Driver run(SmallRun());
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  const auto leases = run.Lease("w", 4);
  REQUIRE(*run.Complete("w", leases[0]));
  REQUIRE(*run.Complete("w", leases[1]));
  REQUIRE(run.Attach(0).ok());  // the same learner: it has its buffer
  REQUIRE(run.state->View(run.now).groups_buffered == 2);
  REQUIRE(*run.Attach(0, "L2") == 0);
  REQUIRE(run.state->View(run.now).groups_buffered == 0);
  REQUIRE(run.state->View(run.now).groups_leased == 2);  // live leases stay
  // A completion that the old learner acknowledged does not count.
  REQUIRE_FALSE(*run.Complete("w", leases[2], Verdict::kCorrect, "L1"));
  REQUIRE(run.state->View(run.now).groups_pending == 3);
  REQUIRE(*run.Complete("w", leases[3], Verdict::kCorrect, "L2"));
}

TEST_CASE("a step that only the checkpoint knows is taken as trained; its report fills in") {
  Driver run(SmallRun());
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  run.TrainStep();
  REQUIRE(*run.Attach(2, "L2") == 0);  // step 1 was trained and checkpointed, not reported
  REQUIRE(run.state->trained() == 2);
  StepMetrics metrics;
  metrics.generated_tokens = 100;
  metrics.pass_rate = 0.5;
  REQUIRE(run.Report(1, metrics, "L2").ok());
  const HistoryView history = run.state->History(0, 10);
  REQUIRE(history.steps[1].reported);
  REQUIRE(history.steps[1].metrics.pass_rate == 0.5);
  REQUIRE(history.steps[1].train_generated_tokens == 100);
  metrics.pass_rate = 0.9;
  REQUIRE(run.Report(1, metrics, "L2").ok());  // once
  REQUIRE(run.state->History(0, 10).steps[1].metrics.pass_rate == 0.5);
  REQUIRE(run.Attach(9, "L3").status().code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("stages: cap, hold, release, advance, go to; the last stage never ends") {
  CoordinatorOptions options = SmallRun();
  options.curriculum.max_steps = {2, 1};
  Driver run(options);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  REQUIRE(run.state->SetStage(StageAction::kHold, 0, run.now).ok());
  for (int i = 0; i < 3; ++i) run.TrainStep();
  REQUIRE(run.state->View(run.now).stage == 0);
  REQUIRE(run.state->SetStage(StageAction::kRelease, 0, run.now).ok());
  run.TrainStep();  // planned already
  REQUIRE(run.state->View(run.now).stage == 1);
  run.TrainStep();
  run.TrainStep();
  REQUIRE(run.state->View(run.now).stage == 1);
  REQUIRE(run.state->SetStage(StageAction::kAdvance, 0, run.now).code() ==
          absl::StatusCode::kInvalidArgument);
  REQUIRE(run.state->SetStage(StageAction::kGoTo, 0, run.now).ok());
  run.TrainStep();
  const std::vector<StageView> stages = run.state->View(run.now).stages;
  REQUIRE(stages.size() == 3);
  REQUIRE(stages[0].first_step == 0);
  REQUIRE(stages[0].last_step == 3);
  REQUIRE(stages[0].reason == "cap: 4 steps of at most 2");
  REQUIRE(stages[1].first_step == 4);
  REQUIRE(stages[1].last_step == 6);
  REQUIRE(absl::StrContains(stages[1].reason, "operator"));
  REQUIRE(stages[2].index == 0);
  REQUIRE(stages[2].last_step == -1);
}

TEST_CASE("several sets, each with its own samples, limit and turn") {
  CoordinatorOptions options = SmallRun();
  options.steps = 2;
  SamplingParams cool;
  cool.temperature = 0.6F;
  cool.top_p = 0.95F;
  options.evaluations = {{"often", 1, 1, {}, 96, 1}, {"seldom", 2, 2, cool, 32, 0}};
  options.evaluation_problems = MakeProblems(3, "e");
  options.evaluation_problems[2].variant_of = 1;
  Driver run(options);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  run.now += absl::Seconds(2);
  const auto base = run.Lease("w", 100);
  REQUIRE(base.size() == 3);
  REQUIRE(base[0].samples == 1);
  REQUIRE(base[0].context_tokens == 96);
  REQUIRE(base[1].samples == 2);
  REQUIRE(base[1].context_tokens == 32);
  REQUIRE(base[2].sampling.top_p == 0.95F);
  for (const GroupLease& lease : base) REQUIRE(*run.Complete("w", lease));
  RunView view = run.state->View(run.now);
  REQUIRE(view.last_evaluations.size() == 2);
  REQUIRE(view.last_evaluations[0].set == "often");
  REQUIRE(view.last_evaluations[1].set == "seldom");
  REQUIRE(view.last_evaluations[1].originals == 1);
  REQUIRE(view.last_evaluation->set == "often");
  run.now += absl::Seconds(1);
  for (const GroupLease& lease : run.Lease("w", 100)) REQUIRE(*run.Complete("w", lease));
  REQUIRE(run.Report(0).ok());
  const auto first = run.Lease("w", 100);  // only the set whose turn it is
  REQUIRE(first.size() == 1);
  REQUIRE(first[0].group == EvaluationGroup(1, 0));
  run.Restart();
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(1).ok());
  REQUIRE(*run.Complete("w", first[0]));
  view = run.state->View(run.now);
  REQUIRE(view.last_evaluations[0].step == 1);
  REQUIRE(view.last_evaluations[1].step == 0);
  REQUIRE(run.state->History(1, 10).evaluations.size() == 1);
  REQUIRE(run.Attach(0).ok());  // rolled back: the result of step 1 is gone, the base's stay
  REQUIRE(run.state->History(0, 10).evaluations.size() == 2);
}

TEST_CASE("evaluation is a barrier: base, every K steps, and the end") {
  CoordinatorOptions options = SmallRun();
  options.steps = 2;
  options.evaluations = {{"held-out", 3, 1, {}, 96, 0}};
  options.evaluation_problems = MakeProblems(3, "e");
  Driver run(options);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  REQUIRE(run.NextStep(0)->directive == LearnerDirective::kWait);
  REQUIRE(run.state->View(run.now).state == "evaluating");
  run.now += absl::Seconds(2);
  const auto leases = run.Lease("w", 100);
  REQUIRE(leases.size() == 3);
  REQUIRE(leases[0].purpose == GroupPurpose::kEvaluate);
  REQUIRE(leases[0].pinned_version == 0);
  REQUIRE(leases[0].group == EvaluationGroup(0, 0));
  REQUIRE(leases[0].context_tokens == 96);
  REQUIRE(*run.Complete("w", leases[0]));
  REQUIRE(*run.Complete("w", leases[1], Verdict::kIncorrect));
  run.Restart();  // in the middle of the round
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  REQUIRE(*run.Complete("w", leases[2], Verdict::kUndecided));
  REQUIRE(run.NextStep(0)->directive == LearnerDirective::kTrain);
  const RunView view = run.state->View(run.now);
  REQUIRE(view.last_evaluation->pass_at_1 == Approx(1.0 / 3));
  REQUIRE(view.last_evaluation->mean_tokens == 10);
  REQUIRE(view.elapsed_seconds == Approx(2));
  REQUIRE(view.train_elapsed_seconds == Approx(0));
  for (int step = 0; step < 2; ++step) {
    run.now += absl::Seconds(1);
    for (const GroupLease& lease : run.Lease("w", 100)) REQUIRE(*run.Complete("w", lease));
    REQUIRE(run.Report(step).ok());
  }
  REQUIRE(run.state->evaluating());
  REQUIRE(run.NextStep(2)->directive == LearnerDirective::kWait);
  REQUIRE_FALSE(run.Heartbeat("w")->finished);
  for (const GroupLease& lease : run.Lease("w", 100)) {
    REQUIRE(lease.pinned_version == 2);
    REQUIRE(*run.Complete("w", lease));
  }
  REQUIRE(run.state->finished());
  REQUIRE(run.Heartbeat("w")->finished);
  REQUIRE(run.NextStep(2)->directive == LearnerDirective::kFinished);
  REQUIRE(run.state->History(0, 10).evaluations.size() == 2);
  REQUIRE(run.state->History(0, 10).evaluations[1].train_elapsed_seconds == Approx(2));
}

TEST_CASE("a finished run goes on when it is given more steps") {
  CoordinatorOptions options = SmallRun();
  options.steps = 2;
  options.evaluations = {{"held-out", 1, 1, {}, 96, 0}};
  options.evaluation_problems = MakeProblems(1, "e");
  Driver run(options);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  REQUIRE(*run.Complete("w", run.Lease("w", 1).at(0)));
  run.TrainStep();
  run.TrainStep();
  REQUIRE(*run.Complete("w", run.Lease("w", 1).at(0)));
  REQUIRE(run.state->finished());
  run.SetSteps(4);
  run.Restart();
  REQUIRE_FALSE(run.state->finished());
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(2).ok());
  REQUIRE(run.NextStep(2)->directive == LearnerDirective::kTrain);
  run.TrainStep();
  run.TrainStep();
  REQUIRE(run.state->evaluating());
  run.SetSteps(1);  // fewer than are trained: over
  run.Restart();
  REQUIRE(run.state->View(run.now).steps_total == 1);
}

TEST_CASE("a worker that evaluates another version than asked is not believed") {
  CoordinatorOptions options = SmallRun();
  options.evaluations = {{"held-out", 1, 1, {}, 96, 0}};
  options.evaluation_problems = MakeProblems(1, "e");
  Driver run(options);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  auto lease = run.Lease("w", 1).at(0);
  lease.pinned_version = 3;
  REQUIRE_FALSE(*run.Complete("w", lease));
  REQUIRE(run.state->evaluating());
  REQUIRE(run.Lease("w", 1).at(0).attempt == 1);
}

TEST_CASE("a round of a version that was rolled back is dropped with its late results") {
  CoordinatorOptions options = SmallRun();
  options.evaluations = {{"held-out", 1, 1, {}, 96, 1}};
  options.evaluation_problems = MakeProblems(1, "e");
  Driver run(options);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  REQUIRE(*run.Complete("w", run.Lease("w", 1).at(0)));
  for (const GroupLease& lease : run.Lease("w", 100)) REQUIRE(*run.Complete("w", lease));
  REQUIRE(run.Report(0).ok());
  const GroupLease old = run.Lease("w", 1).at(0);
  REQUIRE(old.pinned_version == 1);
  REQUIRE(*run.Attach(0, "L2") == 1);
  REQUIRE_FALSE(run.state->evaluating());  // that of step 0 stands
  REQUIRE_FALSE(*run.Complete("w", old));
  for (const GroupLease& lease : run.Lease("w", 100)) REQUIRE(*run.Complete("w", lease));
  REQUIRE(run.Report(0, {}, "L2").ok());
  REQUIRE(run.state->evaluating());
  REQUIRE_FALSE(*run.Complete("w", old));  // the same id, but of another version 1
  REQUIRE(*run.Complete("w", run.Lease("w", 1).at(0)));
}

TEST_CASE("after a restart callers must introduce themselves, and leases hold") {
  Driver run(SmallRun());
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  const auto leases = run.Lease("w", 4);
  run.now += absl::Hours(5);  // away for long
  run.Restart();
  REQUIRE(run.state->View(run.now).elapsed_seconds == 0);
  REQUIRE(run.Heartbeat("w", leases).status().code() == absl::StatusCode::kFailedPrecondition);
  REQUIRE(run.NextStep(0).status().code() == absl::StatusCode::kFailedPrecondition);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Heartbeat("w", leases)->revoked.empty());
  REQUIRE(*run.Attach(0) == 0);
  for (const GroupLease& lease : leases) REQUIRE(*run.Complete("w", lease));
  REQUIRE(run.Report(0).ok());
}

TEST_CASE("bad requests name the field and change nothing") {
  Driver run(SmallRun());
  REQUIRE(run.Join("Bad Name").code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(run.Join("w", "").code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(run.Join("w", "i1", 0).code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.state->Lease("w", "i1", 0, run.now).status().code() ==
          absl::StatusCode::kInvalidArgument);
  REQUIRE(run.state->Lease("w", "i1", 257, run.now).status().code() ==
          absl::StatusCode::kInvalidArgument);
  REQUIRE(run.Attach(11).status().code() == absl::StatusCode::kInvalidArgument);
  const absl::Status digest =
      run.state->AttachLearner({"learner:1", "L1", 0, "other"}, run.now).status();
  REQUIRE(digest.code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(absl::StrContains(digest.message(), "other"));
  REQUIRE(run.Attach(0).ok());
  const auto leases = run.Lease("w", 4);
  GroupLease never = leases[0];
  never.lease = LeaseId(99);
  REQUIRE(run.Complete("w", never).status().code() == absl::StatusCode::kInvalidArgument);
  ReportStepEvent report;
  report.incarnation = "L1";
  report.groups.resize(1);
  report.groups[0].group = GroupId(77);
  REQUIRE(run.state->ReportStep(report, run.now).code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(run.state->trained() == 0);
}

TEST_CASE("the journal of another run is refused, one with missing rows is corrupt") {
  Driver run(SmallRun());
  REQUIRE(run.Attach(0).ok());
  CoordinatorOptions other = SmallRun();
  other.config_digest = "other";
  REQUIRE(CoordinatorState::Create(other, run.journal(), run.now).status().code() ==
          absl::StatusCode::kFailedPrecondition);
  JournalImage image = run.journal();
  image.groups.erase(image.groups.begin());
  REQUIRE(CoordinatorState::Create(run.options(), image, run.now).status().code() ==
          absl::StatusCode::kDataLoss);
}

TEST_CASE("time left is known from the pace of the last steps") {
  Driver run(SmallRun());
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach(0).ok());
  REQUIRE(run.state->View(run.now).eta_seconds == -1);
  for (int i = 0; i < 4; ++i) {
    run.now += absl::Seconds(3);
    run.TrainStep();
    REQUIRE(run.state->View(run.now).eta_seconds == Approx(3.0 * (9 - i)));
  }
}

}  // namespace
}  // namespace crescendo
