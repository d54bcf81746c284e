// The trainer on LibTorch: for each mini-batch, packed micro-batches forward and backward, one
// AdamW update. The loss is PolicyLoss; everything about aggregation is in the micro-batches'
// weights.
//
// Invariants:
// 1. An update's gradient does not depend on the number of micro-batches but by rounding; for the
//    same micro-batches and one thread a step is bit for bit repeatable.
// 2. An update whose loss or gradient is not finite is not applied: weights and moments stay.
// 3. The reference model is there only when a loss wants it.
//
// Mismatch is measured on what the step computes anyway: the mini-batches before its first update,
// whose forward passes see the weights of the step's begin, and on tokens drawn with just those. A
// step without any such pass makes one over MiniBatch::probe.
//
// Where sampling is corrected by importance weights, the proximal policy is that of the step's
// begin: for mini-batches before the first update it is what their own forward pass says.
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
#include "services/learner/lora.h"
#include "services/learner/mismatch.h"
#include "services/learner/optimizer.h"
#include "services/learner/sharded_optimizer.h"
#include "services/learner/sharded_parameters.h"
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
  absl::StatusOr<std::vector<double>> SampleKl(const PackedMicroBatch& micro,
                                               KlEstimator estimator) override;
  double kl_scale() const override { return kl_scale_; }
  bool sharded() const override { return shards_ != nullptr; }

  const ShardedParameters* shards() const { return shards_.get(); }  // null: weights are whole
  PolicyModel& model() { return *model_; }
  const Lora* lora() const { return lora_.get(); }  // null: all weights are trained

 private:
  // What one mini-batch adds to the step's result.
  struct MiniBatchSums {
    PolicyLossStats loss;
    MismatchStats mismatch;
    double entropy = 0;
    int64_t tokens = 0;

    void Add(const MiniBatchSums& other);
  };
  // Log-probs of the proximal policy of each micro-batch of a mini-batch, in order.
  using ProximalLogProbs = std::vector<std::vector<float>>;
  struct Models {
    std::unique_ptr<ShardedParameters> shards, reference_shards;  // zero_stage 3, else null
    std::unique_ptr<PolicyModel> policy, reference;
  };
  TorchTrainer(FileSystem& files, const TorchTrainerOptions& options, Models models,
               std::unique_ptr<Lora> lora);
  static absl::StatusOr<std::unique_ptr<PolicyModel>> LoadModel(
      FileSystem& files, const TorchTrainerOptions& options, at::Device device,
      std::unique_ptr<ShardedParameters>& shards);
  // The targets' log-probs under the weights of `model` as they are.
  absl::StatusOr<std::vector<float>> LogProbs(PolicyModel& model, const PackedMicroBatch& micro);
  // `pass` for each of this rank's `own` passes over `model`. With shared out weights it is
  // collective: other ranks may have more.
  absl::Status EachPass(PolicyModel& model, size_t own,
                        const std::function<absl::Status(size_t)>& pass);
  // With shared out weights, what Accumulate is to a rank that has no micro-batch left.
  absl::Status AccumulateNothing(const PolicyLossOptions& loss);
  ShardedParameters* ShardsOf(const PolicyModel& model) const;
  // Why a rank's pass failed when it was for another rank.
  absl::Status Blame(absl::Status status) const;
  // What ExportWeights gives, of `dtype`; empty lists but at rank 0.
  absl::StatusOr<std::vector<TensorData>> ExportShards(at::ScalarType dtype);
  absl::Status SaveShards(const std::string& folder);
  // Those of the proximal policy, of every mini-batch but the first, where `loss` wants them.
  absl::StatusOr<std::vector<ProximalLogProbs>> Proximal(const PolicyLossOptions& loss,
                                                         const TrainRequest& request);
  // Forward, loss, backward. `proximal` null: the policy's own log-probs are the proximal ones.
  absl::Status Accumulate(const PackedMicroBatch& micro, const PolicyLossOptions& loss,
                          const std::vector<float>* proximal, MiniBatchSums& sums);
  // Forward and backward over a mini-batch, `proximal` of each micro-batch or empty; with ranks,
  // `sums` are those of all. False: `stop` said so (null: is not asked).
  absl::StatusOr<bool> AccumulateAll(const MiniBatch& mini, const PolicyLossOptions& loss,
                                     const ProximalLogProbs& proximal,
                                     const std::function<bool()>& stop, MiniBatchSums& sums);
  absl::Status SumOverRanks(MiniBatchSums& sums, bool& stopped);
  // Clips, steps, or skips what is not finite; true when the weights changed.
  absl::StatusOr<bool> Update(const MiniBatchSums& sums, StepResult& result);
  absl::Status AddProbe(const MiniBatch& mini, MismatchStats& mismatch);

  FileSystem& files_;
  TorchTrainerOptions options_;
  std::unique_ptr<ShardedParameters> shards_, reference_shards_;  // null: weights are whole
  std::unique_ptr<PolicyModel> model_;
  std::unique_ptr<PolicyModel> reference_;  // the base; null without KL and adapters
  std::unique_ptr<Lora> lora_;
  ShardedAdamW optimizer_;
  double kl_scale_ = 1;
  StepPhases phases_;  // of the step under way
};

// Copies tokenizer.json and the like, those that `from` has.
absl::Status CopyTokenizerFiles(FileSystem& files, const std::string& from, const std::string& to);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_TORCH_TRAINER_H_
