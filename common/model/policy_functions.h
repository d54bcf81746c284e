// The pieces of the policy between its matrix products: forward and backward, written out. An inner
// part of PolicyModel; contracts in comments, exceptions as LibTorch throws.
#ifndef CRESCENDO_COMMON_MODEL_POLICY_FUNCTIONS_H_
#define CRESCENDO_COMMON_MODEL_POLICY_FUNCTIONS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>

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

  // cos and sin, [T, head_dim / 2] each, of positions [T] int64 on any device, where they are.
  struct Rows {
    at::Tensor cosine, sine;
  };
  Rows At(const at::Tensor& positions) const;
  // The whole tables on a device.
  Rows On(at::Device device) const;

 private:
  at::Tensor inverse_frequencies_;
  at::Tensor cosine_;
  at::Tensor sine_;
  mutable std::map<int, Rows> copies_;  // on other devices, by their index
};

// Forward, shared by rollout and learner
// -----------------------------------------------------------

// y (contiguous) = RMSNorm(x) over the last dimension; rstd (undefined: not wanted) [rows] fp32.
void RmsNormInto(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& y,
                 const at::Tensor& rstd);
// qkv [T, query_size + 2 kv_size]: q/k norm and RoPE in place.
void NormAndRotate(const at::Tensor& qkv, const at::Tensor& positions, const LayerWeights& weights,
                   const ModelConfig& config, const RopeTable& rope);
void SwiGluInto(const at::Tensor& gate_up, const at::Tensor& out);
// out [T, hidden] = rows of the table [vocab, hidden]; ids are within it.
void EmbedInto(const at::Tensor& table, const at::Tensor& tokens, const at::Tensor& out);
// The same from a table in tile order (tile_product.h).
void EmbedTileOrderInto(const at::Tensor& table, const at::Tensor& tokens, const at::Tensor& out);

// Backward: gradients of weights go to .grad (gradient_sink.h) ------------------------------------

// d_x (contiguous) = the gradient of RmsNormInto.
void RmsNormBackwardInto(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                         const at::Tensor& d_y, const at::Tensor& d_x);
// d_qkv [T, query_size + 2 kv_size], in place: from behind NormAndRotate to before it. `before` is
// what NormAndRotate was given, used only where the model normalises heads.
void NormAndRotateBackward(const at::Tensor& d_qkv, const at::Tensor& before,
                           const at::Tensor& positions, const LayerWeights& weights,
                           const ModelConfig& config, const RopeTable& rope);
// d [T, 2 mlp] from d_out [T, mlp]; d may be gate_up itself.
void SwiGluBackwardInto(const at::Tensor& gate_up, const at::Tensor& d_out, const at::Tensor& d);
// Adds d [T, hidden] to the rows of the table's gradient, token by token.
void EmbedBackward(const at::Tensor& table, const at::Tensor& tokens, const at::Tensor& d);

// One set of them -----------------------------------------------------------------------------

// What a pass computes with: the CPU's kernels (all of the above), or the same contracts written
// in ATen's operations, for tensors on any device (policy_functions_aten.cc).
struct PolicyFunctions {
  decltype(&RmsNormInto) rms_norm;
  decltype(&NormAndRotate) norm_and_rotate;
  decltype(&SwiGluInto) swiglu;
  decltype(&EmbedInto) embed;
  decltype(&RmsNormBackwardInto) rms_norm_backward;
  decltype(&NormAndRotateBackward) norm_and_rotate_backward;
  decltype(&SwiGluBackwardInto) swiglu_backward;
  decltype(&EmbedBackward) embed_backward;
};
const PolicyFunctions& CpuFunctions();
const PolicyFunctions& AtenFunctions();

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_POLICY_FUNCTIONS_H_
