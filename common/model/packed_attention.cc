#include "common/model/packed_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/base/status_macros.h"
#include "common/model/kernel_dispatch.h"
#include "common/model/kernels.h"
#include "common/model/packed_attention_aten.h"
#include "common/model/parallel.h"

namespace crescendo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Bounds = std::vector<int32_t>;

// Longest first: the threads finish together.
std::vector<int32_t> LongestFirst(const Bounds& bounds) {
  std::vector<int32_t> order(bounds.size() - 1);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return bounds[static_cast<size_t>(a) + 1] - bounds[static_cast<size_t>(a)] >
           bounds[static_cast<size_t>(b) + 1] - bounds[static_cast<size_t>(b)];
  });
  return order;
}

struct Operands {
  at::Tensor q, k, v, out, lse;
  at::Tensor d_out, d_q, d_k, d_v;  // backward only
  bool fixed_order = false;
};

// The task of one sequence (tokens [first, first + length)) and KV head.
template <typename T>
kernels::PackedTask MakeTask(const Operands& o, int64_t first, int64_t length, int64_t kv_head) {
  kernels::PackedTask t{};
  t.head_dim = static_cast<int32_t>(o.q.size(2));
  t.group = static_cast<int32_t>(o.q.size(1) / o.k.size(1));
  t.length = length;
  t.scale = 1.0f / std::sqrt(static_cast<float>(t.head_dim));
  t.fixed_order = o.fixed_order;
  const int64_t q_column = kv_head * t.group * t.head_dim;
  const int64_t kv_column = kv_head * t.head_dim;
  const auto at = [&](const at::Tensor& x, int64_t column) {
    return Data<T>(x) + first * x.stride(0) + column;
  };
  t.q = at(o.q, q_column);
  t.k = at(o.k, kv_column);
  t.v = at(o.v, kv_column);
  t.q_stride = o.q.stride(0);
  t.k_stride = o.k.stride(0);
  t.v_stride = o.v.stride(0);
  t.out = at(o.out, q_column);
  t.out_stride = o.out.stride(0);
  if (o.lse.defined()) {
    t.lse = o.lse.data_ptr<float>() + first * o.q.size(1) + kv_head * t.group;
    t.lse_stride = o.q.size(1);
  }
  if (o.d_out.defined()) {
    t.d_out = at(o.d_out, q_column);
    t.d_out_stride = o.d_out.stride(0);
    t.d_q = at(o.d_q, q_column);
    t.d_k = at(o.d_k, kv_column);
    t.d_v = at(o.d_v, kv_column);
    t.d_q_stride = o.d_q.stride(0);
    t.d_k_stride = o.d_k.stride(0);
    t.d_v_stride = o.d_v.stride(0);
  }
  return t;
}

// All sequences and KV heads, over the threads.
void Run(const Operands& o, const Bounds& bounds) {
  const bool backward = o.d_out.defined();
  const std::vector<int32_t> order = LongestFirst(bounds);
  if (order.empty()) return;
  const size_t longest = static_cast<size_t>(order[0]);
  const int64_t floats = kernels::PackedScratchFloats(bounds[longest + 1] - bounds[longest],
                                                      static_cast<int32_t>(o.q.size(2)), backward);
  const int threads = at::get_num_threads();
  const at::Tensor scratch = at::empty({threads, floats}, at::kFloat);
  float* base = scratch.data_ptr<float>();
  const int64_t kv_heads = o.k.size(1);
  DispatchDtype(o.q.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const auto& table = kernels::TypedKernels<T>();
    ParallelTasks(
        threads, static_cast<int64_t>(order.size()) * kv_heads, [&](int64_t index, int worker) {
          const auto sequence = static_cast<size_t>(order[static_cast<size_t>(index / kv_heads)]);
          const int64_t length = bounds[sequence + 1] - bounds[sequence];
          if (length == 0) return;
          const auto task = MakeTask<T>(o, bounds[sequence], length, index % kv_heads);
          (backward ? table.packed_backward : table.packed_forward)(task, base + worker * floats);
        });
  });
}

