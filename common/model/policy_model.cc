#include "common/model/policy_model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/formats/safetensors.h"
#include "common/model/kernel_dispatch.h"
#include "common/model/linear.h"
#include "common/model/log_prob.h"
#include "common/model/model_gguf.h"
#include "common/model/model_weights.h"
#include "common/model/parallel.h"
#include "common/model/policy_functions.h"
#include "common/model/policy_tape.h"
#include "common/model/torch_guard.h"

namespace crescendo {
namespace {

const char* DtypeName(at::ScalarType dtype) { return dtype == at::kFloat ? "F32" : "BF16"; }

std::vector<TensorBytes> BytesOf(const std::vector<NamedTensor>& tensors) {
  std::vector<TensorBytes> bytes;
  for (const NamedTensor& t : tensors) {
    bytes.push_back(
        {t.name, DtypeName(t.tensor.scalar_type()), t.tensor.sizes().vec(),
         absl::string_view(static_cast<const char*>(t.tensor.data_ptr()), t.tensor.nbytes())});
  }
  return bytes;
}

// A deterministic policy has the learner's bits, and the learner multiplies in plain order.
void OrderWeights(const LoadOptions& options, ModelWeights* weights) {
  if (options.for_decoding && !options.deterministic && !options.aten) BringToTileOrder(weights);
}

// The graph of a forward pass as one node: its backward pass is the tape's.
struct TapeNode : torch::autograd::Node {
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    TORCH_CHECK(tape != nullptr, "the policy's backward pass was run before");
    const at::NoGradGuard no_grad;
    if (grads[0].defined()) tape->Backward(grads[0].contiguous(), after_layer);
    tape.reset();
    return {at::Tensor()};
  }
  void release_variables() override { tape.reset(); }
  std::shared_ptr<PolicyTape> tape;
  std::function<void(int)> after_layer;
};

}  // namespace

class PolicyModel::Impl {
 public:
  Impl(std::unique_ptr<ModelWeights> weights, const LoadOptions& options)
      : weights_(std::move(weights)), rope_(weights_->config) {
    weights_->aten = options.aten || !weights_->device.is_cpu();
    weights_->functions = weights_->aten ? options.functions : nullptr;
    weights_->deterministic = options.deterministic;
    for (LayerWeights& layer : weights_->layers) layer.deterministic = options.deterministic;
  }

  ModelWeights& weights() { return *weights_; }
  void set_recompute_layers(int layers) { recompute_layers_ = layers; }
  void set_after_layer(std::function<void(int)> hook) { after_layer_ = std::move(hook); }

  at::Tensor Hidden(const at::Tensor& tokens, const at::Tensor& positions,
                    AttentionContext& attention) {
    Check(tokens, positions);
    if (at::GradMode::is_enabled()) {
      if (const at::Tensor trained = Trained(); trained.defined()) {
        return HiddenWithGradients(trained, tokens, positions, attention);
      }
    }
    at::NoGradGuard no_grad;
    if (weights_->aten) return Evaluate(tokens, positions, attention);
    return HiddenInPlace(tokens, positions, attention);
  }

  at::Tensor NarrowLogits(const at::Tensor& hidden) {
    at::NoGradGuard no_grad;
    at::Tensor out = Scratch(&logits_, hidden.size(0), config().vocab_size, weights_->dtype);
    Linear(hidden, weights_->head, weights_->head_t, at::Tensor(), out, false);
    return out;
  }

  at::Tensor Logits(const at::Tensor& hidden) {
    const at::Tensor out = NarrowLogits(hidden);
    if (weights_->dtype == at::kFloat) return out;
    at::Tensor wide = Scratch(&wide_logits_, hidden.size(0), config().vocab_size, at::kFloat);
    WidenInto(out, wide);
    return wide;
  }

  int64_t scratch_bytes() const {
    int64_t bytes = tape_ == nullptr ? 0 : tape_->bytes();
    if (evaluation_ != nullptr) bytes += evaluation_->bytes();
    for (const at::Tensor* t :
         {&residual_, &normed_, &qkv_, &gate_up_, &mlp_, &logits_, &wide_logits_}) {
      if (t->defined()) bytes += static_cast<int64_t>(t->nbytes());
    }
    return bytes;
  }

 private:
  const ModelConfig& config() const { return weights_->config; }

