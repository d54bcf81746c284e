// The differentiable pieces of the policy: forward by the same kernels as the rollout's, backward
// written out. An inner part of PolicyModel; contracts in comments, exceptions as LibTorch throws.
#ifndef CRESCENDO_COMMON_MODEL_POLICY_FUNCTIONS_H_
#define CRESCENDO_COMMON_MODEL_POLICY_FUNCTIONS_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>

#include "common/model/model_weights.h"

namespace crescendo {

// cos and sin of each position, fp32 [positions, head_dim / 2]; grows as positions are asked for.
class RopeTable {
 public:
  explicit RopeTable(const ModelConfig& config);
  // After it, cosine() and sine() cover positions [0, count).
  void Reserve(int64_t count);
  const float* cosine() const { return cosine_.data_ptr<float>(); }
  const float* sine() const { return sine_.data_ptr<float>(); }
  const at::Tensor& cosine_tensor() const { return cosine_; }
  const at::Tensor& sine_tensor() const { return sine_; }

 private:
  at::Tensor inverse_frequencies_;
  at::Tensor cosine_;
  at::Tensor sine_;
};

// x [T, n], weight [n] -> [T, n].
at::Tensor RmsNormGrad(const at::Tensor& x, const at::Tensor& weight, double eps);

// x [T, hidden] -> q [T, query_heads, head_dim], k and v [T, kv_heads, head_dim], contiguous; bias,
// q/k norm and RoPE applied. positions [T] int64, covered by the table.
std::array<at::Tensor, 3> QkvGrad(const at::Tensor& x, const at::Tensor& positions,
                                  const LayerWeights& weights, const ModelConfig& config,
                                  const RopeTable& rope);

// x [T, hidden] -> silu(x gate^T) * (x up^T) [T, mlp].
at::Tensor GatedMlpGrad(const at::Tensor& x, const LayerWeights& weights);

// h + x w^T [T, out] with w [out, in]; w_t is its transposed view without gradients.
at::Tensor AddLinearGrad(const at::Tensor& h, const at::Tensor& x, const at::Tensor& w,
                         const at::Tensor& w_t, bool deterministic);

// Row-parallel kernels without gradients, shared by both paths ------------------------------------

// y (contiguous) = RMSNorm(x) over the last dimension; rstd (undefined: not wanted) [rows] fp32.
void RmsNormInto(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& y,
                 const at::Tensor& rstd);
// qkv [T, query_size + 2 kv_size]: q/k norm and RoPE in place.
void NormAndRotate(const at::Tensor& qkv, const at::Tensor& positions, const LayerWeights& weights,
                   const ModelConfig& config, const RopeTable& rope);
void SwiGluInto(const at::Tensor& gate_up, const at::Tensor& out);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_POLICY_FUNCTIONS_H_
