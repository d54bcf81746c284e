#include "services/learner/make_trainer.h"

#include <utility>

#include "common/base/status_macros.h"
#include "services/learner/torch_trainer.h"

namespace crescendo {

absl::StatusOr<std::unique_ptr<Trainer>> MakeTrainer(FileSystem& files, const RunConfig& config) {
  TorchTrainerOptions options;
  options.policy = config.policy.path;
  options.dtype = config.policy.dtype;
  options.loss.clip_low = config.objective.clip_low;
  options.loss.clip_high = config.objective.clip_high;
  options.loss.dual_clip = config.objective.dual_clip;
  options.loss.importance_cap = config.objective.importance_cap;
  ASSIGN_OR_RETURN(options.loss.ratio, ParseRatioKind(config.objective.ratio));
  ASSIGN_OR_RETURN(options.loss.kl_estimator, ParseKlEstimator(config.objective.kl_estimator));
  options.loss.kl_coefficient = config.objective.kl_coefficient;
  options.adamw.beta1 = config.optimizer.beta1;
  options.adamw.beta2 = config.optimizer.beta2;
  options.adamw.epsilon = config.optimizer.epsilon;
  options.adamw.weight_decay = config.optimizer.weight_decay;
  options.grad_clip = config.optimizer.grad_clip;
  options.warmup_steps = config.optimizer.warmup_steps;
  options.threads = config.learner.threads;
  ASSIGN_OR_RETURN(std::unique_ptr<TorchTrainer> trainer, TorchTrainer::Create(files, options));
  return std::unique_ptr<Trainer>(std::move(trainer));
}

}  // namespace crescendo
