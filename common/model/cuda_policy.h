// The policy on a CUDA device, as the rollout engine uses it: weights and paged KV cache in device
// memory, one call a step for any mix of prefill chunks and decoding sequences, tokens drawn on the
// device. The host waits once a step, for the drawn tokens.
//
// A step that only decodes (one new token and one draw a sequence) runs as a CUDA graph, captured
// at the second step of a batch size; sizes are rounded up to a ladder (GraphBatch) and padded with
// rows that write nothing.
//
// Agrees with the CPU's PolicyModel and SampleRows: in fp32 up to the order of sums, so that the
// tokens are the same but where a draw falls between two sums; in bf16 with the logits in fp32,
// which the CPU rounds to bf16.
//
// Thread rule: one thread at a time. Errors: INVALID_ARGUMENT names what does not fit, before
// anything runs; after any other error of Step the cache is not known.
#ifndef CRESCENDO_COMMON_MODEL_CUDA_POLICY_H_
#define CRESCENDO_COMMON_MODEL_CUDA_POLICY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/attention_plan.h"
#include "common/model/cuda_forward.h"
#include "common/model/cuda_kernels.h"
#include "common/model/cuda_memory.h"
#include "common/model/cuda_step_inputs.h"
#include "common/model/model_config.h"
#include "common/model/policy_model.h"

namespace crescendo {

struct CudaPolicyOptions {
  int blocks = 4096;
  int block_tokens = 16;
  cuda::Dtype dtype = cuda::Dtype::kBf16;
  bool graphs = true;
  // Room made at the start, so that it need not grow (which drops the graphs): rows of a step, and
  // sequences (and draws).
  int step_tokens = 2048;
  int sequences = 256;
};

// One sequence's share of a step.
struct CudaSequence {
  absl::Span<const int32_t> new_tokens;  // at positions context_before...; at least 1
  int32_t context_before = 0;
  absl::Span<const int32_t> blocks;  // block i holds tokens [i, i + 1) x block_tokens
  int32_t first_draw = 0;            // its draws stand at draws[first_draw...]
  int32_t draws = 0;                 // all from the last new token
};

struct CudaBatch {
  std::vector<std::pair<int32_t, int32_t>> copies;  // blocks, from and to, one after the other
  std::vector<CudaSequence> sequences;
  std::vector<cuda::Draw> draws;  // `row` is set by Step
};

// Rows that a decoding step of `sequences` runs with; 0: too many for a graph.
int GraphBatch(int sequences);

class CudaPolicy {
 public:
  // FAILED_PRECONDITION without a usable device or cuBLAS, RESOURCE_EXHAUSTED without the memory,
  // INVALID_ARGUMENT as MatchState (model_weights.h) for `state`, the weights.
  static absl::StatusOr<std::unique_ptr<CudaPolicy>> Create(const ModelConfig& config,
                                                            absl::Span<const TensorBytes> state,
                                                            const CudaPolicyOptions& options);

  // Computes the batch and draws: one result for each of batch.draws. INVALID_ARGUMENT also for
  // logits that are not finite (it names the draw).
  absl::Status Step(CudaBatch& batch, absl::Span<cuda::Drawn> results);
  // Overwrites all weights; the cache stays.
  absl::Status LoadState(absl::Span<const TensorBytes> state) {
    return forward_->weights().Load(state);
  }

  // Copies the logits [vocab_size] of one of the last step's rows with draws to the host.
  absl::Status CopyLogits(int32_t row, absl::Span<float> logits) const;
  // The logits of the last step's rows with draws, in the order in which they ran (for tests).
  absl::StatusOr<std::vector<float>> LastLogits() const;
  // Which place the rows of a sequence's draws had there.
  const std::vector<int32_t>& logit_rows() const { return logit_rows_; }

  const ModelConfig& config() const { return config_; }
  bool uses_flashinfer() const { return forward_->uses_flashinfer(); }
  int64_t graph_launches() const { return graph_launches_; }
  int64_t weight_bytes() const { return forward_->weights().bytes(); }
  int64_t cache_bytes() const { return forward_->cache_bytes(); }
  int64_t scratch_bytes() const { return forward_->scratch_bytes() + inputs_.device_bytes(); }

 private:
  CudaPolicy(const ModelConfig& config, const CudaPolicyOptions& options, CudaStream stream)
      : config_(config), options_(options), stream_(std::move(stream)) {}
  absl::Status Check(const CudaBatch& batch) const;
  // Puts the batch into the inputs, and says how it is to be launched.
  absl::StatusOr<PassShape> Fill(CudaBatch& batch);
  void FillRows(const CudaBatch& batch, PassShape* shape);
  void FillDraws(CudaBatch& batch, PassShape* shape);
  void FillPlans(PassShape* shape);
  absl::Status EnqueueCopies(const CudaBatch& batch);
  absl::Status RunPass(const PassShape& shape, bool decode_only);

  // (rows, splits)
  using GraphKey = std::pair<int, int>;
  struct GraphSlot {
    int steps = 0;
    CudaGraph graph;
  };

  ModelConfig config_;
  CudaPolicyOptions options_;
  CudaStream stream_;
  std::unique_ptr<CudaForward> forward_;
  StepInputs inputs_;
  CudaMemory results_;  // pinned
  std::map<GraphKey, GraphSlot> graphs_;
  int64_t graph_launches_ = 0;
  int64_t last_logit_rows_ = 0;

  // Of the step, reused.
  std::vector<int> order_;  // of the sequences: those that decode first
  std::vector<int32_t> queries_, contexts_;
  AttentionPlan decode_plan_, prefill_plan_;
  std::vector<int32_t> draw_order_;  // for each draw on the device the batch's
  std::vector<int32_t> logit_rows_;
  std::vector<int> copy_ends_;
  int64_t block_ids_used_ = 0;
  int32_t longest_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_CUDA_POLICY_H_
