// How an adapter gets the trainer on LibTorch without including any of it.
#ifndef CRESCENDO_SERVICES_LEARNER_TRAINER_FACTORY_H_
#define CRESCENDO_SERVICES_LEARNER_TRAINER_FACTORY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/os/env.h"
#include "services/learner/adamw_kernel.h"
#include "services/learner/policy_loss.h"
#include "services/learner/trainer.h"

namespace crescendo {

struct TorchTrainerOptions {
  std::string
      policy;  // Hugging Face folder or .gguf: the base, and the reference when there is one
  // "float32" or "bfloat16": computes and exports in it; bfloat16 keeps fp32 masters.
  std::string dtype = "float32";
  PolicyLossOptions loss;
  AdamWOptions adamw;
  double grad_clip = 1.0;    // global norm; 0: off
  int64_t warmup_steps = 0;  // linear, over the steps of the run
  bool entropy = true;       // computes StepResult::entropy
  int threads = 1;
};

// Loads the policy and sets the compute threads: call it on the thread that will train. Errors are
// PolicyModel::Load's; INVALID_ARGUMENT for another dtype. `files` outlives the trainer.
absl::StatusOr<std::unique_ptr<Trainer>> MakeTorchTrainer(FileSystem& files,
                                                          const TorchTrainerOptions& options);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_TRAINER_FACTORY_H_
