#include "common/model/policy_model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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
#include "common/model/torch_guard.h"

namespace crescendo {
namespace {

const char* DtypeName(at::ScalarType dtype) { return dtype == at::kFloat ? "F32" : "BF16"; }

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

}  // namespace

class PolicyModel::Impl {
 public:
  Impl(std::unique_ptr<ModelWeights> weights, bool deterministic)
      : weights_(std::move(weights)), rope_(weights_->config) {
    weights_->deterministic = deterministic;
    for (LayerWeights& layer : weights_->layers) layer.deterministic = deterministic;
  }

  ModelWeights& weights() { return *weights_; }

  at::Tensor Hidden(const at::Tensor& tokens, const at::Tensor& positions,
                    AttentionContext& attention) {
    Check(tokens, positions);
    if (at::GradMode::is_enabled() && weights_->embedding.requires_grad()) {
      return HiddenWithGradients(tokens, positions, attention);
    }
    at::NoGradGuard no_grad;
    return HiddenInPlace(tokens, positions, attention);
  }

  at::Tensor Logits(const at::Tensor& hidden) {
    at::NoGradGuard no_grad;
    const int64_t rows = hidden.size(0);
    at::Tensor out = Scratch(&logits_, rows, config().vocab_size, weights_->dtype);
    LinearInto(hidden, weights_->head_t, at::Tensor(), out, false, weights_->deterministic);
    if (weights_->dtype == at::kFloat) return out;
    at::Tensor wide = Scratch(&wide_logits_, rows, config().vocab_size, at::kFloat);
    WidenInto(out, wide);
    return wide;
  }

