// The weights of a policy in device memory, in one allocation: q, k and v (and gate and up) of a
// layer stand behind each other, so that one product makes them all.
//
// Invariant: pointers stay good for the object's life; a load writes in place. Thread rule: one
// thread at a time, and none while the device works with the weights.
#ifndef CRESCENDO_COMMON_MODEL_CUDA_WEIGHTS_H_
#define CRESCENDO_COMMON_MODEL_CUDA_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/cuda_kernels.h"
#include "common/model/cuda_memory.h"
#include "common/model/model_config.h"
#include "common/model/model_weights.h"
#include "common/model/policy_model.h"

namespace crescendo {

// nullptr: the architecture has none.
struct CudaLayerWeights {
  const void* input_norm = nullptr;  // [hidden]
  const void* qkv = nullptr;         // [query_size + 2 kv_size, hidden]
  const void* qkv_bias = nullptr;    // [query_size + 2 kv_size]
  const void* q_norm = nullptr;      // [head_dim]
  const void* k_norm = nullptr;      // [head_dim]
  const void* o = nullptr;           // [hidden, query_size]
  const void* post_norm = nullptr;   // [hidden]
  const void* gate_up = nullptr;     // [2 mlp, hidden]
  const void* down = nullptr;        // [hidden, mlp]
};

class CudaWeights {
 public:
  // Not set. RESOURCE_EXHAUSTED when the memory is not to be had.
  static absl::StatusOr<CudaWeights> Create(const ModelConfig& config, cuda::Dtype dtype);

  // Overwrites all (a weight swap); F32 and BF16 are converted to the dtype here. All tensors are
  // checked before one is written (MatchState of model_weights.h).
  absl::Status Load(absl::Span<const TensorBytes> tensors);

  const CudaLayerWeights& layer(int i) const { return layers_[static_cast<size_t>(i)]; }
  const void* embedding() const { return embedding_; }
  const void* final_norm() const { return final_norm_; }
  const void* head() const { return head_; }  // the embedding when tied
  int64_t bytes() const { return memory_.bytes(); }

 private:
  cuda::Dtype dtype_ = cuda::Dtype::kF32;
  CudaMemory memory_;
  std::vector<ParameterSpec> specs_;
  std::vector<int64_t> offsets_;  // in bytes, one a spec
  std::vector<CudaLayerWeights> layers_;
  const void* embedding_ = nullptr;
  const void* final_norm_ = nullptr;
  const void* head_ = nullptr;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_CUDA_WEIGHTS_H_
