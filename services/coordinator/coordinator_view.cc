// The run in words and numbers, for people.
#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/coordinator/coordinator_state.h"

namespace crescendo {

namespace {

constexpr size_t kHoldersNamedMax = 4;
constexpr int64_t kEtaSteps = 10;  // averaged

}  // namespace

bool CoordinatorState::finished() const {
  return scalars_.trained >= options_.steps && !round_ && !RoundDue();
}

// "3 of 8 groups: leased to rollout-2, last heartbeat 41 s ago": the groups in [first, last] of
// groups_ that are not complete; empty when none of them is late.
std::string CoordinatorState::AwaitedGroups(absl::string_view what, uint64_t first, uint64_t last,
                                            int total, absl::Time now,
                                            std::vector<std::string>* from) const {
  int unfinished = 0;
  int pending_late = 0;
  std::string handed_back;
  std::map<std::string, int> late;  // by worker
  for (auto it = groups_.lower_bound(first); it != groups_.end() && it->first <= last; ++it) {
    const Group& group = it->second;
    if (group.row.state == GroupRowState::kComplete) continue;
    ++unfinished;
    if (now - group.changed <= options_.awaited_after) continue;
    if (group.row.state == GroupRowState::kPending) {
      ++pending_late;
      if (handed_back.empty()) handed_back = group.handed_back;
    } else {
      ++late[group.row.worker];
    }
  }
  if (pending_late == 0 && late.empty()) return "";
  std::vector<std::string> holders;
  if (pending_late > 0) {
    from->push_back("anyone");
    const auto live =
        std::count_if(members_.workers().begin(), members_.workers().end(),
                      [this](const auto& entry) { return members_.MayLease(entry.second); });
    holders.push_back(absl::StrCat(pending_late, " leased to nobody (", live, " of ",
                                   members_.workers().size(), " workers can take groups)",
                                   handed_back.empty() ? "" : ", handed back by ", handed_back));
  }
  for (const auto& [worker_id, count] : late) from->push_back(worker_id);
  for (const auto& [worker_id, count] : late) {
    if (holders.size() >= kHoldersNamedMax) {
      holders.push_back(absl::StrCat("and ", late.size() + 1 - holders.size(), " other workers"));
      break;
    }
    auto worker = members_.workers().find(worker_id);
    const double age =
        worker == members_.workers().end() ? 0 : absl::ToDoubleSeconds(now - worker->second.heard);
    holders.push_back(absl::StrFormat("leased to %s, last heartbeat %.0f s ago", worker_id, age));
  }
  return absl::StrCat(what, " waits for ", unfinished, " of ", total,
                      " groups: ", absl::StrJoin(holders, "; "));
}

std::string CoordinatorState::Awaiting(absl::Time now, std::vector<std::string>* from) const {
  if (finished()) return "";
  if (!learner_attached_) {
    from->push_back("learner");
    return scalars_.learner_incarnation.empty()
               ? "the learner has not attached yet"
               : absl::StrCat("the learner (", scalars_.learner_address,
                              ") has not attached again");
  }
  const bool any = std::any_of(members_.workers().begin(), members_.workers().end(),
                               [](const auto& entry) { return entry.second.joined; });
  if (!any && HasLeasableWork()) {
    from->push_back("anyone");
    return "no rollout worker has joined yet";
  }
  if (round_) {
    const auto open = std::distance(groups_.lower_bound(kEvaluationGroupBit), groups_.end());
    return AwaitedGroups(absl::StrCat("evaluation at step ", round_->row.step), kEvaluationGroupBit,
                         ~uint64_t{0}, static_cast<int>(open + round_->outcomes.size()), now, from);
  }
  if (scalars_.trained >= NextUnplannedStep()) return "";
  const PlanRow& plan = plans_[scalars_.trained];
  const uint64_t last = plan.first_group + plan.groups - 1;
  const bool whole =
      std::all_of(groups_.lower_bound(plan.first_group), groups_.upper_bound(last),
                  [](const auto& e) { return e.second.row.state == GroupRowState::kComplete; });
  if (!whole) {
    return AwaitedGroups(absl::StrCat("step ", plan.step), plan.first_group, last, plan.groups, now,
                         from);
  }
  if (now - step_changed_ <= options_.awaited_after) return "";
  from->push_back("learner");
  return absl::StrFormat("step %d waits for the learner (%s): its batch has been whole for %.0f s",
                         plan.step, scalars_.learner_address,
                         absl::ToDoubleSeconds(now - step_changed_));
}

// The last steps of the current stage set the pace; evaluations to come take as long as the last.
double CoordinatorState::EtaSeconds() const {
  if (finished()) return 0;
  const int64_t trained = scalars_.trained;
  if (trained == 0) return -1;
  const int64_t first = std::max<int64_t>(
      {1, trained - kEtaSteps, std::min(stages_.back().first_step + 1, trained - 1)});
  const int64_t from = std::min(first, trained) - 1;
  const double begin = from == 0 && trained == 1 ? 0 : steps_[from].train_elapsed_seconds;
  const int64_t counted = trained == 1 ? 1 : trained - 1 - from;
  if (counted <= 0) return -1;
  const double pace =
      (steps_[trained - 1].train_elapsed_seconds - begin) / static_cast<double>(counted);
  return pace * static_cast<double>(options_.steps - trained) + EvaluationSecondsLeft();
}

double CoordinatorState::EvaluationSecondsLeft() const {
  double seconds = 0;
  for (const auto& [set, row] : LastEvaluations()) {
    const int every = options_.evaluations[set].every;
    const int64_t rounds =
        1 + (every > 0 ? (options_.steps - 1) / every - scalars_.trained / every : 0);
    seconds += static_cast<double>(rounds) * row->seconds;
  }
  return seconds;
}

std::optional<GroupDescription> CoordinatorState::Describe(GroupId group) const {
  const auto found = groups_.find(group.value());
  if (found == groups_.end()) return std::nullopt;
  const GroupRow& row = found->second.row;
  const std::vector<Problem>& problems =
      IsEvaluationGroup(group) ? options_.evaluation_problems : options_.problems;
  return GroupDescription{&problems[row.problem], row.step};
}

std::map<size_t, const EvaluationRow*> CoordinatorState::LastEvaluations() const {
  std::map<size_t, const EvaluationRow*> last;
  for (auto it = evaluations_.rbegin();
       it != evaluations_.rend() && last.size() < options_.evaluations.size(); ++it) {
    const size_t set = SetOfEntry(it->first);
    if (set < options_.evaluations.size()) last.emplace(set, &it->second);
  }
  return last;
}

std::vector<StageView> CoordinatorState::StageViews() const {
  std::vector<StageView> views;
  for (size_t i = 0; i < stages_.size(); ++i) {
    const StageRow& row = stages_[i];
    const bool current = i + 1 == stages_.size();
    // Left again before any step of it was planned.
    if (!current && stages_[i + 1].first_step == row.first_step) continue;
    StageView view;
    view.index = row.stage;
    view.context_tokens = options_.stages[row.stage].context_tokens;
    view.first_step = row.first_step;
    if (!current) {
      view.last_step = stages_[i + 1].first_step - 1;
      view.reason = stages_[i + 1].reason;
      view.rule = stages_[i + 1].rule;
    } else if (finished()) {
      view.last_step = options_.steps - 1;
      view.reason = "end of the run";
    }
    views.push_back(std::move(view));
  }
  return views;
}

RunView CoordinatorState::View(absl::Time now) const {
  RunView view;
  view.run_id = run_.run_id;
  view.state = finished()                          ? "finished"
               : !learner_attached_                ? "waiting"
               : round_                            ? "evaluating"
               : scalars_.trained < options_.steps ? "training"
                                                   : "waiting";
  view.step = scalars_.trained;
  view.steps_total = options_.steps;
  view.stage = scalars_.trained < NextUnplannedStep() ? plans_[scalars_.trained].stage
                                                      : stages_.back().stage;
  view.held = scalars_.hold;
  view.stages = StageViews();
  for (const auto& [id, worker] : members_.workers()) {
    view.workers.push_back(
        {id, WorkerHealthName(worker.health), worker.reason, worker.tokens_per_second,
         worker.policy_version, static_cast<int>(worker.leases.size() + worker.overtaken.size()),
         std::max(0.0, absl::ToDoubleSeconds(now - worker.heard)), worker.address,
         static_cast<int>(std::count_if(worker.leases.begin(), worker.leases.end(),
                                        [this](uint64_t id) { return overtaken_.contains(id); })),
         worker.last_incident,
         std::max(0.0, absl::ToDoubleSeconds(worker.quarantined_until - now))});
    if (worker.health != WorkerHealth::kLost) view.tokens_per_second += worker.tokens_per_second;
  }
  view.awaiting = Awaiting(now, &view.awaited_from);
  const int stages = static_cast<int>(options_.stages.size());
  if (const StageRow& stage = stages_.back(); stage.stage + 1 < stages && !finished()) {
    view.rules = ReadRules(options_.curriculum, stage.stage, NextUnplannedStep() - stage.first_step,
                           StageTrace());
  }
  if (!steps_.empty() && steps_.back().reported) view.last = steps_.back().metrics;
  view.elapsed_seconds = scalars_.elapsed_seconds;
  view.train_elapsed_seconds = scalars_.train_elapsed_seconds;
  view.eta_seconds = EtaSeconds();
  view.cost = Cost();
  view.generated_tokens = steps_.empty() ? 0 : steps_.back().train_generated_tokens;
  for (const auto& [step, row] : evaluations_) view.generated_tokens += row.generated_tokens;
  if (round_) {
    for (const auto& [id, outcome] : round_->outcomes) view.generated_tokens += outcome.tokens;
  }
  for (const StepRow& row : steps_) view.trained_tokens += row.metrics.trained_tokens;
  view.groups_pending = static_cast<int>(pending_train_.size() + pending_evaluate_.size());
  view.groups_leased = static_cast<int>(lease_group_.size());
  view.groups_buffered =
      static_cast<int>(groups_.size()) - view.groups_pending - view.groups_leased;
  for (const auto& [set, row] : LastEvaluations()) view.last_evaluations.push_back(*row);
  if (!view.last_evaluations.empty()) view.last_evaluation = view.last_evaluations.front();
  return view;
}

HistoryView CoordinatorState::History(int64_t from_step, size_t max) const {
  HistoryView history;
  for (auto step = static_cast<size_t>(std::max<int64_t>(0, from_step));
       step < steps_.size() && history.steps.size() < max; ++step) {
    history.steps.push_back(steps_[step]);
  }
  for (auto it = evaluations_.lower_bound(EvaluationEntry(std::max<int64_t>(0, from_step), 0));
       it != evaluations_.end() && history.evaluations.size() < max; ++it) {
    history.evaluations.push_back(it->second);
  }
  history.stages = StageViews();
  return history;
}

}  // namespace crescendo
