// The learner, whose checkpoint wins over all that the coordinator knows, and the operator.
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/coordinator/coordinator_state.h"

namespace crescendo {

// The learner
// ------------------------------------------------------------------------------------------------------

absl::Status CoordinatorState::CheckLearner(const std::string& incarnation,
                                            absl::string_view operation) const {
  if (learner_attached_ && incarnation == scalars_.learner_incarnation) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(operation, ": the learner is not known in this incarnation (", incarnation,
                   "): AttachLearner first"));
}

absl::StatusOr<int64_t> CoordinatorState::AttachLearner(const AttachLearnerEvent& event,
                                                        absl::Time now) {
  if (event.incarnation.empty() || event.incarnation.size() > 256 || event.address.size() > 256) {
    return absl::InvalidArgumentError(
        "AttachLearner: incarnation and address: expected 1 to 256 bytes");
  }
  if (event.step < 0 || event.step > options_.steps) {
    return absl::InvalidArgumentError(absl::StrCat(
        "AttachLearner: step: expected 0 to ", options_.steps, " (run.steps), found ", event.step));
  }
  if (event.config_digest != options_.config_digest) {
    return absl::InvalidArgumentError(
        absl::StrCat("AttachLearner: the learner's configuration (digest ", event.config_digest,
                     ") is not the coordinator's (", options_.config_digest,
                     "): start both with the same file and overrides"));
  }
  if (event.step > NextUnplannedStep()) {
    return absl::DataLossError(absl::StrCat(
        "AttachLearner: the learner's checkpoint holds ", event.step,
        " steps, but the journal of run ", run_.run_id, " has planned only ", NextUnplannedStep(),
        ": it is of another run or was lost; start the learner from a checkpoint of at most ",
        NextUnplannedStep(), " steps, or put the run's coordinator.sqlite back"));
  }
  Advance(now);
  const int64_t rolled_back = std::max<int64_t>(0, scalars_.trained - event.step);
  if (rolled_back > 0) {
    Note(true,
         absl::StrCat("the learner came back at step ", event.step, ": ", rolled_back,
                      " steps are rolled back"),
         {.step = event.step});
    counters_.steps_rolled_back += rolled_back;
    RollBack(event.step, now);
  }
  while (scalars_.trained < event.step) {
    Note(true,
         absl::StrCat("step ", scalars_.trained,
                      " was trained, says the learner's checkpoint; its report is missing"),
         {.step = scalars_.trained});
    Consume(plans_[scalars_.trained], {}, nullptr);
  }
  if (round_ && round_->row.step != scalars_.trained) DropRound();
  if (event.incarnation != scalars_.learner_incarnation || rolled_back > 0) {
    for (auto& [id, group] : groups_) {
      if (group.row.state == GroupRowState::kComplete) Release(group, now);
    }
  }
  scalars_.learner_address = event.address;
  scalars_.learner_incarnation = event.incarnation;
  learner_resources_ = event.resources;
  scalars_dirty_ = true;
  learner_attached_ = true;
  step_changed_ = now;
  Note(false, absl::StrCat("learner ", event.incarnation, " attached at step ", event.step),
       {.step = event.step});
  if (!AwaitsReport()) MoveOn(now);
  return rolled_back;
}

absl::StatusOr<NextStepReply> CoordinatorState::NextStep(StepId step,
                                                         const std::string& incarnation,
                                                         absl::Time now) {
  RETURN_IF_ERROR(CheckLearner(incarnation, "NextStep"));
  Advance(now);
  if (step.value() != scalars_.trained) {
    return absl::FailedPreconditionError(
        absl::StrCat("NextStep: the learner would train step ", step.value(), ", but ",
                     scalars_.trained, " steps are known here: AttachLearner again"));
  }
  // A learner reports before it asks: this one has nothing to report.
  if (AwaitsReport()) MoveOn(now);
  NextStepReply reply;
  if (finished()) {
    reply.directive = LearnerDirective::kFinished;
  } else if (!round_ && scalars_.trained < NextUnplannedStep()) {
    const PlanRow& plan = plans_[scalars_.trained];
    const StageOptions& stage = options_.stages[plan.stage];
    reply.directive = LearnerDirective::kTrain;
    reply.plan.step = step;
    reply.plan.stage = plan.stage;
    for (int i = 0; i < plan.groups; ++i) reply.plan.groups.emplace_back(plan.first_group + i);
    reply.plan.group_samples = stage.group_samples;
    reply.plan.context_tokens = stage.context_tokens;
    reply.plan.learning_rate = stage.learning_rate;
    reply.plan.max_staleness = options_.max_staleness;
  }
  return reply;
}

