// The engine's model on LibTorch: PolicyModel over a PagedKvCache, tokens drawn by the fused
// sampler.
//
// Invariants: weights exist once in the model, and at most once more while a version is staged; a
// swap is checked whole before a byte is written, so an error leaves the old weights in place. A
// step of the shapes seen before allocates nothing but LibTorch's small tensor headers.
//
// Thread rule: Run and SwapWeights on the engine's thread; Stage from any.
#ifndef CRESCENDO_SERVICES_ROLLOUT_TORCH_MODEL_RUNNER_H_
#define CRESCENDO_SERVICES_ROLLOUT_TORCH_MODEL_RUNNER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/paged_attention.h"
#include "common/model/paged_kv_cache.h"
#include "common/model/policy_model.h"
#include "common/model/sampler.h"
#include "services/rollout/model_runner.h"
#include "services/rollout/staged_weights.h"
#include "services/rollout/weight_stage.h"

namespace crescendo {

struct TorchRunnerOptions {
  int blocks = 4096;
  int block_tokens = 16;  // 16, 32, 64 or 128
  int threads = 1;        // compute threads, set on the first Run
};

class TorchModelRunner : public ModelRunner {
 public:
  // The cache has the model's dtype. RESOURCE_EXHAUSTED when its memory is not to be had.
  static absl::StatusOr<std::unique_ptr<TorchModelRunner>> Create(
      std::unique_ptr<PolicyModel> model, const TorchRunnerOptions& options);

  absl::Status Run(const BatchPlan& plan, absl::Span<DrawnToken> results) override;
  // NOT_FOUND when another version (or none) is staged; INVALID_ARGUMENT names the tensor that does
  // not fit the model. The staged bytes are freed.
  absl::Status SwapWeights(PolicyVersion version) override;
  ModelMemory Memory() const override;

  // Replaces what was staged before.
  void Stage(std::unique_ptr<StagedWeights> weights);

  const PolicyModel& model() const { return *model_; }
  int64_t cache_bytes() const { return cache_->bytes(); }

 private:
  TorchModelRunner(std::unique_ptr<PolicyModel> model, std::unique_ptr<PagedKvCache> cache,
                   const TorchRunnerOptions& options);
  absl::Status RunGuarded(const BatchPlan& plan, absl::Span<DrawnToken> results);
  // The first `rows` of a buffer that only grows, [rows] int64.
  static at::Tensor Indices(at::Tensor* buffer, int64_t rows);

  TorchRunnerOptions options_;
  std::unique_ptr<PolicyModel> model_;
  std::unique_ptr<PagedKvCache> cache_;
  PagedAttention attention_;
  bool threads_set_ = false;

  // Reused from step to step.
  std::vector<PagedSequence> sequences_;
  at::Tensor tokens_;    // [capacity] int64
  at::Tensor rows_;      // [capacity] int64: rows of the pass whose logits are wanted
  at::Tensor repeated_;  // [capacity] int64: for each draw the row of the logits
  std::vector<RowSampling> sampling_;
  std::vector<double> uniforms_;
  std::vector<SampledToken> sampled_;

  WeightStage stage_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_TORCH_MODEL_RUNNER_H_