  void Check(const at::Tensor& tokens, const at::Tensor& positions) {
    TORCH_CHECK(tokens.dim() == 1 && tokens.scalar_type() == at::kLong && tokens.is_contiguous(),
                "tokens: expected a contiguous int64 vector");
    TORCH_CHECK(positions.sizes() == tokens.sizes() && positions.scalar_type() == at::kLong &&
                    positions.is_contiguous(),
                "positions: expected a contiguous int64 vector of ", tokens.size(0));
    const int64_t* ids = tokens.data_ptr<int64_t>();
    const int64_t* places = positions.data_ptr<int64_t>();
    int64_t last = 0;
    for (int64_t i = 0; i < tokens.size(0); ++i) {
      TORCH_CHECK(ids[i] >= 0 && ids[i] < config().vocab_size, "token ", i, ": id ", ids[i],
                  " is outside the vocabulary of ", config().vocab_size);
      TORCH_CHECK(places[i] >= 0 && places[i] < limits::kContextTokensMax, "token ", i,
                  ": position ", places[i], " is outside [0, ", limits::kContextTokensMax, ")");
      last = std::max(last, places[i]);
    }
    rope_.Reserve(last + 1);
  }

  // The first parameter that wants a gradient; undefined: none does.
  at::Tensor Trained() const {
    for (const NamedTensor& p : weights_->parameters) {
      if (p.tensor.requires_grad()) return p.tensor;
    }
    return at::Tensor();
  }

  at::Tensor HiddenWithGradients(const at::Tensor& trained, const at::Tensor& tokens,
                                 const at::Tensor& positions, AttentionContext& attention) {
    TORCH_CHECK(!weights_->tile_order, "gradients: the policy was loaded for decoding");
    const auto* packed = dynamic_cast<const PackedAttention*>(&attention);
    TORCH_CHECK(packed != nullptr, "gradients: expected packed attention");
    // A tape whose backward pass is still to come keeps its memory.
    if (tape_ == nullptr || tape_.use_count() > 1) {
      tape_ = std::make_shared<PolicyTape>(weights_.get(), &rope_);
    }
    at::Tensor hidden;
    {
      const at::NoGradGuard no_grad;
      hidden = tape_->Forward(tokens, positions, *packed, recompute_layers_).detach();
    }
    const std::shared_ptr<TapeNode> node(new TapeNode, torch::autograd::deleteNode);
    node->set_next_edges(torch::autograd::collect_next_edges(trained));
    node->tape = tape_;
    node->after_layer = after_layer_;
    torch::autograd::create_gradient_edge(hidden, node);
    return hidden;
  }

  at::Tensor Evaluate(const at::Tensor& tokens, const at::Tensor& positions,
                      AttentionContext& attention) {
    TORCH_CHECK(!weights_->tile_order, "gradients: the policy was loaded for decoding");
    const auto* packed = dynamic_cast<const PackedAttention*>(&attention);
    TORCH_CHECK(packed != nullptr, "ATen's operations: expected packed attention");
    if (evaluation_ == nullptr) {
      evaluation_ = std::make_unique<PolicyTape>(weights_.get(), &rope_);
    }
    return evaluation_->Evaluate(tokens, positions, *packed);
  }

  at::Tensor HiddenInPlace(const at::Tensor& tokens, const at::Tensor& positions,
                           AttentionContext& attention) {
    const ModelConfig& c = config();
    const int64_t n = tokens.size(0);
    const at::ScalarType dtype = weights_->dtype;
    at::Tensor h = Scratch(&residual_, n, c.hidden_size, dtype);
    at::Tensor x = Scratch(&normed_, n, c.hidden_size, dtype);
    at::Tensor qkv = Scratch(&qkv_, n, c.query_size() + 2 * c.kv_size(), dtype);
    at::Tensor gate_up = Scratch(&gate_up_, n, 2 * c.mlp_size, dtype);
    at::Tensor mlp = Scratch(&mlp_, n, c.mlp_size, dtype);
    const int64_t stride = qkv.stride(0);
    const at::Tensor q = at::as_strided(qkv, {n, c.query_heads, c.head_dim},
                                        {stride, c.head_dim, 1}, qkv.storage_offset());
    const at::Tensor k = at::as_strided(qkv, {n, c.kv_heads, c.head_dim}, {stride, c.head_dim, 1},
                                        qkv.storage_offset() + c.query_size());
    const at::Tensor v = at::as_strided(qkv, {n, c.kv_heads, c.head_dim}, {stride, c.head_dim, 1},
                                        qkv.storage_offset() + c.query_size() + c.kv_size());
    const at::Tensor none;
    {
      const WeightUse use(weights_->watcher, 0);
      if (weights_->tile_order && c.tie_embeddings) {
        EmbedTileOrderInto(weights_->embedding, tokens, h);
      } else {
        EmbedInto(weights_->embedding, tokens, h);
      }
    }
    for (int layer = 0; layer < c.layers; ++layer) {
      const WeightUse use(weights_->watcher, 1 + layer);
      const LayerWeights& w = weights_->layers[static_cast<size_t>(layer)];
      RmsNormInto(h, w.input_norm, c.norm_eps, x, none);
      Linear(x, w.qkv, w.qkv_t, w.qkv_bias, qkv, false);
      NormAndRotate(qkv, positions, w, c, rope_);
      Linear(attention.Attend(layer, q, k, v), w.o, w.o_t, none, h, true);
      RmsNormInto(h, w.post_norm, c.norm_eps, x, none);
      Linear(x, w.gate_up, w.gate_up_t, none, gate_up, false);
      SwiGluInto(gate_up, mlp);
      Linear(mlp, w.down, w.down_t, none, h, true);
    }
    const WeightUse use(weights_->watcher, 1 + static_cast<int>(c.layers));
    RmsNormInto(h, weights_->final_norm, c.norm_eps, x, none);
    return x;
  }