absl::Status CoordinatorState::CheckOutcomes(const PlanRow& plan,
                                             const std::vector<GroupOutcome>& outcomes) const {
  absl::flat_hash_set<uint64_t> seen;
  for (const GroupOutcome& outcome : outcomes) {
    const uint64_t id = outcome.group.value();
    const bool in_plan = id >= plan.first_group && id - plan.first_group < uint64_t(plan.groups);
    if (!in_plan || !seen.insert(id).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("ReportStep: step ", plan.step, ": group ", id,
                       in_plan ? " comes twice" : " is not in its plan"));
    }
  }
  return absl::OkStatus();
}

absl::Status CoordinatorState::ReportStep(const ReportStepEvent& event, absl::Time now) {
  RETURN_IF_ERROR(CheckLearner(event.incarnation, "ReportStep"));
  const int64_t step = event.step.value();
  if (step < 0 || step > scalars_.trained || step >= NextUnplannedStep()) {
    return absl::FailedPreconditionError(
        absl::StrCat("ReportStep: step ", step, ", but ", scalars_.trained,
                     " steps are known here: AttachLearner again"));
  }
  RETURN_IF_ERROR(CheckOutcomes(plans_[step], event.groups));
  Advance(now);
  if (step < scalars_.trained) {
    if (!steps_[step].reported) {
      FillIn(event);
      if (!AwaitsReport()) MoveOn(now);
    }
    return absl::OkStatus();
  }
  Consume(plans_[step], event.groups, &event.metrics);
  step_changed_ = now;
  MoveOn(now);
  return absl::OkStatus();
}

namespace {

OutcomeRow ToRow(const GroupOutcome& outcome, int64_t step, uint32_t problem) {
  OutcomeRow row;
  row.group = outcome.group;
  row.step = step;
  row.problem = problem;
  row.correct = outcome.correct;
  row.incorrect = outcome.incorrect;
  row.undecided = outcome.undecided;
  row.truncated = outcome.truncated;
  row.tokens = outcome.tokens;
  row.reward = outcome.reward;
  return row;
}

}  // namespace

// The plan's groups end here, as step `trained`. metrics is null when only the checkpoint says so.
void CoordinatorState::Consume(const PlanRow& plan, const std::vector<GroupOutcome>& outcomes,
                               const StepMetrics* metrics) {
  CRESCENDO_CHECK(plan.step == scalars_.trained && plan.first_group == outcomes_.size());
  for (int i = 0; i < plan.groups; ++i) {
    const uint64_t id = plan.first_group + i;
    OutcomeRow row;
    row.group = GroupId(id);
    row.step = plan.step;
    row.problem = groups_.at(id).row.problem;
    EraseGroup(id);
    Record(EraseGroupOp{GroupId(id)});
    outcomes_.push_back(row);
  }
  for (const GroupOutcome& outcome : outcomes) {
    OutcomeRow& row = outcomes_[outcome.group.value()];
    row = ToRow(outcome, plan.step, row.problem);
  }
  for (int i = 0; i < plan.groups; ++i) {
    const OutcomeRow& row = outcomes_[plan.first_group + i];
    AddStatistics(row, 1);
    Record(row);
  }
  StepRow step;
  step.step = plan.step;
  step.stage = plan.stage;
  step.reported = metrics != nullptr;
  if (metrics != nullptr) {
    step.metrics = *metrics;
    counters_.generated_tokens += metrics->generated_tokens;
    counters_.trained_tokens += metrics->trained_tokens;
  }
  step.elapsed_seconds = scalars_.elapsed_seconds;
  step.train_elapsed_seconds = scalars_.train_elapsed_seconds;
  step.train_generated_tokens =
      (steps_.empty() ? 0 : steps_.back().train_generated_tokens) + step.metrics.generated_tokens;
  CountCost();
  const CostTotals spent = cost_.totals();
  step.gpu_hours = spent.gpu_hours;
  step.core_hours = spent.core_hours;
  step.money = spent.money;
  Record(step);
  steps_.push_back(step);
  ++scalars_.trained;
  ++counters_.steps;
  scalars_dirty_ = true;
}

