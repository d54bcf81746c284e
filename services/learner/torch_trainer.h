// The trainer on LibTorch: for each mini-batch, packed micro-batches forward and backward, one
// AdamW update. The loss is PolicyLoss; everything about aggregation is in the micro-batches'
// weights.
//
// Invariants:
// 1. An update's gradient does not depend on the number of micro-batches but by rounding; for the
//    same micro-batches and one thread a step is bit for bit repeatable.
// 2. An update whose loss or gradient is not finite is not applied: weights and moments stay.
// 3. The reference model is there only when the loss wants it.
//
// Mismatch is measured on what the step computes anyway: the mini-batches before its first update,
// whose forward passes see the weights of the step's begin, and on tokens drawn with just those.
//
// Thread rule: as Trainer. It computes on the compute threads (SetComputeThreads).
#ifndef CRESCENDO_SERVICES_LEARNER_TORCH_TRAINER_H_
#define CRESCENDO_SERVICES_LEARNER_TORCH_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/policy_model.h"
#include "common/os/env.h"
#include "services/learner/optimizer.h"
#include "services/learner/trainer.h"
#include "services/learner/trainer_factory.h"

namespace crescendo {

class TorchTrainer : public Trainer {
 public:
  // As MakeTorchTrainer (trainer_factory.h).
  static absl::StatusOr<std::unique_ptr<TorchTrainer>> Create(FileSystem& files,
                                                              const TorchTrainerOptions& options);

  absl::StatusOr<StepResult> Train(const TrainRequest& request,
                                   const std::function<bool()>& stop) override;
  absl::StatusOr<std::vector<TensorData>> ExportWeights() override;
  absl::StatusOr<TrainerState> ExportState() override;
  absl::Status ImportState(const TrainerState& state) override;
  // Tokenizer files are copied from the base's folder, where it has any.
  absl::Status SavePolicy(const std::string& folder) override;
  int vocabulary_size() const override;

  PolicyModel& model() { return *model_; }

 private:
  // What one mini-batch adds to the step's result.
  struct MiniBatchSums {
    PolicyLossStats loss;
    double entropy = 0;
    double mismatch = 0;
    double mismatch_max = 0;
    int64_t mismatch_tokens = 0;
    int64_t tokens = 0;
  };
  TorchTrainer(FileSystem& files, const TorchTrainerOptions& options,
               std::unique_ptr<PolicyModel> model, std::unique_ptr<PolicyModel> reference);
  static void AddMismatch(const PackedMicroBatch& micro, absl::Span<const float> log_probs,
                          MiniBatchSums& sums);
  // The targets' log-probs under the current weights: the ratio's denominator where sampling is
  // corrected by importance weights.
  absl::StatusOr<std::vector<float>> Proximal(const PackedMicroBatch& micro);
  // Forward, loss, backward. `proximal` null: the ratio is taken to what the rollout sampled.
  absl::Status Accumulate(const PackedMicroBatch& micro, const std::vector<float>* proximal,
                          MiniBatchSums& sums);
  void AddGradientsOfZero();

  FileSystem& files_;
  TorchTrainerOptions options_;
  std::unique_ptr<PolicyModel> model_;
  std::unique_ptr<PolicyModel> reference_;  // null without KL
  AdamW optimizer_;
};

// Copies tokenizer.json and the like, those that `from` has.
absl::Status CopyTokenizerFiles(FileSystem& files, const std::string& from, const std::string& to);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_TORCH_TRAINER_H_