  // The product of linear.h for the order in which the weights lie; `w_t` is `w` transposed.
  void Linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& w_t,
              const at::Tensor& bias, at::Tensor& out, bool accumulate) const {
    if (weights_->tile_order) {
      TileLinearInto(x, w, bias, out, accumulate);
    } else {
      LinearInto(x, w_t, bias, out, accumulate, weights_->deterministic);
    }
  }

  // The first rows of a buffer that only grows.
  static at::Tensor Scratch(at::Tensor* buffer, int64_t rows, int64_t columns,
                            at::ScalarType dtype) {
    if (!buffer->defined() || buffer->size(0) < rows) {
      *buffer = at::Tensor();
      *buffer = at::empty({rows, columns}, at::TensorOptions().dtype(dtype));
    }
    return buffer->size(0) == rows ? *buffer : buffer->narrow(0, 0, rows);
  }

  static void WidenInto(const at::Tensor& from, const at::Tensor& to) {
    const int64_t n = from.size(1);
    ParallelRange(at::get_num_threads(), from.size(0), RowGrain(n),
                  [&](int64_t begin, int64_t end) {
                    kernels::Kernels().bf16_to_f32(Data<kernels::Bf16>(from) + begin * n,
                                                   Data<float>(to) + begin * n, (end - begin) * n);
                  });
  }

  std::unique_ptr<ModelWeights> weights_;
  RopeTable rope_;
  int recompute_layers_ = 0;
  std::function<void(int)> after_layer_;
  std::shared_ptr<PolicyTape> tape_;
  std::unique_ptr<PolicyTape> evaluation_;  // of passes without gradients, with ATen's operations
  at::Tensor residual_, normed_, qkv_, gate_up_, mlp_, logits_, wide_logits_;
};

PolicyModel::PolicyModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PolicyModel::~PolicyModel() = default;

absl::StatusOr<std::unique_ptr<PolicyModel>> PolicyModel::Load(FileSystem& files,
                                                               const std::string& path,
                                                               const LoadOptions& options) {
  return CatchTorch(
      absl::StrCat("load policy ", path), [&]() -> absl::StatusOr<std::unique_ptr<PolicyModel>> {
        const bool gguf = absl::EndsWith(path, ".gguf");
        ASSIGN_OR_RETURN(
            auto weights,
            gguf ? LoadGgufWeights(files, path, options.dtype, options.device)
                 : LoadHfWeights(files, path, options.dtype, options.after_unit, options.device));
        if (gguf && options.after_unit) {
          for (int unit = 0; unit < UnitCount(weights->config); ++unit) {
            RETURN_IF_ERROR(options.after_unit(UnitOf(*weights, unit)));
          }
        }
        OrderWeights(options, weights.get());
        return std::unique_ptr<PolicyModel>(
            new PolicyModel(std::make_unique<Impl>(std::move(weights), options)));
      });
}

absl::StatusOr<std::unique_ptr<PolicyModel>> PolicyModel::Init(const ModelConfig& config,
                                                               uint64_t seed,
                                                               const LoadOptions& options) {
  return CatchTorch("make policy", [&]() -> absl::StatusOr<std::unique_ptr<PolicyModel>> {
    ASSIGN_OR_RETURN(auto weights, RandomWeights(config, seed, options.dtype, options.device));
    OrderWeights(options, weights.get());
    return std::unique_ptr<PolicyModel>(
        new PolicyModel(std::make_unique<Impl>(std::move(weights), options)));
  });
}

