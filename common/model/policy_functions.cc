#include "common/model/policy_functions.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <optional>
#include <utility>

#include "common/model/kernel_dispatch.h"
#include "common/model/kernels.h"
#include "common/model/linear.h"
#include "common/model/parallel.h"

namespace crescendo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
    at::Tensor y = at::empty_like(x);
    at::Tensor rstd = at::empty({x.size(0)}, at::kFloat);
    RmsNormInto(x, weight, eps, y, rstd);
    ctx->save_for_backward({x, weight, rstd});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor d_y = grads[0].contiguous();
    at::Tensor d_x = at::empty_like(x);
    at::Tensor d_weight = at::empty({x.size(1)}, at::kFloat);
    DispatchDtype(x.scalar_type(), [&](auto type) {
      using T = decltype(type);
      RmsNormBackwardRows<T>(Data<T>(x), x.stride(0), Data<T>(saved[1]), Data<T>(d_y),
                             d_y.stride(0), saved[2].data_ptr<float>(), Data<T>(d_x), x.size(0),
                             x.size(1), d_weight.data_ptr<float>());
    });
    return {d_x, d_weight.to(x.scalar_type()), at::Tensor()};
  }
};

// What the backward pass of a layer's QKV needs beside saved variables. The storages outlive the
// graph: they belong to the model.
struct QkvShape {
  int64_t query_heads, kv_heads, head_dim;
  int64_t width() const { return (query_heads + 2 * kv_heads) * head_dim; }
};

// One thread's rows: rotated q and k, and v, from the product `y` into tensors of their own.
template <typename T>
void SplitRows(const at::Tensor& y, const int64_t* positions, const QkvShape& s,
               const RopeTable& rope, const at::Tensor& q, const at::Tensor& k,
               const at::Tensor& v) {
  const int64_t half = s.head_dim / 2;
  const int64_t q_width = s.query_heads * s.head_dim;
  const int64_t kv_width = s.kv_heads * s.head_dim;
  const auto& table = kernels::TypedKernels<T>();
  ParallelRange(
      at::get_num_threads(), y.size(0), RowGrain(s.width()), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const T* in = Data<T>(y) + t * s.width();
          const float* cosine = rope.cosine() + positions[t] * half;
          const float* sine = rope.sine() + positions[t] * half;
          table.rope(in, Data<T>(q) + t * q_width, cosine, sine, s.query_heads, s.head_dim, 1.0f);
          table.rope(in + q_width, Data<T>(k) + t * kv_width, cosine, sine, s.kv_heads, s.head_dim,
                     1.0f);
          std::copy_n(in + q_width + kv_width, kv_width, Data<T>(v) + t * kv_width);
        }
      });
}

// The reverse: gradients of q, k, v rotated back into one [T, width] matrix.
template <typename T>
void JoinRows(const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv,
              const int64_t* positions, const QkvShape& s, const at::Tensor& cosine_table,
              const at::Tensor& sine_table, const at::Tensor& dy) {
  const int64_t half = s.head_dim / 2;
  const int64_t q_width = s.query_heads * s.head_dim;
  const int64_t kv_width = s.kv_heads * s.head_dim;
  const auto& table = kernels::TypedKernels<T>();
  const float* cosines = cosine_table.data_ptr<float>();
  const float* sines = sine_table.data_ptr<float>();
  ParallelRange(at::get_num_threads(), dy.size(0), RowGrain(s.width()),
                [&](int64_t begin, int64_t end) {
                  for (int64_t t = begin; t < end; ++t) {
                    T* out = Data<T>(dy) + t * s.width();
                    const float* cosine = cosines + positions[t] * half;
                    const float* sine = sines + positions[t] * half;
                    table.rope(Data<T>(dq) + t * q_width, out, cosine, sine, s.query_heads,
                               s.head_dim, -1.0f);
                    table.rope(Data<T>(dk) + t * kv_width, out + q_width, cosine, sine, s.kv_heads,
                               s.head_dim, -1.0f);
                    std::copy_n(Data<T>(dv) + t * kv_width, kv_width, out + q_width + kv_width);
                  }
                });
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

// The gradient of NormHeads: replaces columns of dy; returns d_weight.
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
  return d_weight.to(dy.scalar_type());
}

