// The engine's model on a CUDA device: CudaPolicy, fed with the engine's plans.
//
// Invariants: a swap is checked whole before a byte is written. The host keeps no weights but those
// that are staged.
//
// Thread rule: Run and SwapWeights on the engine's thread; Stage from any.
#ifndef CRESCENDO_SERVICES_ROLLOUT_CUDA_MODEL_RUNNER_H_
#define CRESCENDO_SERVICES_ROLLOUT_CUDA_MODEL_RUNNER_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/model/cuda_policy.h"
#include "services/rollout/model_runner.h"
#include "services/rollout/staged_weights.h"
#include "services/rollout/weight_stage.h"

namespace crescendo {

class CudaModelRunner : public ModelRunner {
 public:
  explicit CudaModelRunner(std::unique_ptr<CudaPolicy> policy) : policy_(std::move(policy)) {}

  absl::Status Run(const BatchPlan& plan, absl::Span<DrawnToken> results) override;
  // NOT_FOUND when another version (or none) is staged; INVALID_ARGUMENT names the tensor that does
  // not fit the model. The staged bytes are freed.
  absl::Status SwapWeights(PolicyVersion version) override;
  // Of the device, but for what is staged.
  ModelMemory Memory() const override;

  // Replaces what was staged before.
  void Stage(std::unique_ptr<StagedWeights> weights);

  const CudaPolicy& policy() const { return *policy_; }

 private:
  // The most probable tokens for the draws that want them, from logits copied to the host: a served
  // request's, never a training sample's.
  absl::Status GiveTopTokens(const BatchPlan& plan, absl::Span<DrawnToken> results);

  std::unique_ptr<CudaPolicy> policy_;
  // Reused from step to step.
  CudaBatch batch_;
  std::vector<cuda::Drawn> drawn_;
  std::vector<float> logits_;

  WeightStage stage_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_CUDA_MODEL_RUNNER_H_
