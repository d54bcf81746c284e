#include "services/learner/stage_objective.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace crescendo {

absl::StatusOr<PolicyLossOptions> MakeLossOptions(const ObjectiveSection& objective) {
  PolicyLossOptions loss;
  ASSIGN_OR_RETURN(loss.ratio, ParseRatioKind(objective.ratio));
  loss.clip_low = objective.clip_low;
  loss.clip_high = objective.clip_high;
  loss.dual_clip = objective.dual_clip;
  ASSIGN_OR_RETURN(loss.off_policy, ParseOffPolicy(objective.off_policy));
  loss.importance_cap = objective.importance_cap;
  loss.entropy_coefficient = objective.entropy_coefficient;
  loss.kl_coefficient = objective.kl_coefficient;
  ASSIGN_OR_RETURN(loss.kl_estimator, ParseKlEstimator(objective.kl_estimator));
  loss.kl_in_reward = objective.kl_in == "reward";
  loss.kl_target = objective.kl_target;
  loss.kl_horizon = objective.kl_horizon;
  return loss;
}

absl::StatusOr<StageObjective> MakeStageObjective(const RunConfig& config,
                                                  const ObjectiveSection& objective) {
  StageObjective out;
  ASSIGN_OR_RETURN(out.loss, MakeLossOptions(objective));
  ASSIGN_OR_RETURN(out.reward.kind, ParseAdvantageKind(objective.advantage));
  ASSIGN_OR_RETURN(out.reward.overlong, ParseOverlong(objective.overlong));
  out.reward.overlong_buffer = objective.overlong_buffer;
  out.reward.incorrect_reward = config.reward.incorrect_reward;
  out.reward.random_reward = objective.random_reward;
  out.reward.seed = config.run.seed;
  ASSIGN_OR_RETURN(out.pack.aggregation, ParseLossAggregation(objective.aggregation));
  out.pack.microbatch_tokens = config.learner.microbatch_tokens;
  out.pack.minibatches = objective.minibatches;
  const bool kl_in_loss = objective.kl_coefficient > 0 && objective.kl_in == "loss";
  out.pack.drop_zero_advantage = !kl_in_loss && objective.entropy_coefficient == 0;
  out.pack.drop_zero_variance = objective.zero_variance == "drop";
  return out;
}

absl::StatusOr<LrSchedule> MakeSchedule(const RunConfig& config) {
  const OptimizerSection& optimizer = config.optimizer;
  LrSchedule schedule;
  schedule.warmup_steps = optimizer.warmup_steps;
  if (optimizer.schedule == "constant") return schedule;
  if (optimizer.schedule == "linear") {
    schedule.decay = LrSchedule::Decay::kLinear;
  } else if (optimizer.schedule == "cosine") {
    schedule.decay = LrSchedule::Decay::kCosine;
  } else {
    return absl::InvalidArgumentError(
        "optimizer.schedule: expected constant, linear or cosine, found \"" + optimizer.schedule +
        "\"");
  }
  schedule.decay_from = optimizer.warmup_steps;
  schedule.decay_until = optimizer.decay_steps > 0 ? optimizer.decay_steps : config.run.steps;
  schedule.decay_until = std::max(schedule.decay_until, schedule.decay_from + 1);
  schedule.final_fraction = optimizer.final_fraction;
  return schedule;
}

}  // namespace crescendo