struct PackedAttentionFunction : torch::autograd::Function<PackedAttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, std::shared_ptr<const Bounds> bounds,
                            bool deterministic) {
    Operands o;
    o.fixed_order = deterministic;
    o.q = q;
    o.k = k;
    o.v = v;
    o.out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
    o.lse = at::empty({q.size(0), q.size(1)}, at::kFloat);
    Run(o, *bounds);
    ctx->save_for_backward({q, k, v, o.out, o.lse});
    at::Tensor saved_bounds = at::empty({static_cast<int64_t>(bounds->size())}, at::kInt);
    std::copy(bounds->begin(), bounds->end(), saved_bounds.data_ptr<int32_t>());
    ctx->saved_data["bounds"] = saved_bounds;
    return o.out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor bounds = ctx->saved_data["bounds"].toTensor();
    const int32_t* first = bounds.data_ptr<int32_t>();
    Operands o;
    o.q = saved[0];
    o.k = saved[1];
    o.v = saved[2];
    o.out = saved[3];
    o.lse = saved[4];
    o.d_out = grads[0].contiguous();
    o.d_q = at::empty_like(o.q);
    o.d_k = at::empty_like(o.k);
    o.d_v = at::empty_like(o.v);
    Run(o, Bounds(first, first + bounds.numel()));
    return {o.d_q, o.d_k, o.d_v, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

PackedAttention::PackedAttention(absl::Span<const int32_t> cu_seqlens, bool deterministic,
                                 bool aten)
    : cu_seqlens_(std::make_shared<std::vector<int32_t>>(cu_seqlens.begin(), cu_seqlens.end())),
      deterministic_(deterministic) {
  CRESCENDO_CHECK(!cu_seqlens.empty() && cu_seqlens[0] == 0);
  CRESCENDO_CHECK(std::is_sorted(cu_seqlens.begin(), cu_seqlens.end()));
  if (!aten) return;
  aten_ = std::make_shared<AtenSequences>();
  aten_->bounds = *cu_seqlens_;
}

at::Tensor PackedAttention::Attend(int /*layer*/, const at::Tensor& q, const at::Tensor& k,
                                   const at::Tensor& v) {
  CRESCENDO_CHECK(aten_ == nullptr);
  TORCH_CHECK(q.size(0) == cu_seqlens_->back(), "packed attention: expected ", cu_seqlens_->back(),
              " tokens, found ", q.size(0));
  if (at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad())) {
    return PackedAttentionFunction::apply(q.contiguous(), k.contiguous(), v.contiguous(),
                                          cu_seqlens_, deterministic_);
  }
  Operands o;
  o.fixed_order = deterministic_;
  o.q = q;
  o.k = k;
  o.v = v;
  o.out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
  Run(o, *cu_seqlens_);
  return o.out;
}

void PackedAttention::Forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& out, const at::Tensor& lse) const {
  TORCH_CHECK(q.size(0) == cu_seqlens_->back(), "packed attention: expected ", cu_seqlens_->back(),
              " tokens, found ", q.size(0));
  if (aten_ != nullptr) {
    const AtenAttention a = {q, k, v, out.view(q.sizes()), lse};
    return FlashTakes(q) ? FlashForward(*aten_, a) : PlainForward(*aten_, a);
  }
  Operands o;
  o.fixed_order = deterministic_;
  o.q = q;
  o.k = k;
  o.v = v;
  o.out = out;
  o.lse = lse;
  Run(o, *cu_seqlens_);
}

void PackedAttention::Backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const at::Tensor& out, const at::Tensor& lse,
                               const at::Tensor& d_out, const Gradients& gradients) const {
  if (aten_ != nullptr) {
    const AtenAttention a = {q, k, v, out.view(q.sizes()), lse};
    const AtenAttentionGradients d = {gradients.d_q, gradients.d_k, gradients.d_v};
    return FlashTakes(q) ? FlashBackward(*aten_, a, d_out.view(q.sizes()), d)
                         : PlainBackward(*aten_, a, d_out.view(q.sizes()), d);
  }
  Operands o;
  o.q = q;
  o.k = k;
  o.v = v;
  o.out = out;
  o.lse = lse;
  o.d_out = d_out;
  o.d_q = gradients.d_q;
  o.d_k = gradients.d_k;
  o.d_v = gradients.d_v;
  Run(o, *cu_seqlens_);
}

at::Tensor PackedAttention::Positions() const {
  at::Tensor positions = at::empty({cu_seqlens_->back()}, at::kLong);
  int64_t* out = positions.data_ptr<int64_t>();
  for (size_t i = 0; i + 1 < cu_seqlens_->size(); ++i) {
    const int32_t begin = (*cu_seqlens_)[i];
    std::iota(out + begin, out + (*cu_seqlens_)[i + 1], int64_t{0});
  }
  return positions;
}

}  // namespace crescendo
