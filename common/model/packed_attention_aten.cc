#include "common/model/packed_attention_aten.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "common/model/deterministic_scope.h"

namespace crescendo {
namespace {

// Queries of one block of the plain products: scores are [kv_heads, group x rows, keys] fp32.
constexpr int64_t kQueryBlock = 256;
constexpr int64_t kFlashHeadMax = 256;

// At least 2: sequences of one token are another layout of lse to flash attention.
int64_t Longest(const std::vector<int32_t>& bounds) {
  int64_t longest = 2;
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    longest = std::max<int64_t>(longest, bounds[i + 1] - bounds[i]);
  }
  return longest;
}

const at::Tensor& OnDevice(AtenSequences& sequences, const at::Tensor& like) {
  if (!sequences.on_device.defined()) {
    const at::Tensor host = at::empty({static_cast<int64_t>(sequences.bounds.size())}, at::kInt);
    std::copy(sequences.bounds.begin(), sequences.bounds.end(), host.data_ptr<int32_t>());
    sequences.on_device = host.to(like.device());
  }
  return sequences.on_device;
}

// Rows [first, first + rows) of x [T, heads, dim] as [kv_heads, group, rows, dim] fp32.
at::Tensor Grouped(const at::Tensor& x, int64_t first, int64_t rows, int64_t kv_heads) {
  return x.narrow(0, first, rows)
      .to(at::kFloat)
      .view({rows, kv_heads, x.size(1) / kv_heads, x.size(2)})
      .permute({1, 2, 0, 3})
      .contiguous();
}
// Back: [kv_heads, group, rows, dim] to [rows, heads, dim].
at::Tensor Ungrouped(const at::Tensor& x, int64_t rows) {
  return x.view({x.size(0), -1, rows, x.size(-1)}).permute({2, 0, 1, 3}).flatten(1, 2);
}

// Calls fn(sequence begin, first query, queries, keys) for each block of queries; the keys of a
// block are those up to its last query.
template <typename F>
void EachBlock(const std::vector<int32_t>& bounds, const F& fn) {
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    const int64_t begin = bounds[i], length = bounds[i + 1] - begin;
    for (int64_t first = 0; first < length; first += kQueryBlock) {
      const int64_t rows = std::min(kQueryBlock, length - first);
      fn(begin, begin + first, rows, first + rows);
    }
  }
}

// One block's scores [kv_heads, group x rows, keys] fp32, -inf where the key comes after the query.
at::Tensor Scores(const at::Tensor& q, const at::Tensor& k, int64_t rows, double scale) {
  const int64_t keys = k.size(1);
  at::Tensor scores = at::bmm(q, k.transpose(1, 2)).mul_(scale);
  const at::Tensor row = at::arange(keys - rows, keys, q.options().dtype(at::kLong)).unsqueeze(1);
  const at::Tensor key = at::arange(keys, q.options().dtype(at::kLong)).unsqueeze(0);
  scores.view({scores.size(0), -1, rows, keys})
      .masked_fill_(key > row, -std::numeric_limits<double>::infinity());
  return scores;
}

double ScaleOf(const at::Tensor& q) {
  return static_cast<double>(1.0f / std::sqrt(static_cast<float>(q.size(2))));
}

}  // namespace

bool FlashTakes(const at::Tensor& q) {
  return q.is_cuda() && q.scalar_type() == at::kBFloat16 && q.size(2) % 8 == 0 &&
         q.size(2) <= kFlashHeadMax;
}

void FlashForward(AtenSequences& sequences, const AtenAttention& a) {
  const at::Tensor& bounds = OnDevice(sequences, a.q);
  const int64_t longest = Longest(sequences.bounds);
  const auto result = at::_flash_attention_forward(a.q, a.k, a.v, bounds, bounds, longest, longest,
                                                   /*dropout_p=*/0.0, /*is_causal=*/true,
                                                   /*return_debug_mask=*/false, ScaleOf(a.q));
  a.out.copy_(std::get<0>(result));
  a.lse.view(-1).copy_(std::get<1>(result).reshape(-1));  // [query_heads, T]
}

