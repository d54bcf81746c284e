// The CUDA kernels that only training needs, each with the arithmetic of its CPU counterpart
// (kernels.h). As those of cuda_kernels.h: they only enqueue work, sums are fp32, a row's result
// does not depend on the other rows.
#ifndef CRESCENDO_COMMON_MODEL_TRAINING_KERNELS_H_
#define CRESCENDO_COMMON_MODEL_TRAINING_KERNELS_H_

#include <cstdint>

#include "common/model/cuda_kernels.h"

namespace crescendo::cuda {

// The gradient of RmsNorm (cuda_kernels.h) by x, and that by the weight as sums over parts of the
// rows, which are the caller's to add up. n up to kNormColumnsMax.
inline constexpr int kNormColumnsMax = 8192;
inline constexpr int kNormParts = 256;
struct NormBackwardArgs {
  const void* x;        // [rows, n]
  const void* weight;   // [n]
  const float* rstd;    // [rows]
  const void* d_y;      // [rows, n]
  void* d_x;            // [rows, n], none of the others
  float* weight_parts;  // [kNormParts, n]
  int rows = 0;
  int n = 0;
};
cudaError_t NormBackward(Dtype dtype, const NormBackwardArgs& args, cudaStream_t stream);

// RoPE of the first `heads` heads of each row, in place; `sine_sign` -1 turns back.
struct RotateArgs {
  void* qkv;  // [rows, width]
  const int64_t* positions;
  const float* cosine;  // [positions, head_dim / 2]
  const float* sine;
  int rows = 0;
  int width = 0;
  int heads = 0;
  int head_dim = 0;
  float sine_sign = 1.0f;
};
cudaError_t Rotate(Dtype dtype, const RotateArgs& args, cudaStream_t stream);

// The gradient of SwiGlu; d_gate_up may be gate_up itself.
struct SwiGluBackwardArgs {
  const void* gate_up;  // [rows, 2 n]
  const void* d_out;    // [rows, n]
  void* d_gate_up;      // [rows, 2 n]
  int rows = 0;
  int n = 0;
};
cudaError_t SwiGluBackward(Dtype dtype, const SwiGluBackwardArgs& args, cudaStream_t stream);

}  // namespace crescendo::cuda

#endif  // CRESCENDO_COMMON_MODEL_TRAINING_KERNELS_H_
