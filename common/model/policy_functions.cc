#include "common/model/policy_functions.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/model/gradient_sink.h"
#include "common/model/kernel_dispatch.h"
#include "common/model/kernels.h"
#include "common/model/parallel.h"
#include "common/model/tile_product.h"

namespace crescendo {
namespace {

// Sums of each thread's part, added up in the order of the parts.
constexpr int64_t kNormParts = 16;

// d_x and d_weight (fp32 [n]) of RMSNorm over `rows` rows of n with a stride.
template <typename T>
void RmsNormBackwardRows(const T* x, int64_t x_stride, const T* weight, const T* d_y,
                         int64_t d_y_stride, const float* rstd, T* d_x, int64_t rows, int64_t n,
                         float* d_weight) {
  at::Tensor partial = at::zeros({kNormParts, n}, at::kFloat);
  float* sums = partial.data_ptr<float>();
  const int64_t size = (rows + kNormParts - 1) / kNormParts;
  ParallelTasks(at::get_num_threads(), kNormParts, [&](int64_t part, int) {
    const int64_t begin = part * size;
    const int64_t end = std::min(rows, begin + size);
    if (begin >= end) return;
    kernels::TypedKernels<T>().rms_norm_backward(x + begin * x_stride, x_stride, weight,
                                                 d_y + begin * d_y_stride, d_y_stride, rstd + begin,
                                                 d_x + begin * n, sums + part * n, end - begin, n);
  });
  for (int64_t i = 0; i < n; ++i) d_weight[i] = 0.0f;
  for (int64_t part = 0; part < kNormParts; ++part) {
    for (int64_t i = 0; i < n; ++i) d_weight[i] += sums[part * n + i];
  }
}

// RMSNorm of each head of columns [first, first + heads * head_dim) of y, in place; rstd
// [T * heads].
template <typename T>
void NormHeads(const at::Tensor& y, int64_t first, int64_t heads, int64_t head_dim,
               const at::Tensor& weight, double eps, float* rstd) {
  const int64_t width = y.size(1);
  ParallelRange(at::get_num_threads(), y.size(0), RowGrain(heads * head_dim),
                [&](int64_t begin, int64_t end) {
                  for (int64_t t = begin; t < end; ++t) {
                    T* row = Data<T>(y) + t * width + first;
                    kernels::TypedKernels<T>().rms_norm(
                        row, head_dim, Data<T>(weight), row, head_dim,
                        rstd == nullptr ? nullptr : rstd + t * heads, heads, head_dim,
                        static_cast<float>(eps));
                  }
                });
}

// The gradient of NormHeads: replaces columns of dy; returns d_weight, fp32.
template <typename T>
at::Tensor NormHeadsBackward(const at::Tensor& before, const at::Tensor& dy, int64_t first,
                             int64_t heads, int64_t head_dim, const at::Tensor& weight,
                             const at::Tensor& rstd) {
  const at::Tensor x = before.narrow(1, first, heads * head_dim).contiguous();
  const at::Tensor columns = dy.narrow(1, first, heads * head_dim);
  const at::Tensor d = columns.contiguous();
  at::Tensor dx = at::empty_like(x);
  at::Tensor d_weight = at::empty({head_dim}, at::kFloat);
  RmsNormBackwardRows<T>(Data<T>(x), head_dim, Data<T>(weight), Data<T>(d), head_dim,
                         rstd.data_ptr<float>(), Data<T>(dx), x.size(0) * heads, head_dim,
                         d_weight.data_ptr<float>());
  columns.copy_(dx);
  return d_weight;
}

}  // namespace

RopeTable::RopeTable(const ModelConfig& config) {
  const int64_t half = config.head_dim / 2;
  // In fp32 as Hugging Face does it, so that long positions get the same angles.
  at::Tensor exponents = at::arange(0, config.head_dim, 2, at::kLong).to(at::kFloat) /
                         static_cast<double>(config.head_dim);
  inverse_frequencies_ = 1.0 / at::pow(at::Scalar(config.rope_theta), exponents);
  auto* frequency = inverse_frequencies_.data_ptr<float>();
  for (int64_t i = 0; i < half; ++i) {
    frequency[i] = static_cast<float>(ScaledRopeFrequency(frequency[i], config.rope_scaling));
  }
}

void RopeTable::Reserve(int64_t count) {
  if (cosine_.defined() && cosine_.size(0) >= count) return;
  copies_.clear();
  int64_t size = 1024;
  while (size < count) size *= 2;
  const at::Tensor angles = at::outer(at::arange(size, at::kFloat), inverse_frequencies_);
  cosine_ = at::empty_like(angles);
  sine_ = at::empty_like(angles);
  // Block by block: the same bits whatever the table's size and the number of threads.
  constexpr int64_t kBlock = 256;
  for (int64_t first = 0; first < size; first += kBlock) {
    const at::Tensor block = angles.narrow(0, first, kBlock);
    at::Tensor cosine = cosine_.narrow(0, first, kBlock);
    at::Tensor sine = sine_.narrow(0, first, kBlock);
    at::cos_out(cosine, block);
    at::sin_out(sine, block);
  }
}

RopeTable::Rows RopeTable::At(const at::Tensor& positions) const {
  const Rows tables = On(positions.device());
  return {tables.cosine.index_select(0, positions), tables.sine.index_select(0, positions)};
}

RopeTable::Rows RopeTable::On(at::Device device) const {
  if (device.is_cpu()) return {cosine_, sine_};
  Rows& copy = copies_[device.index()];
  if (!copy.cosine.defined()) copy = {cosine_.to(device), sine_.to(device)};
  return copy;
}

void EmbedInto(const at::Tensor& table, const at::Tensor& tokens, const at::Tensor& out) {
  const int64_t* ids = tokens.data_ptr<int64_t>();
  const size_t row_bytes = static_cast<size_t>(table.size(1)) * table.element_size();
  const char* from = static_cast<const char*>(table.data_ptr());
  char* to = static_cast<char*>(out.data_ptr());
  ParallelRange(at::get_num_threads(), tokens.size(0), RowGrain(table.size(1)),
                [&](int64_t begin, int64_t end) {
                  for (int64_t t = begin; t < end; ++t) {
                    std::memcpy(to + static_cast<size_t>(t) * row_bytes,
                                from + static_cast<size_t>(ids[t]) * row_bytes, row_bytes);
                  }
                });
}

void EmbedTileOrderInto(const at::Tensor& table, const at::Tensor& tokens, const at::Tensor& out) {
  const int64_t* ids = tokens.data_ptr<int64_t>();
  const int64_t size = table.size(1);
  DispatchDtype(table.scalar_type(), [&](auto type) {
    using T = decltype(type);
    ParallelRange(
        at::get_num_threads(), tokens.size(0), RowGrain(size), [&](int64_t begin, int64_t end) {
          for (int64_t t = begin; t < end; ++t) {
            kernels::ReadTileOrderRow(Data<T>(table), size, ids[t], Data<T>(out) + t * size);
          }
        });
  });
}

void RmsNormBackwardInto(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                         const at::Tensor& d_y, const at::Tensor& d_x) {
  at::Tensor d_weight = at::empty({x.size(1)}, at::kFloat);
  DispatchDtype(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    RmsNormBackwardRows<T>(Data<T>(x), x.stride(0), Data<T>(weight), Data<T>(d_y), d_y.stride(0),
                           rstd.data_ptr<float>(), Data<T>(d_x), x.size(0), x.size(1),
                           d_weight.data_ptr<float>());
  });
  AddGradient(weight, d_weight);
}

