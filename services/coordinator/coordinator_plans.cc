// What comes next: plans of steps, stages, and evaluation rounds.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/rng.h"
#include "services/coordinator/coordinator_state.h"
#include "services/coordinator/evaluation.h"

namespace crescendo {

namespace {

void AddOutcome(const OutcomeRow& outcome, int sign, ProblemStatistics& statistics) {
  statistics.groups += sign;
  statistics.correct += sign * outcome.correct;
  statistics.samples += sign * (outcome.correct + outcome.incorrect + outcome.undecided);
}

}  // namespace

// Plans
// ------------------------------------------------------------------------------------------------------

// The trained and reported steps of the current stage's entry.
std::vector<StageStep> CoordinatorState::StageTrace() const {
  std::vector<StageStep> trace;
  for (int64_t step = stages_.back().first_step; step < scalars_.trained; ++step) {
    const StepRow& row = steps_[step];
    if (!row.reported) continue;
    trace.push_back(
        {row.metrics.response_tokens_mean, row.metrics.truncation_ratio, row.metrics.pass_rate});
  }
  return trace;
}

// The next step to be planned is the first of `stage`.
void CoordinatorState::EnterStage(int stage, std::string rule, std::string reason) {
  StageRow row;
  row.entry = static_cast<int64_t>(stages_.size());
  row.stage = stage;
  row.first_step = NextUnplannedStep();
  row.decided_at = scalars_.trained;
  row.rule = std::move(rule);
  row.reason = std::move(reason);
  Note(false,
       absl::StrCat("stage ", stage, " (", options_.stages[stage].context_tokens,
                    " tokens) from step ", row.first_step, ": ", row.reason),
       {.step = row.first_step});
  Record(row);
  stages_.push_back(std::move(row));
  ++counters_.stage_changes;
  CapacitiesChanged();
}

void CoordinatorState::PlanStep(absl::Time now) {
  PlanRow plan;
  plan.step = NextUnplannedStep();
  plan.stage = stages_.back().stage;
  plan.first_group = plans_.empty() ? 0 : plans_.back().first_group + plans_.back().groups;
  plan.groups = options_.stages[plan.stage].groups_per_step;
  plan.planned_at = scalars_.trained;
  if (plan.step == scalars_.trained) step_changed_ = now;
  for (int i = 0; i < plan.groups; ++i) {
    GroupRow row;
    row.group = GroupId(plan.first_group + i);
    row.step = plan.step;
    row.problem = order_.Next(row.group, options_.stages[plan.stage].level_mix, scalars_.trained,
                              statistics_);
    // An id that was planned before a roll-back may still have chunks at the learner.
    row.attempts = row.group.value() < scalars_.groups_ever ? 1 : 0;
    AddGroup(std::move(row), now);
  }
  const ProblemPosition& position = order_.position();
  plan.epoch = position.epoch;
  plan.epoch_started_at = position.started_at;
  plan.cursors = absl::StrJoin(position.cursors, ",");
  scalars_.groups_ever = std::max(scalars_.groups_ever, plan.first_group + plan.groups);
  scalars_dirty_ = true;
  Record(plan);
  plans_.push_back(std::move(plan));
}

bool CoordinatorState::RestoreOrder() {
  ProblemPosition position;
  if (plans_.empty()) {
    order_ = ProblemOrder(order_.options());
    return true;
  }
  position.epoch = plans_.back().epoch;
  position.started_at = plans_.back().epoch_started_at;
  for (absl::string_view text : absl::StrSplit(plans_.back().cursors, ',')) {
    uint32_t cursor = 0;
    if (!absl::SimpleAtoi(text, &cursor)) return false;
    position.cursors.push_back(cursor);
  }
  std::vector<ProblemStatistics> statistics(options_.problems.size());
  for (const OutcomeRow& outcome : outcomes_) {
    if (outcome.step < position.started_at) AddOutcome(outcome, 1, statistics[outcome.problem]);
  }
  return order_.Restore(position, statistics);
}

void CoordinatorState::PlanSteps(absl::Time now) {
  const int stages = static_cast<int>(options_.stages.size());
  while (NextUnplannedStep() <= scalars_.trained + options_.max_staleness &&
         NextUnplannedStep() < options_.steps) {
    const StageRow& stage = stages_.back();
    const int64_t planned = NextUnplannedStep() - stage.first_step;
    std::optional<StageDecision> decision;
    if (!scalars_.hold) {
      decision = DecideStageEnd(options_.curriculum, stage.stage, stages, planned, StageTrace());
    }
    if (decision) {
      EnterStage(stage.stage + 1, CurriculumRuleName(decision->rule), std::move(decision->reason));
    }
    PlanStep(now);
  }
}

// Nothing is decided before the newest step's report is there, or the learner has shown that it has
// none: the curriculum would decide otherwise than in a run where nobody died.
bool CoordinatorState::AwaitsReport() const {
  return scalars_.trained > 0 && !steps_[scalars_.trained - 1].reported;
}

void CoordinatorState::MoveOn(absl::Time now) {
  if (scalars_.learner_incarnation.empty()) return;
  if (!round_ && RoundDue()) StartRound(now);
  if (!round_) PlanSteps(now);
}

// Evaluation rounds
// ------------------------------------------------------------------------------------------------------

bool CoordinatorState::SetDue(size_t set) const {
  const int64_t step = scalars_.trained;
  const int every = options_.evaluations[set].every;
  const bool wanted = step == 0 || step == options_.steps || (every > 0 && step % every == 0);
  return wanted && evaluations_.count(EvaluationEntry(step, set)) == 0;
}

bool CoordinatorState::RoundDue() const {
  for (size_t set = 0; set < options_.evaluations.size(); ++set) {
    if (SetDue(set)) return true;
  }
  return false;
}

size_t CoordinatorState::SetOfProblem(uint32_t problem) const {
  size_t set = 0;
  for (uint32_t end = options_.evaluations[0].problems; problem >= end;
       end += options_.evaluations[++set].problems) {
  }
  return set;
}

void CoordinatorState::StartRound(absl::Time now) {
  round_.emplace();
  round_->row.step = scalars_.trained;
  round_->row.lease_floor = LeaseId(scalars_.next_lease);
  Record(round_->row);
  scalars_.evaluation_seconds = 0;
  scalars_dirty_ = true;
  CapacitiesChanged();
  step_changed_ = now;
  uint32_t problem = 0;
  for (size_t set = 0; set < options_.evaluations.size(); ++set) {
    const uint32_t end = problem + options_.evaluations[set].problems;
    if (!SetDue(set)) problem = end;
    for (; problem < end; ++problem) {
      GroupRow row;
      row.group = EvaluationGroup(scalars_.trained, problem);
      row.step = scalars_.trained;
      row.problem = problem;
      AddGroup(std::move(row), now);
    }
  }
}

void CoordinatorState::FinishRound() {
  const int64_t step = round_->row.step;
  std::map<size_t, std::vector<EvaluationOutcomeRow>> by_set;
  double tokens = 0;
  for (const auto& [id, outcome] : round_->outcomes) {
    by_set[SetOfProblem(outcome.problem)].push_back(outcome);
    tokens += static_cast<double>(outcome.tokens);
  }
  std::vector<int64_t> variant_of;
  for (const Problem& problem : options_.evaluation_problems) {
    variant_of.push_back(problem.variant_of);
  }
  for (const auto& [set, outcomes] : by_set) {
    EvaluationRow row =
        SummarizeSet(outcomes, variant_of, MixSeed(MixSeed(options_.seed, step), set));
    row.entry = EvaluationEntry(step, set);
    row.step = step;
    row.set = options_.evaluations[set].set;
    const double share = tokens > 0 ? static_cast<double>(row.generated_tokens) / tokens
                                    : 1.0 / static_cast<double>(by_set.size());
    row.seconds = scalars_.evaluation_seconds * share;
    row.train_elapsed_seconds = scalars_.train_elapsed_seconds;
    row.train_generated_tokens = steps_.empty() ? 0 : steps_.back().train_generated_tokens;
    Note(false,
         absl::StrCat("evaluation at step ", step, ", ", row.set, ": pass@1 ", row.pass_at_1, " [",
                      row.ci95_low, ", ", row.ci95_high, "] on ", row.problems, " problems"),
         {.step = step});
    Record(row);
    counters_.generated_tokens += row.generated_tokens;
    evaluations_[row.entry] = std::move(row);
  }
  ++counters_.evaluations;
  DropRound();
}

void CoordinatorState::DropRound() {
  const auto step = static_cast<uint64_t>(round_->row.step);
  std::vector<uint64_t> ids;
  for (auto it = groups_.lower_bound(kEvaluationGroupBit); it != groups_.end(); ++it) {
    ids.push_back(it->first);
  }
  for (const uint64_t id : ids) EraseGroup(id);
  Record(TruncateOp{JournalTable::kGroup, kEvaluationGroupBit});
  Record(TruncateOp{JournalTable::kEvaluationOutcome, 0});
  Record(TruncateOp{JournalTable::kRound, step});
  round_.reset();
  scalars_.evaluation_seconds = 0;
  scalars_dirty_ = true;
  CapacitiesChanged();
}

void CoordinatorState::AddStatistics(const OutcomeRow& outcome, int sign) {
  AddOutcome(outcome, sign, statistics_[outcome.problem]);
}

}  // namespace crescendo
