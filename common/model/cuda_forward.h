// One pass of the policy over the device: the CPU's PolicyModel::Hidden and Logits, PagedAttention
// and SampleRows as a sequence of kernels on one stream, over inputs that lie in device memory
// (cuda_step_inputs.h). It only enqueues: a pass over a shape can be captured and replayed.
//
// Invariants: keys and values stay in device memory; a row of no sequence (padding) writes none.
// Thread rule: one thread at a time.
#ifndef CRESCENDO_COMMON_MODEL_CUDA_FORWARD_H_
#define CRESCENDO_COMMON_MODEL_CUDA_FORWARD_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/cuda_blas.h"
#include "common/model/cuda_kernels.h"
#include "common/model/cuda_memory.h"
#include "common/model/cuda_step_inputs.h"
#include "common/model/cuda_weights.h"
#include "common/model/flashinfer_attention.h"
#include "common/model/model_config.h"

namespace crescendo {

// The sizes that kernels are launched with; all else is read from the inputs on the device.
struct PassShape {
  int rows = 0;  // first those of decoding sequences (one row each), then prefill
  int decode_rows = 0;
  int sequences = 0;      // of which the first decode_rows decode
  int splits = 1;         // for PagedAttentionSimple
  int decode_blocks = 0;  // of the plans, for FlashInfer
  int prefill_blocks = 0;
  int64_t prefill_partials = 0;
  int drawn_rows = 0;      // rows whose logits are made
  bool all_drawn = false;  // all rows, in order: they need no gathering
  int draws = 0;
};

class CudaForward {
 public:
  // `blocks` blocks of `block_tokens` tokens of keys and values.
  static absl::StatusOr<std::unique_ptr<CudaForward>> Create(const ModelConfig& config,
                                                             cuda::Dtype dtype, int blocks,
                                                             int block_tokens, cudaStream_t stream);

  // Makes room for passes up to this size; positions below `positions`. Returns whether memory
  // moved: captured passes are then void.
  absl::StatusOr<bool> Reserve(const PassShape& shape, int64_t positions);

  absl::Status EnqueueCopies(const StepInputs& inputs, int first, int count);
  absl::Status Enqueue(const StepInputs& inputs, const PassShape& shape);

  // Of the last pass: one a draw, in device memory.
  const cuda::Drawn* drawn() const { return reinterpret_cast<const cuda::Drawn*>(drawn_.data()); }
  const float* logits() const { return reinterpret_cast<const float*>(logits_.data()); }

  CudaWeights& weights() { return weights_; }
  bool uses_flashinfer() const { return flashinfer_; }
  // Blocks of threads that a decoding plan of so many sequences may have.
  int DecodeCapacity(int sequences) const;
  int PrefillCapacity(int rows, int sequences) const;
  int group() const { return config_.query_heads / config_.kv_heads; }
  int64_t cache_bytes() const { return cache_.bytes(); }
  int64_t scratch_bytes() const;

 private:
  CudaForward(const ModelConfig& config, cuda::Dtype dtype, cudaStream_t stream)
      : config_(config), dtype_(dtype), stream_(stream) {}
  absl::Status ReserveRope(int64_t positions);
  absl::Status Layer(const StepInputs& inputs, const PassShape& shape, int layer);
  absl::Status Attend(const StepInputs& inputs, const PassShape& shape, int layer);
  cuda::FlashInferArgs AttendArgs(const StepInputs& inputs, int layer, const CudaPlan& plan) const;
  absl::Status MatMul(const void* x, const void* w, void* out, int64_t rows, int64_t columns,
                      int64_t inner, bool accumulate);
  char* Keys(int layer) const;
  char* Values(int layer) const;

  ModelConfig config_;
  cuda::Dtype dtype_;
  cudaStream_t stream_;
  bool flashinfer_ = false;
  int processors_ = 1;
  cuda::KvShape kv_;
  int64_t plane_bytes_ = 0;  // keys, or values, of a layer
  int64_t block_bytes_ = 0;
  CudaWeights weights_;
  std::unique_ptr<CudaBlas> blas_;
  CudaMemory cache_;  // [layers, 2, blocks, kv_heads, block_tokens, head_dim]
  CudaMemory cosine_, sine_;
  int64_t positions_ = 0;
  CudaMemory residual_, normed_, qkv_, q_, attention_, gate_up_, mlp_, gathered_, logits_, drawn_;
  CudaMemory partial_;  // of PagedAttentionSimple, or of the decoding plan
  CudaMemory partial_lse_;
  CudaMemory prefill_partial_, prefill_partial_lse_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_CUDA_FORWARD_H_