  int64_t scratch_bytes() const {
    int64_t bytes = 0;
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

  at::Tensor HiddenWithGradients(const at::Tensor& tokens, const at::Tensor& positions,
                                 AttentionContext& attention) {
    at::Tensor h = at::embedding(weights_->embedding, tokens);
    for (int layer = 0; layer < config().layers; ++layer) {
      const LayerWeights& w = weights_->layers[static_cast<size_t>(layer)];
      at::Tensor x = RmsNormGrad(h, w.input_norm, config().norm_eps);
      const auto [q, k, v] = QkvGrad(x, positions, w, config(), rope_);
      h = AddLinearGrad(h, attention.Attend(layer, q, k, v), w.o, w.o_t, w.deterministic);
      x = RmsNormGrad(h, w.post_norm, config().norm_eps);
      h = AddLinearGrad(h, GatedMlpGrad(x, w), w.down, w.down_t, w.deterministic);
    }
    return RmsNormGrad(h, weights_->final_norm, config().norm_eps);
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
    EmbedInto(weights_->embedding, tokens, h);
    for (int layer = 0; layer < c.layers; ++layer) {
      const LayerWeights& w = weights_->layers[static_cast<size_t>(layer)];
      RmsNormInto(h, w.input_norm, c.norm_eps, x, none);
      LinearInto(x, w.qkv_t, w.qkv_bias, qkv, false, w.deterministic);
      NormAndRotate(qkv, positions, w, c, rope_);
      LinearInto(attention.Attend(layer, q, k, v), w.o_t, none, h, true, w.deterministic);
      RmsNormInto(h, w.post_norm, c.norm_eps, x, none);
      LinearInto(x, w.gate_up_t, none, gate_up, false, w.deterministic);
      SwiGluInto(gate_up, mlp);
      LinearInto(mlp, w.down_t, none, h, true, w.deterministic);
    }
    RmsNormInto(h, weights_->final_norm, c.norm_eps, x, none);
    return x;
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
  at::Tensor residual_, normed_, qkv_, gate_up_, mlp_, logits_, wide_logits_;
};

PolicyModel::PolicyModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PolicyModel::~PolicyModel() = default;

absl::StatusOr<std::unique_ptr<PolicyModel>> PolicyModel::Load(FileSystem& files,
                                                               const std::string& path,
                                                               const LoadOptions& options) {
  return CatchTorch(
      absl::StrCat("load policy ", path), [&]() -> absl::StatusOr<std::unique_ptr<PolicyModel>> {
        ASSIGN_OR_RETURN(auto weights, absl::EndsWith(path, ".gguf")
                                           ? LoadGgufWeights(files, path, options.dtype)
                                           : LoadHfWeights(files, path, options.dtype));
        return std::unique_ptr<PolicyModel>(
            new PolicyModel(std::make_unique<Impl>(std::move(weights), options.deterministic)));
      });
}

absl::StatusOr<std::unique_ptr<PolicyModel>> PolicyModel::Init(const ModelConfig& config,
                                                               uint64_t seed,
                                                               const LoadOptions& options) {
  return CatchTorch("make policy", [&]() -> absl::StatusOr<std::unique_ptr<PolicyModel>> {
    ASSIGN_OR_RETURN(auto weights, RandomWeights(config, seed, options.dtype));
    return std::unique_ptr<PolicyModel>(
        new PolicyModel(std::make_unique<Impl>(std::move(weights), options.deterministic)));
  });
}

const ModelConfig& PolicyModel::config() const { return impl_->weights().config; }
at::ScalarType PolicyModel::dtype() const { return impl_->weights().dtype; }
bool PolicyModel::deterministic() const { return impl_->weights().deterministic; }

at::Tensor PolicyModel::Hidden(const at::Tensor& tokens, const at::Tensor& positions,
                               AttentionContext& attention) {
  return impl_->Hidden(tokens, positions, attention);
}
at::Tensor PolicyModel::Logits(const at::Tensor& hidden) { return impl_->Logits(hidden); }

const at::Tensor& PolicyModel::head_weight() const { return impl_->weights().head; }
const std::vector<NamedTensor>& PolicyModel::parameters() const {
  return impl_->weights().parameters;
}
void PolicyModel::SetRequiresGrad(bool requires_grad) {
  for (const NamedTensor& p : parameters()) p.tensor.requires_grad_(requires_grad);
}

std::vector<TensorBytes> PolicyModel::State() const {
  std::vector<TensorBytes> state;
  for (const NamedTensor& p : parameters()) {
    state.push_back(
        {p.name, DtypeName(p.tensor.scalar_type()), p.tensor.sizes().vec(),
         absl::string_view(static_cast<const char*>(p.tensor.data_ptr()), p.tensor.nbytes())});
  }
  return state;
}

absl::Status PolicyModel::LoadState(absl::Span<const TensorBytes> tensors) {
  absl::flat_hash_map<absl::string_view, const TensorBytes*> by_name;
  for (const TensorBytes& tensor : tensors) {
    if (!by_name.emplace(tensor.name, &tensor).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("load weights: tensor '", tensor.name, "' comes twice"));
    }
  }
  std::vector<const TensorBytes*> sources;
  for (const NamedTensor& p : parameters()) {
    const auto it = by_name.find(p.name);
    const auto fail = [&](absl::string_view expected, absl::string_view found) {
      return absl::InvalidArgumentError(absl::StrCat("load weights: tensor '", p.name,
                                                     "': expected ", expected, ", found ", found));
    };
    if (it == by_name.end()) return fail("a value", "nothing");
    const TensorBytes& source = *it->second;
    if (at::IntArrayRef(source.shape) != p.tensor.sizes()) {
      return fail(absl::StrCat("shape [", absl::StrJoin(p.tensor.sizes(), ", "), "]"),
                  absl::StrCat("[", absl::StrJoin(source.shape, ", "), "]"));
    }
    if (source.dtype != "F32" && source.dtype != "BF16") {
      return fail("dtype F32 or BF16", source.dtype);
    }
    const size_t bytes = static_cast<size_t>(p.tensor.numel()) * (source.dtype == "F32" ? 4u : 2u);
    if (source.bytes.size() != bytes) {
      return fail(absl::StrCat(bytes, " bytes"), absl::StrCat(source.bytes.size()));
    }
    sources.push_back(&source);
  }
  if (tensors.size() != sources.size()) {
    for (const NamedTensor& p : parameters()) by_name.erase(p.name);
    return absl::InvalidArgumentError(absl::StrCat("load weights: tensor '", by_name.begin()->first,
                                                   "' is none of this policy's"));
  }
  for (size_t i = 0; i < sources.size(); ++i) {
    RETURN_IF_ERROR(ConvertInto(sources[i]->bytes, sources[i]->dtype, parameters()[i].tensor));
  }
  return absl::OkStatus();
}

absl::Status PolicyModel::CopyFrom(const PolicyModel& other) {
  const std::vector<TensorBytes> state = other.State();
  return LoadState(state);
}

absl::Status PolicyModel::Save(FileSystem& files, const std::string& folder) const {
  RETURN_IF_ERROR(files.MakeDirs(folder));
  std::vector<TensorView> views;
  for (const TensorBytes& tensor : State()) {
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
