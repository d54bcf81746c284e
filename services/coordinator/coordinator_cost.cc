// What the run costs: who holds what, and what is still to come.
#include <algorithm>
#include <vector>

#include "services/coordinator/coordinator_state.h"

namespace crescendo {

namespace {

constexpr int64_t kProjectedFrom = 50;  // at most so many of the last steps

}  // namespace

void CoordinatorState::CountCost() {
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now_ - cost_counted_));
  cost_counted_ = now_;
  if (finished()) return;
  CostMeter::Holdings holdings;
  for (const auto& [id, worker] : members_.workers()) {
    if (worker.joined && worker.health != WorkerHealth::kLost) {
      CostMeter::Hold("rollout", worker.resources, &holdings);
    }
  }
  if (learner_attached_) CostMeter::Hold("learner", learner_resources_, &holdings);
  for (int i = 0; i < options_.reward_processes; ++i) {
    CostMeter::Hold("reward", options_.reward, &holdings);
  }
  CostMeter::Hold("coordinator", options_.coordinator, &holdings);
  cost_.Add(std::move(holdings), seconds);
}

CostView CoordinatorState::Cost() const {
  CostView view = cost_.View();
  if (steps_.empty()) return view;
  const StepRow& last = steps_.back();
  const StepRow none;
  const StepRow& before = steps_.size() > 1 ? steps_[steps_.size() - 2] : none;
  view.last_step = {last.gpu_hours - before.gpu_hours, last.core_hours - before.core_hours,
                    last.money - before.money};

  const StageRow& stage = stages_.back();
  const int64_t trained = scalars_.trained;
  std::vector<double> seconds;
  for (int64_t step = std::max(stage.first_step, trained - kProjectedFrom); step < trained;
       ++step) {
    const double begin = step == 0 ? 0 : steps_[step - 1].train_elapsed_seconds;
    seconds.push_back(steps_[step].train_elapsed_seconds - begin);
  }
  const auto project = [&](int64_t end, double more) -> std::optional<CostProjectionView> {
    const auto time = ProjectSteps(seconds, end - trained, more);
    if (!time) return std::nullopt;
    return cost_.Project(end - 1, *time);
  };
  int64_t stage_end = options_.steps;
  const std::vector<int>& caps = options_.curriculum.max_steps;
  const bool is_last = stage.stage + 1 == static_cast<int>(options_.stages.size());
  if (!is_last && stage.stage < static_cast<int>(caps.size()) && caps[stage.stage] > 0) {
    stage_end = std::min(stage_end, stage.first_step + caps[stage.stage]);
  }
  view.stage_end = project(std::max(stage_end, trained), 0);
  view.run_end = project(options_.steps, EvaluationSecondsLeft());
  return view;
}

}  // namespace crescendo