struct QkvFunction : torch::autograd::Function<QkvFunction> {
  // The weights and biases are arguments so that gradients flow to them; the product itself takes
  // the fused storage.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& wq,
                               const at::Tensor& wk, const at::Tensor& wv,
                               const std::optional<at::Tensor>& bq,
                               const std::optional<at::Tensor>& bk,
                               const std::optional<at::Tensor>& bv,
                               const std::optional<at::Tensor>& q_norm,
                               const std::optional<at::Tensor>& k_norm, const at::Tensor& positions,
                               const LayerWeights* weights, const ModelConfig* config,
                               const RopeTable* rope) {
    (void)wq, (void)wk, (void)wv, (void)bq, (void)bk, (void)bv;
    const QkvShape s{config->query_heads, config->kv_heads, config->head_dim};
    const int64_t tokens = x.size(0);
    at::Tensor y = at::empty({tokens, s.width()}, x.options());
    LinearInto(x, weights->qkv_t, weights->qkv_bias, y, false, weights->deterministic);
    variable_list saved = {x, positions, rope->cosine_tensor(), rope->sine_tensor()};
    at::Tensor q = at::empty({tokens, s.query_heads, s.head_dim}, x.options());
    at::Tensor k = at::empty({tokens, s.kv_heads, s.head_dim}, x.options());
    at::Tensor v = at::empty({tokens, s.kv_heads, s.head_dim}, x.options());
    if (config->qk_norm) {
      at::Tensor q_rstd = at::empty({tokens * s.query_heads}, at::kFloat);
      at::Tensor k_rstd = at::empty({tokens * s.kv_heads}, at::kFloat);
      for (const at::Tensor& t : {y.clone(), *q_norm, *k_norm, q_rstd, k_rstd}) saved.push_back(t);
      DispatchDtype(x.scalar_type(), [&](auto type) {
        using T = decltype(type);
        NormHeads<T>(y, 0, s.query_heads, s.head_dim, *q_norm, config->norm_eps,
                     q_rstd.data_ptr<float>());
        NormHeads<T>(y, config->query_size(), s.kv_heads, s.head_dim, *k_norm, config->norm_eps,
                     k_rstd.data_ptr<float>());
      });
    }
    DispatchDtype(x.scalar_type(), [&](auto type) {
      SplitRows<decltype(type)>(y, positions.data_ptr<int64_t>(), s, *rope, q, k, v);
    });
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["fused"] = weights->qkv;
    ctx->saved_data["bias"] = weights->qkv_bias.defined();
    ctx->saved_data["heads"] = s.query_heads;
    ctx->saved_data["kv_heads"] = s.kv_heads;
    return {q, k, v};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor fused = ctx->saved_data["fused"].toTensor();
    const bool normed = saved.size() > 4;
    const at::Tensor& cosine = saved[2];
    const QkvShape s{ctx->saved_data["heads"].toInt(), ctx->saved_data["kv_heads"].toInt(),
                     cosine.size(1) * 2};
    const int64_t q_size = s.query_heads * s.head_dim;
    const int64_t kv_size = s.kv_heads * s.head_dim;
    at::Tensor dy = at::empty({x.size(0), s.width()}, x.options());
    at::Tensor d_q_norm, d_k_norm;
    DispatchDtype(x.scalar_type(), [&](auto type) {
      using T = decltype(type);
      JoinRows<T>(grads[0].contiguous(), grads[1].contiguous(), grads[2].contiguous(),
                  saved[1].data_ptr<int64_t>(), s, cosine, saved[3], dy);
      if (!normed) return;
      d_q_norm =
          NormHeadsBackward<T>(saved[4], dy, 0, s.query_heads, s.head_dim, saved[5], saved[7]);
      d_k_norm =
          NormHeadsBackward<T>(saved[4], dy, q_size, s.kv_heads, s.head_dim, saved[6], saved[8]);
    });
    const at::Tensor dx = at::mm(dy, fused);
    const at::Tensor dw = at::mm(dy.t(), x);
    at::Tensor dbq, dbk, dbv;
    if (ctx->saved_data["bias"].toBool()) {
      const at::Tensor db = dy.sum(0);
      dbq = db.narrow(0, 0, q_size);
      dbk = db.narrow(0, q_size, kv_size);
      dbv = db.narrow(0, q_size + kv_size, kv_size);
    }
    return {dx,
            dw.narrow(0, 0, q_size),
            dw.narrow(0, q_size, kv_size),
            dw.narrow(0, q_size + kv_size, kv_size),
            dbq,
            dbk,
            dbv,
            d_q_norm,
            d_k_norm,
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

struct GatedMlpFunction : torch::autograd::Function<GatedMlpFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& gate,
                            const at::Tensor& up, const LayerWeights* weights) {
    (void)gate, (void)up;
    at::Tensor gate_up = at::empty({x.size(0), weights->gate_up_t.size(1)}, x.options());
    LinearInto(x, weights->gate_up_t, at::Tensor(), gate_up, false, weights->deterministic);
    at::Tensor out = at::empty({x.size(0), gate_up.size(1) / 2}, x.options());
    SwiGluInto(gate_up, out);
    ctx->save_for_backward({x, gate_up});
    ctx->saved_data["fused"] = weights->gate_up;
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& gate_up = saved[1];
    const at::Tensor d_out = grads[0].contiguous();
    const int64_t n = gate_up.size(1) / 2;
    at::Tensor d = at::empty_like(gate_up);
    DispatchDtype(gate_up.scalar_type(), [&](auto type) {
      using T = decltype(type);
      ParallelRange(
          at::get_num_threads(), gate_up.size(0), RowGrain(4 * n), [&](int64_t begin, int64_t end) {
            kernels::TypedKernels<T>().swiglu_backward(Data<T>(gate_up) + begin * 2 * n,
                                                       Data<T>(d_out) + begin * n,
                                                       Data<T>(d) + begin * 2 * n, end - begin, n);
          });
    });
    const at::Tensor dw = at::mm(d.t(), saved[0]);
    return {at::mm(d, ctx->saved_data["fused"].toTensor()), dw.narrow(0, 0, n), dw.narrow(0, n, n),
            at::Tensor()};
  }
};

