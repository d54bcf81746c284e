#include "services/learner/make_trainer.h"

#include <utility>

#include "common/base/status_macros.h"
#include "services/learner/stage_objective.h"
#include "services/learner/torch_trainer.h"

namespace crescendo {

absl::StatusOr<std::unique_ptr<Trainer>> MakeTrainer(FileSystem& files, const RunConfig& config) {
  TorchTrainerOptions options;
  options.policy = config.policy.path;
  options.dtype = config.learner.dtype == "policy" ? config.policy.dtype : config.learner.dtype;
  options.export_dtype = config.policy.dtype;
  options.deterministic = config.policy.deterministic;
  options.recompute_layers = config.learner.recompute_layers;
  options.lora_rank = config.policy.lora_rank;
  options.lora_alpha = config.policy.lora_alpha;
  options.lora_targets = config.policy.lora_targets;
  options.lora_seed = config.run.seed;
  for (const StageSection& stage : config.stages) {
    ASSIGN_OR_RETURN(const PolicyLossOptions loss, MakeLossOptions(stage.objective));
    if (loss.kl_coefficient > 0) options.reference = true;
  }
  options.adamw.beta1 = config.optimizer.beta1;
  options.adamw.beta2 = config.optimizer.beta2;
  options.adamw.epsilon = config.optimizer.epsilon;
  options.adamw.weight_decay = config.optimizer.weight_decay;
  options.grad_clip = config.optimizer.grad_clip;
  ASSIGN_OR_RETURN(options.schedule, MakeSchedule(config));
  options.threads = config.learner.threads;
  ASSIGN_OR_RETURN(std::unique_ptr<TorchTrainer> trainer, TorchTrainer::Create(files, options));
  return std::unique_ptr<Trainer>(std::move(trainer));
}

}  // namespace crescendo