const ModelConfig& PolicyModel::config() const { return impl_->weights().config; }
at::ScalarType PolicyModel::dtype() const { return impl_->weights().dtype; }
bool PolicyModel::tile_order() const { return impl_->weights().tile_order; }
bool PolicyModel::deterministic() const { return impl_->weights().deterministic; }
at::Device PolicyModel::device() const { return impl_->weights().device; }
bool PolicyModel::aten() const { return impl_->weights().aten; }

at::Tensor PolicyModel::Hidden(const at::Tensor& tokens, const at::Tensor& positions,
                               AttentionContext& attention) {
  return impl_->Hidden(tokens, positions, attention);
}
void PolicyModel::SetRecomputeLayers(int layers) { impl_->set_recompute_layers(layers); }
void PolicyModel::SetAfterLayer(std::function<void(int)> hook) {
  impl_->set_after_layer(std::move(hook));
}
void PolicyModel::SetWeightWatcher(WeightWatcher* watcher) { impl_->weights().watcher = watcher; }
WeightWatcher* PolicyModel::weight_watcher() const { return impl_->weights().watcher; }
int PolicyModel::HeadUnit() const { return config().tie_embeddings ? 0 : UnitCount(config()) - 1; }
at::Tensor PolicyModel::Logits(const at::Tensor& hidden) { return impl_->Logits(hidden); }
at::Tensor PolicyModel::NarrowLogits(const at::Tensor& hidden) {
  return impl_->NarrowLogits(hidden);
}

const at::Tensor& PolicyModel::head_weight() const { return impl_->weights().head; }
const std::vector<NamedTensor>& PolicyModel::parameters() const {
  return impl_->weights().parameters;
}
void PolicyModel::SetRequiresGrad(bool requires_grad) {
  for (const NamedTensor& p : parameters()) p.tensor.requires_grad_(requires_grad);
}

std::vector<TensorBytes> PolicyModel::State() const {
  CRESCENDO_CHECK(device().is_cpu());
  return BytesOf(parameters());
}

absl::Status PolicyModel::LoadState(absl::Span<const TensorBytes> tensors) {
  ASSIGN_OR_RETURN(const std::vector<const TensorBytes*> sources,
                   MatchState(ParameterSpecs(config()), tensors));
  return CatchTorch("load weights", [&]() -> absl::Status {
    for (size_t i = 0; i < sources.size(); ++i) {
      RETURN_IF_ERROR(ConvertInto(sources[i]->bytes, sources[i]->dtype, parameters()[i].tensor));
      BringToTileOrder(impl_->weights(), parameters()[i].tensor);
    }
    return absl::OkStatus();
  });
}

absl::Status PolicyModel::CopyFrom(const PolicyModel& other) {
  const std::vector<TensorBytes> state = other.State();
  return LoadState(state);
}

absl::Status PolicyModel::Save(FileSystem& files, const std::string& folder) const {
  RETURN_IF_ERROR(files.MakeDirs(folder));
  std::vector<NamedTensor> host;  // copies of what is on a device
  RETURN_IF_ERROR(CatchTorch("copy the policy to the host", [&] {
    for (const NamedTensor& p : parameters()) host.push_back({p.name, p.tensor.detach().cpu()});
  }));
  std::vector<TensorView> views;
  for (const TensorBytes& tensor : BytesOf(host)) {
    views.push_back({tensor.name, tensor.dtype == "F32" ? DType::kF32 : DType::kBF16, tensor.shape,
                     absl::MakeConstSpan(tensor.bytes.data(), tensor.bytes.size())});
  }
  RETURN_IF_ERROR(
      WriteSafetensors(files, JoinPath(folder, "model.safetensors"), views, {{"format", "pt"}}));
  RETURN_IF_ERROR(files.WriteFile(JoinPath(folder, "generation_config.json"),
                                  WriteHfGenerationConfig(config())));
  return files.WriteFile(JoinPath(folder, "config.json"),
                         WriteHfConfig(config(), dtype() == at::kFloat ? "float32" : "bfloat16"));
}

int64_t PolicyModel::weight_bytes() const { return impl_->weights().bytes; }
int64_t PolicyModel::scratch_bytes() const { return impl_->scratch_bytes(); }

}  // namespace crescendo
