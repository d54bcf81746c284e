// What trains: the border between the learner's core and adapter (no tensor library) and LibTorch.
// torch_trainer.h is the real one, tests/support scripts another.
//
// Thread rule: all calls come from one thread, one at a time. `stop` may be polled from that thread
// only; what it returns is changed by others.
#ifndef CRESCENDO_SERVICES_LEARNER_TRAINER_H_
#define CRESCENDO_SERVICES_LEARNER_TRAINER_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "services/learner/batch_packer.h"
#include "services/learner/phase_timer.h"
#include "services/learner/policy_loss.h"
#include "services/learner/tensor_data.h"

namespace crescendo {

// What only the trainer can know of a step. Means are over the loss tokens of all mini-batches.
struct StepResult {
  double loss = 0;            // mean over the mini-batches
  double kl = 0;              // of the estimate to the reference; 0 when there is none
  double kl_coefficient = 0;  // as used
  double entropy = 0;         // 0 when it is not computed
  double grad_norm = 0;       // before clipping, largest of the step
  double clip_ratio = 0;      // share of tokens whose gradient the clip cut off
  double learning_rate = 0;   // as used (warm-up included)
  // d = log-prob(learner) - log-prob(rollout) under the same weights, those of the step's begin:
  // over the tokens drawn with them (from PackedSample::fresh_begin on, those of weight 0 too). NaN
  // when there are none.
  double mismatch_max = std::numeric_limits<double>::quiet_NaN();   // of |d|
  double mismatch_mean = std::numeric_limits<double>::quiet_NaN();  // of |d|
  double mismatch_p99 = std::numeric_limits<double>::quiet_NaN();   // of |d|
  double mismatch_kl = std::numeric_limits<double>::quiet_NaN();    // mean of exp(d) - 1 - d (k3)
  bool skipped = false;  // loss or gradients were not finite: weights and optimizer are unchanged
  StepPhases phases;     // zero where the trainer has no clock
};

struct TrainRequest {
  StepId step;
  double learning_rate = 0;  // of the plan; the trainer applies its schedule to it
  // Of the plan's stage; absent: what the trainer was made with.
  std::optional<PolicyLossOptions> loss;
  double reward_kl = 0;  // mean KL a token that was taken off the rewards (loss->kl_in_reward)
  // One optimizer update each, in order. One without micro-batches is an update whose gradient is 0
  // (no sample of it had an advantage).
  std::vector<MiniBatch> mini_batches;
};

class Trainer {
 public:
  virtual ~Trainer() = default;

  // Trains one step. Blocks for as long as it takes. When `stop` says true before the first update
  // of the step was applied, the trainer may give up with CANCELLED and is then as before the call;
  // after that it finishes the step. Other errors leave the trainer unusable: the learner ends and
  // restarts from its checkpoint.
  virtual absl::StatusOr<StepResult> Train(const TrainRequest& request,
                                           const std::function<bool()>& stop) = 0;

  // KL to the reference of each sample of `micro`, in its order: the sum over its tokens of the
  // estimate at what the rollout sampled. FAILED_PRECONDITION: there is no reference.
  virtual absl::StatusOr<std::vector<double>> SampleKl(const PackedMicroBatch& /*micro*/,
                                                       KlEstimator /*estimator*/) {
    return absl::FailedPreconditionError("trainer: there is no reference policy");
  }
  // What the objective's KL coefficient is multiplied with (kl_control.h).
  virtual double kl_scale() const { return 1; }

  // The policy's weights as workers load them (Hugging Face names, the rollout's dtype), in the
  // model's order.
  virtual absl::StatusOr<std::vector<TensorData>> ExportWeights() = 0;

  // Everything a checkpoint needs of this rank, and back. ImportState checks all before it changes
  // anything: INVALID_ARGUMENT names the tensor that is missing, unknown, or of another shape.
  virtual absl::StatusOr<TrainerState> ExportState() = 0;
  virtual absl::Status ImportState(const TrainerState& state) = 0;

  // The same for all ranks, whose number is ranks(). Each of the others copies its own part, and a
  // thread of its own writes it into `folder` (checkpoint_files.h) while training goes on.
  virtual int ranks() const { return 1; }
  virtual absl::StatusOr<TrainerState> BeginCheckpoint(const std::string& /*folder*/) {
    return ExportState();
  }
  // From the thread that writes this rank's part of it: waits until the others have written theirs.
  // What WritePart returned, from rank 1 on; an error names the rank that failed or is gone.
  virtual absl::StatusOr<std::vector<std::string>> AwaitParts() {
    return std::vector<std::string>();
  }
  // Takes over `part`, this rank's; the others read theirs in `folder`, which was verified.
  virtual absl::Status Restore(const TrainerState& part, const std::string& /*folder*/) {
    return ImportState(part);
  }

  // Writes the policy as a Hugging Face folder (config.json, model.safetensors, tokenizer files).
  virtual absl::Status SavePolicy(const std::string& folder) = 0;

  // Whether it can still train: other ranks may be gone. Asked between steps.
  virtual absl::Status Check() { return absl::OkStatus(); }

  // Whether ranks share out the weights: ExportWeights, SavePolicy and SampleKl are then calls of
  // all ranks, and what they give is rank 0's alone.
  virtual bool sharded() const { return false; }

  // Token ids of a sample must be in [0, vocabulary_size()).
  virtual int vocabulary_size() const = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_TRAINER_H_
