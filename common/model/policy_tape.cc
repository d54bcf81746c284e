#include "common/model/policy_tape.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "common/model/gradient_sink.h"
#include "common/model/linear.h"

namespace crescendo {
PolicyTape::PolicyTape(const ModelWeights* weights, const RopeTable* rope)
    : weights_(weights),
      rope_(rope),
      f_(weights->functions != nullptr ? *weights->functions
         : weights->aten               ? AtenFunctions()
                                       : CpuFunctions()),
      kept_(weights->layers.size()) {}

at::Tensor PolicyTape::Rows(at::Tensor* buffer, int64_t columns, at::ScalarType dtype) const {
  if (!buffer->defined() || buffer->size(0) < tokens_count_) {
    *buffer = at::Tensor();
    *buffer = at::empty({tokens_count_, columns},
                        at::TensorOptions().dtype(dtype).device(weights_->device));
  }
  return buffer->narrow(0, 0, tokens_count_);
}

PolicyTape::Activations PolicyTape::Sized(Activations* kept, bool input_only) const {
  const ModelConfig& c = weights_->config;
  const at::ScalarType dtype = weights_->dtype;
  Activations a;
  a.input = Rows(&kept->input, c.hidden_size, dtype);
  if (input_only) {
    const at::Tensor input = kept->input;
    *kept = Activations();
    kept->input = input;
    return a;
  }
  a.middle = Rows(&kept->middle, c.hidden_size, dtype);
  a.qkv = Rows(&kept->qkv, c.query_size() + 2 * c.kv_size(), dtype);
  if (c.qk_norm) a.qkv_before_norm = Rows(&kept->qkv_before_norm, a.qkv.size(1), dtype);
  a.attention = Rows(&kept->attention, c.query_size(), dtype);
  a.gate_up = Rows(&kept->gate_up, 2 * c.mlp_size, dtype);
  a.lse = Rows(&kept->lse, c.query_heads, at::kFloat);
  a.input_rstd = Rows(&kept->input_rstd, 1, at::kFloat);
  a.post_rstd = Rows(&kept->post_rstd, 1, at::kFloat);
  return a;
}

PolicyTape::Heads PolicyTape::HeadsOf(const at::Tensor& qkv) const {
  const ModelConfig& c = weights_->config;
  const int64_t stride = qkv.stride(0);
  const auto part = [&](int64_t heads, int64_t first) {
    return at::as_strided(qkv, {qkv.size(0), heads, c.head_dim}, {stride, c.head_dim, 1},
                          qkv.storage_offset() + first);
  };
  return {part(c.query_heads, 0), part(c.kv_heads, c.query_size()),
          part(c.kv_heads, c.query_size() + c.kv_size())};
}

void PolicyTape::LayerForward(size_t layer, const Activations& a, at::Tensor next) {
  const ModelConfig& c = weights_->config;
  const LayerWeights& w = weights_->layers[layer];
  const at::Tensor x = Rows(&normed_, c.hidden_size, weights_->dtype);
  const at::Tensor none;
  at::Tensor qkv = a.qkv, middle = a.middle, gate_up = a.gate_up;
  f_.rms_norm(a.input, w.input_norm, c.norm_eps, x, a.input_rstd);
  LinearInto(x, w.qkv_t, w.qkv_bias, qkv, false, w.deterministic);
  if (c.qk_norm) a.qkv_before_norm.copy_(qkv);
  f_.norm_and_rotate(qkv, positions_, w, c, *rope_);
  const Heads heads = HeadsOf(qkv);
  attention_->Forward(heads.q, heads.k, heads.v, a.attention, a.lse);
  middle.copy_(a.input);
  LinearInto(a.attention, w.o_t, none, middle, true, w.deterministic);
  f_.rms_norm(middle, w.post_norm, c.norm_eps, x, a.post_rstd);
  LinearInto(x, w.gate_up_t, none, gate_up, false, w.deterministic);
  if (!next.defined()) return;
  const at::Tensor mlp = Rows(&mlp_, c.mlp_size, weights_->dtype);
  f_.swiglu(gate_up, mlp);
  next.copy_(middle);
  LinearInto(mlp, w.down_t, none, next, true, w.deterministic);
}

void PolicyTape::Begin(const at::Tensor& tokens, const at::Tensor& positions,
                       const PackedAttention& attention) {
  tokens_ = tokens.to(weights_->device);
  positions_ = positions.to(weights_->device);
  tokens_count_ = tokens.size(0);
  attention_ = std::make_unique<PackedAttention>(attention);
}

at::Tensor PolicyTape::FinalNorm(const at::Tensor& last) {
  const ModelConfig& c = weights_->config;
  const WeightUse use(weights_->watcher, 1 + static_cast<int>(c.layers));
  const at::Tensor hidden = Rows(&final_, c.hidden_size, weights_->dtype);
  f_.rms_norm(last, weights_->final_norm, c.norm_eps, hidden, Rows(&final_rstd_, 1, at::kFloat));
  return hidden;
}

at::Tensor PolicyTape::Forward(const at::Tensor& tokens, const at::Tensor& positions,
                               const PackedAttention& attention, int recompute_layers) {
  const ModelConfig& c = weights_->config;
  Begin(tokens, positions, attention);
  const size_t layers = kept_.size();
  recomputed_ = recompute_layers < 0 ? layers : std::min<size_t>(recompute_layers, layers);
  const at::Tensor last = Rows(&last_, c.hidden_size, weights_->dtype);
  for (size_t layer = 0; layer < layers; ++layer) {
    Activations a = Sized(&kept_[layer], Recomputed(layer));
    if (layer == 0) {
      const WeightUse use(weights_->watcher, 0);
      f_.embed(weights_->embedding, tokens_, a.input);
    }
    if (Recomputed(layer)) {
      const at::Tensor input = a.input;
      a = Sized(&again_, false);
      a.input = input;
    }
    const WeightUse use(weights_->watcher, 1 + static_cast<int>(layer));
    LayerForward(
        layer, a,
        layer + 1 < layers ? Rows(&kept_[layer + 1].input, c.hidden_size, weights_->dtype) : last);
  }
  if (layers == 0) f_.embed(weights_->embedding, tokens_, last);
  return FinalNorm(last);
}

at::Tensor PolicyTape::Evaluate(const at::Tensor& tokens, const at::Tensor& positions,
                                const PackedAttention& attention) {
  Begin(tokens, positions, attention);
  at::Tensor next = Rows(&last_, weights_->config.hidden_size, weights_->dtype);
  Activations a = Sized(&again_, false);
  {
    const WeightUse use(weights_->watcher, 0);
    f_.embed(weights_->embedding, tokens_, a.input);
  }
  for (size_t layer = 0; layer < kept_.size(); ++layer) {
    const WeightUse use(weights_->watcher, 1 + static_cast<int>(layer));
    LayerForward(layer, a, next);
    std::swap(a.input, next);
  }
  return FinalNorm(a.input);
}

void PolicyTape::LayerBackward(size_t layer, const Activations& a, const at::Tensor& d) {
  const ModelConfig& c = weights_->config;
  const LayerWeights& w = weights_->layers[layer];
  const at::ScalarType dtype = weights_->dtype;
  const at::Tensor none;
  const at::Tensor x = Rows(&normed_, c.hidden_size, dtype);
  at::Tensor mlp = Rows(&mlp_, c.mlp_size, dtype);
  at::Tensor d_mlp = Rows(&d_mlp_, c.mlp_size, dtype);
  at::Tensor d_part = Rows(&d_part_, c.hidden_size, dtype);
  at::Tensor d_attention = Rows(&d_attention_, c.query_size(), dtype);
  at::Tensor d_qkv = Rows(&d_qkv_, c.query_size() + 2 * c.kv_size(), dtype);

  f_.swiglu(a.gate_up, mlp);
  AddWeightGradient({w.down}, d, mlp);
  at::mm_out(d_mlp, d, w.down);
  f_.swiglu_backward(a.gate_up, d_mlp, a.gate_up);  // in place: it is not needed any more
  f_.rms_norm(a.middle, w.post_norm, c.norm_eps, x, none);
  AddWeightGradient({w.gate, w.up}, a.gate_up, x);
  at::mm_out(d_part, a.gate_up, w.gate_up);
  f_.rms_norm_backward(a.middle, w.post_norm, a.post_rstd, d_part, x);
  d.add_(x);

  AddWeightGradient({w.o}, d, a.attention);
  at::mm_out(d_attention, d, w.o);
  const Heads heads = HeadsOf(a.qkv);
  const Heads grads = HeadsOf(d_qkv);
  attention_->Backward(heads.q, heads.k, heads.v, a.attention, a.lse, d_attention,
                       {grads.q, grads.k, grads.v});
  f_.norm_and_rotate_backward(d_qkv, a.qkv_before_norm, positions_, w, c, *rope_);
  f_.rms_norm(a.input, w.input_norm, c.norm_eps, x, none);
  AddWeightGradient({w.q, w.k, w.v}, d_qkv, x);
  if (w.qkv_bias.defined()) {
    const at::Tensor d_bias = d_qkv.sum(0, false, at::kFloat);
    AddGradient(w.q_bias, d_bias.narrow(0, 0, c.query_size()));
    AddGradient(w.k_bias, d_bias.narrow(0, c.query_size(), c.kv_size()));
    AddGradient(w.v_bias, d_bias.narrow(0, c.query_size() + c.kv_size(), c.kv_size()));
  }
  at::mm_out(d_part, d_qkv, w.qkv);
  f_.rms_norm_backward(a.input, w.input_norm, a.input_rstd, d_part, x);
  d.add_(x);
}

void PolicyTape::Backward(const at::Tensor& d_hidden, const std::function<void(int)>& after_layer) {
  const ModelConfig& c = weights_->config;
  const at::Tensor d = Rows(&d_, c.hidden_size, weights_->dtype);
  {
    const WeightUse use(weights_->watcher, 1 + static_cast<int>(c.layers));
    f_.rms_norm_backward(Rows(&last_, c.hidden_size, weights_->dtype), weights_->final_norm,
                         Rows(&final_rstd_, 1, at::kFloat), d_hidden, d);
  }
  for (size_t layer = kept_.size(); layer-- > 0;) {
    Activations a = Sized(&kept_[layer], Recomputed(layer));
    {
      const WeightUse use(weights_->watcher, 1 + static_cast<int>(layer));
      if (Recomputed(layer)) {
        const at::Tensor input = a.input;
        a = Sized(&again_, false);
        a.input = input;
        LayerForward(layer, a, at::Tensor());
      }
      LayerBackward(layer, a, d);
    }
    if (after_layer) after_layer(static_cast<int>(layer));
  }
  f_.embed_backward(weights_->embedding, tokens_, d);
  if (after_layer) after_layer(-1);
}

int64_t PolicyTape::bytes() const {
  int64_t bytes = 0;
  const auto add = [&](std::initializer_list<const at::Tensor*> tensors) {
    for (const at::Tensor* t : tensors) {
      if (t->defined()) bytes += static_cast<int64_t>(t->nbytes());
    }
  };
  const auto add_layer = [&](const Activations& a) {
    add({&a.input, &a.middle, &a.qkv, &a.qkv_before_norm, &a.attention, &a.gate_up, &a.lse,
         &a.input_rstd, &a.post_rstd});
  };
  for (const Activations& a : kept_) add_layer(a);
  add_layer(again_);
  add({&last_, &final_, &final_rstd_, &normed_, &mlp_, &d_, &d_part_, &d_mlp_, &d_attention_,
       &d_qkv_});
  return bytes;
}

}  // namespace crescendo
