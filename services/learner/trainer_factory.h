// How an adapter gets the trainer on LibTorch without including any of it.
#ifndef CRESCENDO_SERVICES_LEARNER_TRAINER_FACTORY_H_
#define CRESCENDO_SERVICES_LEARNER_TRAINER_FACTORY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/os/env.h"
#include "services/learner/adamw_kernel.h"
#include "services/learner/lr_schedule.h"
#include "services/learner/policy_loss.h"
#include "services/learner/trainer.h"

namespace crescendo {

class RankGroup;

struct TorchTrainerOptions {
  std::string
      policy;  // Hugging Face folder or .gguf: the base, and the reference when there is one
  // "float32" or "bfloat16": computes in it; bfloat16 keeps fp32 masters.
  std::string dtype = "float32";
  // "cpu" or "cuda": FindDevice (compute_device.h), of `local_rank` when one is given. `aten`:
  // with the operations of a device also on the CPU.
  std::string device = "cpu";
  std::optional<int> local_rank;
  bool aten = false;
  std::string export_dtype;    // of ExportWeights and SavePolicy; empty: dtype
  bool deterministic = false;  // forward passes with the rollout's bits (PolicyModel)
  PolicyLossOptions loss;      // of requests that bring none
  // Loads the base a second time, to be the reference, also when `loss` asks for no KL.
  bool reference = false;
  // Low-rank adapters (lora.h); rank 0: all weights are trained.
  int lora_rank = 0;
  double lora_alpha = 0;
  std::string lora_targets;
  uint64_t lora_seed = 1;
  int recompute_layers = 0;  // PolicyModel::set_recompute_layers
  AdamWOptions adamw;
  double grad_clip = 1.0;  // global norm; 0: off
  LrSchedule schedule;     // over the steps of the run; its peak is the request's
  bool entropy = true;     // computes StepResult::entropy
  int threads = 1;
  // With whom it trains; null: alone. Then every call but SavePolicy, SampleKl and ExportWeights is
  // made by all ranks, and those too where weights are shared out (Trainer::sharded), each Train
  // with the rank's own part of the step (rank_trainer.h). Outlives the trainer.
  RankGroup* ranks = nullptr;
  int zero_stage = 1;      // ShardedAdamW; adapters are whole at every rank
  Clock* clock = nullptr;  // of StepResult::phases; outlives the trainer
};

// Loads the policy and sets the compute threads: call it on the thread that will train. Errors are
// PolicyModel::Load's; INVALID_ARGUMENT for another dtype. `files` outlives the trainer.
absl::StatusOr<std::unique_ptr<Trainer>> MakeTorchTrainer(FileSystem& files,
                                                          const TorchTrainerOptions& options);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_TRAINER_FACTORY_H_