void FlashBackward(AtenSequences& sequences, const AtenAttention& a, const at::Tensor& d_out,
                   const AtenAttentionGradients& gradients) {
  const at::Tensor& bounds = OnDevice(sequences, a.q);
  const int64_t longest = Longest(sequences.bounds);
  const DeterministicScope deterministic;
  // Without dropout nothing reads the state of the random numbers.
  const at::Tensor no_random = at::empty({0}, a.q.options().dtype(at::kLong));
  const auto result = at::_flash_attention_backward(
      d_out, a.q, a.k, a.v, a.out, a.lse.view({a.q.size(1), a.q.size(0)}), bounds, bounds, longest,
      longest, /*dropout_p=*/0.0, /*is_causal=*/true, no_random, no_random, ScaleOf(a.q));
  gradients.d_q.copy_(std::get<0>(result));
  gradients.d_k.copy_(std::get<1>(result));
  gradients.d_v.copy_(std::get<2>(result));
}

void PlainForward(const AtenSequences& sequences, const AtenAttention& a) {
  const int64_t kv_heads = a.k.size(1), heads = a.q.size(1);
  const at::Tensor lse = a.lse.view({-1, heads});
  EachBlock(sequences.bounds, [&](int64_t begin, int64_t first, int64_t rows, int64_t keys) {
    const at::Tensor q = Grouped(a.q, first, rows, kv_heads).flatten(1, 2);
    const at::Tensor k = Grouped(a.k, begin, keys, kv_heads).squeeze(1);
    const at::Tensor v = Grouped(a.v, begin, keys, kv_heads).squeeze(1);
    const at::Tensor scores = Scores(q, k, rows, ScaleOf(a.q));
    const at::Tensor sum = at::logsumexp(scores, {2}, /*keepdim=*/true);
    const at::Tensor out = at::bmm(scores.sub_(sum).exp_(), v);
    a.out.narrow(0, first, rows).copy_(Ungrouped(out, rows));
    lse.narrow(0, first, rows).copy_(Ungrouped(sum, rows).squeeze(2));
  });
}

void PlainBackward(const AtenSequences& sequences, const AtenAttention& a, const at::Tensor& d_out,
                   const AtenAttentionGradients& gradients) {
  const int64_t kv_heads = a.k.size(1), heads = a.q.size(1);
  const double scale = ScaleOf(a.q);
  const at::TensorOptions wide = a.k.options().dtype(at::kFloat);
  const at::Tensor d_k = at::zeros(a.k.sizes(), wide), d_v = at::zeros(a.v.sizes(), wide);
  const at::Tensor lse = a.lse.view({-1, heads, 1});
  EachBlock(sequences.bounds, [&](int64_t begin, int64_t first, int64_t rows, int64_t keys) {
    const at::Tensor q = Grouped(a.q, first, rows, kv_heads).flatten(1, 2);
    const at::Tensor k = Grouped(a.k, begin, keys, kv_heads).squeeze(1);
    const at::Tensor v = Grouped(a.v, begin, keys, kv_heads).squeeze(1);
    const at::Tensor out = Grouped(a.out, first, rows, kv_heads).flatten(1, 2);
    const at::Tensor d = Grouped(d_out, first, rows, kv_heads).flatten(1, 2);
    const at::Tensor sums = Grouped(lse, first, rows, kv_heads).flatten(1, 2);
    const at::Tensor p = Scores(q, k, rows, scale).sub_(sums).exp_();
    // dS = P (dP - rowsum(dO O)): eq. 4 of FlashAttention, arXiv:2205.14135, appendix B.
    const at::Tensor d_scores =
        at::bmm(d, v.transpose(1, 2)).sub_((d * out).sum(2, /*keepdim=*/true)).mul_(p).mul_(scale);
    gradients.d_q.narrow(0, first, rows).copy_(Ungrouped(at::bmm(d_scores, k), rows));
    d_k.narrow(0, begin, keys).add_(at::bmm(d_scores.transpose(1, 2), q).transpose(0, 1));
    d_v.narrow(0, begin, keys).add_(at::bmm(p.transpose(1, 2), d).transpose(0, 1));
  });
  gradients.d_k.copy_(d_k);
  gradients.d_v.copy_(d_v);
}

}  // namespace crescendo