void SwiGluBackwardInto(const at::Tensor& gate_up, const at::Tensor& d_out, const at::Tensor& d) {
  const int64_t n = d_out.size(1);
  DispatchDtype(gate_up.scalar_type(), [&](auto type) {
    using T = decltype(type);
    ParallelRange(
        at::get_num_threads(), gate_up.size(0), RowGrain(4 * n), [&](int64_t begin, int64_t end) {
          kernels::TypedKernels<T>().swiglu_backward(Data<T>(gate_up) + begin * 2 * n,
                                                     Data<T>(d_out) + begin * n,
                                                     Data<T>(d) + begin * 2 * n, end - begin, n);
        });
  });
}

void NormAndRotateBackward(const at::Tensor& d_qkv, const at::Tensor& before,
                           const at::Tensor& positions, const LayerWeights& weights,
                           const ModelConfig& config, const RopeTable& rope) {
  const int64_t width = d_qkv.size(1);
  const int64_t half = config.head_dim / 2;
  const int64_t heads = config.query_heads + config.kv_heads;
  const int64_t* position = positions.data_ptr<int64_t>();
  DispatchDtype(d_qkv.scalar_type(), [&](auto type) {
    using T = decltype(type);
    ParallelRange(at::get_num_threads(), d_qkv.size(0), RowGrain(width),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t t = begin; t < end; ++t) {
                      T* row = Data<T>(d_qkv) + t * width;
                      kernels::TypedKernels<T>().rope(row, row, rope.cosine() + position[t] * half,
                                                      rope.sine() + position[t] * half, heads,
                                                      config.head_dim, -1.0f);
                    }
                  });
    if (!config.qk_norm) return;
    const auto head_norm = [&](int64_t first, int64_t count, const at::Tensor& weight) {
      const at::Tensor rstd = at::empty({before.size(0) * count}, at::kFloat);
      const at::Tensor normed = before.clone();
      NormHeads<T>(normed, first, count, config.head_dim, weight, config.norm_eps,
                   rstd.data_ptr<float>());
      AddGradient(weight,
                  NormHeadsBackward<T>(before, d_qkv, first, count, config.head_dim, weight, rstd));
    };
    head_norm(0, config.query_heads, weights.q_norm);
    head_norm(config.query_size(), config.kv_heads, weights.k_norm);
  });
}