// A report that comes after its step was known from the learner's checkpoint.
void CoordinatorState::FillIn(const ReportStepEvent& event) {
  const int64_t step = event.step.value();
  for (const GroupOutcome& outcome : event.groups) {
    OutcomeRow& row = outcomes_[outcome.group.value()];
    AddStatistics(row, -1);
    row = ToRow(outcome, step, row.problem);
    AddStatistics(row, 1);
    Record(row);
  }
  steps_[step].reported = true;
  steps_[step].metrics = event.metrics;
  for (int64_t s = step; s < scalars_.trained; ++s) {
    steps_[s].train_generated_tokens += event.metrics.generated_tokens;
    Record(steps_[s]);
  }
}

// Roll-back
// ------------------------------------------------------------------------------------------------------

// Forgets the plans from `step` on with their groups; what workers hold of them is revoked.
void CoordinatorState::UnplanFrom(int64_t step) {
  const uint64_t first_group = plans_[step].first_group;
  std::vector<uint64_t> ids;
  for (auto it = groups_.lower_bound(first_group);
       it != groups_.end() && it->first < kEvaluationGroupBit; ++it) {
    ids.push_back(it->first);
  }
  for (const uint64_t id : ids) EraseGroup(id);
  Record(TruncateOp{JournalTable::kGroup, first_group});
  Record(TruncateOp{JournalTable::kPlan, static_cast<uint64_t>(step)});
  plans_.resize(step);
}

void CoordinatorState::RollBack(int64_t step, absl::Time now) {
  CRESCENDO_CHECK(step < scalars_.trained);
  const uint64_t first_group = plans_[step].first_group;
  std::vector<OutcomeRow> reopened(outcomes_.begin() + static_cast<int64_t>(first_group),
                                   outcomes_.end());
  outcomes_.resize(first_group);
  steps_.resize(step);
  const auto key = static_cast<uint64_t>(step);
  Record(TruncateOp{JournalTable::kOutcome, first_group});
  Record(TruncateOp{JournalTable::kStep, key});
  scalars_.trained = step;
  scalars_dirty_ = true;

  for (int64_t s = step; s < NextUnplannedStep(); ++s) {
    if (plans_[s].planned_at <= step) continue;
    UnplanFrom(s);
    break;
  }
  const uint64_t groups_planned =
      plans_.empty() ? 0 : plans_.back().first_group + plans_.back().groups;
  for (const OutcomeRow& outcome : reopened) {
    AddStatistics(outcome, -1);
    if (outcome.group.value() >= groups_planned) continue;
    GroupRow row;
    row.group = outcome.group;
    row.step = outcome.step;
    row.problem = outcome.problem;
    row.attempts = 1;  // the learner may hold chunks of it: ask it
    AddGroup(std::move(row), now);
  }
  while (stages_.back().decided_at > step) {
    Note(true, absl::StrCat("stage ", stages_.back().stage, " is undone: ", stages_.back().reason));
    stages_.pop_back();
  }
  Record(TruncateOp{JournalTable::kStage, stages_.size()});
  const int64_t later = EvaluationEntry(step + 1, 0);
  evaluations_.erase(evaluations_.lower_bound(later), evaluations_.end());
  Record(TruncateOp{JournalTable::kEvaluation, static_cast<uint64_t>(later)});
  CRESCENDO_CHECK(RestoreOrder());
  CapacitiesChanged();
}

// The operator
// ------------------------------------------------------------------------------------------------------

absl::Status CoordinatorState::SetStage(StageAction action, int stage, absl::Time now) {
  const StageRow& current = stages_.back();
  const int stages = static_cast<int>(options_.stages.size());
  if (action == StageAction::kHold || action == StageAction::kRelease) {
    Advance(now);
    scalars_.hold = action == StageAction::kHold;
    scalars_dirty_ = true;
    Note(false, scalars_.hold ? "operator: the stage is held" : "operator: the stage is released");
    return absl::OkStatus();
  }
  const int target = action == StageAction::kAdvance ? current.stage + 1 : stage;
  if (target < 0 || target >= stages) {
    return absl::InvalidArgumentError(
        absl::StrCat("SetStage: stage: expected 0 to ", stages - 1, ", found ", target));
  }
  if (NextUnplannedStep() >= options_.steps) {
    return absl::InvalidArgumentError("SetStage: every step of the run is planned already");
  }
  Advance(now);
  if (target == current.stage) return absl::OkStatus();
  EnterStage(target, "operator",
             absl::StrCat("operator: from stage ", current.stage, " to ", target, " after ",
                          scalars_.trained, " trained steps"));
  return absl::OkStatus();
}

}  // namespace crescendo
