#include "services/learner/train_step.h"

#include <utility>

#include "common/base/status_macros.h"

namespace crescendo {

absl::StatusOr<BatchSummary> TrainStep(const TrainStepOptions& options, const StepPlan& plan,
                                       const std::vector<GroupExperience>& groups, Trainer& trainer,
                                       const std::function<bool()>& stop) {
  std::vector<GroupAdvantages> advantages;
  advantages.reserve(groups.size());
  for (const GroupExperience& group : groups) {
    advantages.push_back(ComputeAdvantages(options.reward, group));
  }
  BatchSummary summary = SummarizeBatch(plan.step, groups, advantages);
  TrainRequest request;
  request.step = plan.step;
  request.learning_rate = plan.learning_rate > 0 ? plan.learning_rate : options.learning_rate;
  PackOptions pack = options.pack;
  pack.version = plan.step.value();
  ASSIGN_OR_RETURN(request.mini_batches, PackBatch(pack, groups, advantages));
  ASSIGN_OR_RETURN(const StepResult result, trainer.Train(request, stop));
  StepMetrics& metrics = summary.metrics;
  metrics.loss = result.loss;
  metrics.kl = result.kl;
  metrics.entropy = result.entropy;
  metrics.grad_norm = result.grad_norm;
  metrics.clip_ratio = result.clip_ratio;
  metrics.learning_rate = result.learning_rate;
  metrics.mismatch_max = result.mismatch_max;
  metrics.mismatch_mean = result.mismatch_mean;
  metrics.skipped = result.skipped;
  return summary;
}

}  // namespace crescendo