void RmsNormInto(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& y,
                 const at::Tensor& rstd) {
  const int64_t n = x.size(1);
  float* r = rstd.defined() ? rstd.data_ptr<float>() : nullptr;
  DispatchDtype(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    ParallelRange(at::get_num_threads(), x.size(0), RowGrain(n), [&](int64_t begin, int64_t end) {
      kernels::TypedKernels<T>().rms_norm(
          Data<T>(x) + begin * x.stride(0), x.stride(0), Data<T>(weight), Data<T>(y) + begin * n, n,
          r == nullptr ? nullptr : r + begin, end - begin, n, static_cast<float>(eps));
    });
  });
}

void NormAndRotate(const at::Tensor& qkv, const at::Tensor& positions, const LayerWeights& weights,
                   const ModelConfig& config, const RopeTable& rope) {
  const int64_t width = qkv.size(1);
  const int64_t half = config.head_dim / 2;
  const int64_t* position = positions.data_ptr<int64_t>();
  DispatchDtype(qkv.scalar_type(), [&](auto type) {
    using T = decltype(type);
    if (config.qk_norm) {
      NormHeads<T>(qkv, 0, config.query_heads, config.head_dim, weights.q_norm, config.norm_eps,
                   nullptr);
      NormHeads<T>(qkv, config.query_size(), config.kv_heads, config.head_dim, weights.k_norm,
                   config.norm_eps, nullptr);
    }
    ParallelRange(
        at::get_num_threads(), qkv.size(0), RowGrain(width), [&](int64_t begin, int64_t end) {
          for (int64_t t = begin; t < end; ++t) {
            T* row = Data<T>(qkv) + t * width;
            kernels::TypedKernels<T>().rope(
                row, row, rope.cosine() + position[t] * half, rope.sine() + position[t] * half,
                config.query_heads + config.kv_heads, config.head_dim, 1.0f);
          }
        });
  });
}

void SwiGluInto(const at::Tensor& gate_up, const at::Tensor& out) {
  const int64_t n = out.size(1);
  DispatchDtype(out.scalar_type(), [&](auto type) {
    using T = decltype(type);
    ParallelRange(at::get_num_threads(), out.size(0), RowGrain(4 * n),
                  [&](int64_t begin, int64_t end) {
                    kernels::TypedKernels<T>().swiglu(Data<T>(gate_up) + begin * 2 * n,
                                                      Data<T>(out) + begin * n, end - begin, n);
                  });
  });
}

// rows[ids[t]] += d[t], in the order of the tokens.
void EmbedBackward(const at::Tensor& table, const at::Tensor& tokens, const at::Tensor& d) {
  if (!table.requires_grad()) return;
  const int64_t n = d.size(1);
  const int64_t* id = tokens.data_ptr<int64_t>();
  float* base = GradientOf(table).data_ptr<float>();
  for (int64_t t = 0; t < d.size(0); ++t) {
    float* row = base + id[t] * n;
    if (d.scalar_type() == at::kFloat) {
      const float* from = Data<float>(d) + t * n;
      for (int64_t i = 0; i < n; ++i) row[i] += from[i];
    } else {
      kernels::Kernels().add_bf16(Data<kernels::Bf16>(d) + t * n, row, n);
    }
  }
}

const PolicyFunctions& CpuFunctions() {
  static const PolicyFunctions functions = {
      &RmsNormInto,         &NormAndRotate,         &SwiGluInto,         &EmbedInto,
      &RmsNormBackwardInto, &NormAndRotateBackward, &SwiGluBackwardInto, &EmbedBackward};
  return functions;
}

}  // namespace crescendo