struct AddLinearFunction : torch::autograd::Function<AddLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& h, const at::Tensor& x,
                            const at::Tensor& w, const at::Tensor& w_t) {
    at::Tensor out = h.clone();
    LinearInto(x, w_t, at::Tensor(), out, true, true);
    ctx->save_for_backward({x, w});
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& d = grads[0];
    return {d, at::mm(d, saved[1]), at::mm(d.t(), saved[0]), at::Tensor()};
  }
};

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

at::Tensor RmsNormGrad(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RmsNormFunction::apply(x, weight, eps);
}

std::array<at::Tensor, 3> QkvGrad(const at::Tensor& x, const at::Tensor& positions,
                                  const LayerWeights& w, const ModelConfig& config,
                                  const RopeTable& rope) {
  const auto maybe = [](const at::Tensor& t) {
    return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt;
  };
  variable_list out =
      QkvFunction::apply(x, w.q, w.k, w.v, maybe(w.q_bias), maybe(w.k_bias), maybe(w.v_bias),
                         maybe(w.q_norm), maybe(w.k_norm), positions, &w, &config, &rope);
  return {out[0], out[1], out[2]};
}

at::Tensor AddLinearGrad(const at::Tensor& h, const at::Tensor& x, const at::Tensor& w,
                         const at::Tensor& w_t, bool deterministic) {
  return deterministic ? AddLinearFunction::apply(h, x, w, w_t) : at::addmm(h, x, w.t());
}

at::Tensor GatedMlpGrad(const at::Tensor& x, const LayerWeights& weights) {
  return GatedMlpFunction::apply(x, weights.gate, weights.up, &weights);
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

}  // namespace crescendo
