// PolicyFunctions in ATen's operations, for tensors on any device. They round where the kernels
// round (a bf16 norm before its weight, SiLU before its product), so that both give the same up to
// the order of sums.
#include <ATen/ATen.h>

#include "common/model/deterministic_scope.h"
#include "common/model/gradient_sink.h"
#include "common/model/policy_functions.h"

namespace crescendo {
namespace {

at::Tensor Wide(const at::Tensor& x) { return x.to(at::kFloat); }

// 1 / sqrt(mean of squares + eps) over the last dimension, which stays as 1; fp32.
at::Tensor InverseRms(const at::Tensor& x, double eps) {
  const at::Tensor norm = at::linalg_vector_norm(x, 2, {-1}, /*keepdim=*/true, at::kFloat);
  return norm.square().div_(static_cast<double>(x.size(-1))).add_(eps).rsqrt_();
}

// y = RMSNorm(x) over the last dimension; they may be the same tensor.
void NormInto(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
              const at::Tensor& y) {
  at::Tensor out = y;
  at::mul_out(out, x, rstd);  // rounded to y's dtype, as Hugging Face does
  out.mul_(weight);
}

struct NormGradients {
  at::Tensor d_x;       // fp32, of x's shape
  at::Tensor d_weight;  // fp32
};
// With n = x rstd: d_weight = sum of d_y n; d_x = rstd (d_y w - n mean(d_y w n)). `d_y` is fp32 and
// overwritten.
NormGradients NormBackward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                           const at::Tensor& d_y) {
  const int64_t n = x.size(-1);
  const at::Tensor normed = at::mul(Wide(x), rstd).reshape({-1, n});
  const at::Tensor w = Wide(weight.detach());
  const at::Tensor d = d_y.view({-1, n});
  const at::Tensor product = d * normed;
  NormGradients gradients;
  gradients.d_weight = product.sum(0);
  const at::Tensor mean = at::mv(product, w).div_(static_cast<double>(n)).unsqueeze(1);
  gradients.d_x = d.mul_(w).addcmul_(normed, mean, -1).mul_(rstd.reshape({-1, 1})).view(x.sizes());
  return gradients;
}

void AtenRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& y,
                 const at::Tensor& rstd) {
  const at::Tensor inverse = InverseRms(x, eps);
  if (rstd.defined()) rstd.copy_(inverse);
  NormInto(x, weight.detach(), inverse, y);
}

void AtenRmsNormBackward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                         const at::Tensor& d_y, const at::Tensor& d_x) {
  const NormGradients gradients = NormBackward(x, weight, rstd, d_y.to(at::kFloat, false, true));
  d_x.copy_(gradients.d_x);
  AddGradient(weight, gradients.d_weight);
}

// Heads [first, first + count) of a row: [T, count, head_dim], a view.
at::Tensor HeadsOf(const at::Tensor& qkv, int64_t first, int64_t count, int64_t head_dim) {
  return qkv.narrow(1, first * head_dim, count * head_dim).view({qkv.size(0), count, head_dim});
}

// The query and key heads, which come first in a row, turned by their positions' angles or back.
void Rotate(const at::Tensor& qkv, const at::Tensor& positions, const ModelConfig& config,
            const RopeTable& rope, double sign) {
  const int64_t half = config.head_dim / 2;
  const at::Tensor x = HeadsOf(qkv, 0, config.query_heads + config.kv_heads, config.head_dim);
  const RopeTable::Rows angles = rope.At(positions);
  const at::Tensor cosine = angles.cosine.unsqueeze(1);
  const at::Tensor sine = angles.sine.unsqueeze(1);
  const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  const at::Tensor wide_a = Wide(a), wide_b = Wide(b);
  const at::Tensor turned_a = at::mul(wide_a, cosine).addcmul_(wide_b, sine, -sign);
  const at::Tensor turned_b = at::mul(wide_b, cosine).addcmul_(wide_a, sine, sign);
  a.copy_(turned_a);
  b.copy_(turned_b);
}

void AtenNormAndRotate(const at::Tensor& qkv, const at::Tensor& positions,
                       const LayerWeights& weights, const ModelConfig& config,
                       const RopeTable& rope) {
  if (config.qk_norm) {
    const at::Tensor q = HeadsOf(qkv, 0, config.query_heads, config.head_dim);
    const at::Tensor k = HeadsOf(qkv, config.query_heads, config.kv_heads, config.head_dim);
    NormInto(q, weights.q_norm.detach(), InverseRms(q, config.norm_eps), q);
    NormInto(k, weights.k_norm.detach(), InverseRms(k, config.norm_eps), k);
  }
  Rotate(qkv, positions, config, rope, 1);
}

void AtenNormAndRotateBackward(const at::Tensor& d_qkv, const at::Tensor& before,
                               const at::Tensor& positions, const LayerWeights& weights,
                               const ModelConfig& config, const RopeTable& rope) {
  Rotate(d_qkv, positions, config, rope, -1);
  if (!config.qk_norm) return;
  const auto head_norm = [&](int64_t first, int64_t count, const at::Tensor& weight) {
    const at::Tensor x = HeadsOf(before, first, count, config.head_dim);
    const at::Tensor d = HeadsOf(d_qkv, first, count, config.head_dim);
    const at::Tensor d_y = at::empty(d.sizes(), d.options().dtype(at::kFloat));
    d_y.copy_(d);
    const NormGradients gradients = NormBackward(x, weight, InverseRms(x, config.norm_eps), d_y);
    d.copy_(gradients.d_x);
    AddGradient(weight, gradients.d_weight);
  };
  head_norm(0, config.query_heads, weights.q_norm);
  head_norm(config.query_heads, config.kv_heads, weights.k_norm);
}

void AtenSwiGlu(const at::Tensor& gate_up, const at::Tensor& out) {
  const int64_t n = out.size(1);
  at::Tensor y = out;
  at::silu_out(y, gate_up.narrow(1, 0, n));
  y.mul_(gate_up.narrow(1, n, n));
}

void AtenSwiGluBackward(const at::Tensor& gate_up, const at::Tensor& d_out, const at::Tensor& d) {
  const int64_t n = d_out.size(1);
  const at::Tensor gate = gate_up.narrow(1, 0, n), up = gate_up.narrow(1, n, n);
  at::Tensor d_gate = d.narrow(1, 0, n), d_up = d.narrow(1, n, n);
  const at::Tensor d_silu = d_out * up;  // before `d`, which may be gate_up, is written
  const at::Tensor silu = at::silu(gate);
  at::mul_out(d_up, d_out, silu);
  d_gate.copy_(at::silu_backward(d_silu, gate));
}

void AtenEmbed(const at::Tensor& table, const at::Tensor& tokens, const at::Tensor& out) {
  at::Tensor rows = out;
  at::index_select_out(rows, table.detach(), 0, tokens);
}

void AtenEmbedBackward(const at::Tensor& table, const at::Tensor& tokens, const at::Tensor& d) {
  if (!table.requires_grad()) return;
  const DeterministicScope deterministic;
  GradientOf(table).index_add_(0, tokens, Wide(d));
}

}  // namespace

const PolicyFunctions& AtenFunctions() {
  static const PolicyFunctions functions = {
      &AtenRmsNorm,         &AtenNormAndRotate,         &AtenSwiGlu,         &AtenEmbed,
      &AtenRmsNormBackward, &AtenNormAndRotateBackward, &AtenSwiGluBackward, &AtenEmbedBackward};
  return functions;
}

}  // namespace crescendo
