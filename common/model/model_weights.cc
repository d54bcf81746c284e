#include "common/model/model_weights.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/formats/half.h"
#include "common/formats/safetensors.h"
#include "common/model/kernel_dispatch.h"
#include "common/model/parallel.h"
#include "common/model/tile_product.h"
#include "common/model/torch_guard.h"
#include "common/os/huge_pages.h"

namespace crescendo {
namespace {

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// A tensor over rows [first, first + rows) of `storage`, with autograd state of its own; it shares
// the storage itself, whose memory may be taken away and given back.
at::Tensor Leaf(const at::Tensor& storage, int64_t first, int64_t rows) {
  const at::Tensor view = storage.narrow(0, first, rows);
  return at::empty({0}, view.options())
      .set_(view.storage(), view.storage_offset(), view.sizes(), view.strides());
}

void AddLayer(const ModelConfig& config, int layer, std::vector<ParameterSpec>* specs) {
  const std::string p = absl::StrCat("model.layers.", layer, ".");
  const int64_t hidden = config.hidden_size;
  const auto add = [&](absl::string_view name, std::vector<int64_t> shape) {
    specs->push_back({absl::StrCat(p, name), std::move(shape)});
  };
  add("input_layernorm.weight", {hidden});
  const std::pair<const char*, int64_t> projections[] = {{"self_attn.q_proj", config.query_size()},
                                                         {"self_attn.k_proj", config.kv_size()},
                                                         {"self_attn.v_proj", config.kv_size()}};
  for (const auto& [name, size] : projections) {
    add(absl::StrCat(name, ".weight"), {size, hidden});
    if (config.qkv_bias) add(absl::StrCat(name, ".bias"), {size});
  }
  if (config.qk_norm) {
    add("self_attn.q_norm.weight", {config.head_dim});
    add("self_attn.k_norm.weight", {config.head_dim});
  }
  add("self_attn.o_proj.weight", {hidden, config.query_size()});
  add("post_attention_layernorm.weight", {hidden});
  add("mlp.gate_proj.weight", {config.mlp_size, hidden});
  add("mlp.up_proj.weight", {config.mlp_size, hidden});
  add("mlp.down_proj.weight", {hidden, config.mlp_size});
}

void FillLayer(const ModelConfig& config, at::TensorOptions options, LayerWeights* w) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.query_size();
  const int64_t kv = config.kv_size();
  const int64_t mlp = config.mlp_size;
  w->qkv = at::empty({q + 2 * kv, hidden}, options);
  w->gate_up = at::empty({2 * mlp, hidden}, options);
  w->qkv_t = w->qkv.t();
  w->gate_up_t = w->gate_up.t();
  w->q = Leaf(w->qkv, 0, q);
  w->k = Leaf(w->qkv, q, kv);
  w->v = Leaf(w->qkv, q + kv, kv);
  w->gate = Leaf(w->gate_up, 0, mlp);
  w->up = Leaf(w->gate_up, mlp, mlp);
  if (config.qkv_bias) {
    w->qkv_bias = at::empty({q + 2 * kv}, options);
    w->q_bias = Leaf(w->qkv_bias, 0, q);
    w->k_bias = Leaf(w->qkv_bias, q, kv);
    w->v_bias = Leaf(w->qkv_bias, q + kv, kv);
  }
  if (config.qk_norm) {
    w->q_norm = at::empty({config.head_dim}, options);
    w->k_norm = at::empty({config.head_dim}, options);
  }
  w->input_norm = at::empty({hidden}, options);
  w->post_norm = at::empty({hidden}, options);
  const at::Tensor o = at::empty({hidden, q}, options);
  const at::Tensor down = at::empty({hidden, mlp}, options);
  w->o = Leaf(o, 0, hidden);
  w->down = Leaf(down, 0, hidden);
  w->o_t = o.t();
  w->down_t = down.t();
}

// The tensors in the order of ParameterSpecs.
std::vector<at::Tensor> InOrder(const ModelWeights& weights) {
  std::vector<at::Tensor> tensors = {weights.embedding};
  for (const LayerWeights& w : weights.layers) {
    for (const at::Tensor& t : {w.input_norm, w.q, w.q_bias, w.k, w.k_bias, w.v, w.v_bias, w.q_norm,
                                w.k_norm, w.o, w.post_norm, w.gate, w.up, w.down}) {
      if (t.defined()) tensors.push_back(t);
    }
  }
  tensors.push_back(weights.final_norm);
  if (!weights.config.tie_embeddings) tensors.push_back(weights.head);
  return tensors;
}

template <typename T>
void ConvertElements(const char* in, int64_t count, float (*widen)(T), const at::Tensor& target) {
  const bool to_float = target.scalar_type() == at::kFloat;
  float* f32 = to_float ? target.data_ptr<float>() : nullptr;
  auto* bf16 = to_float ? nullptr : static_cast<uint16_t*>(target.data_ptr());
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, in + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    if (to_float) {
      f32[i] = widen(value);
    } else {
      bf16[i] = Bf16FromFloat(widen(value));
    }
  }
}

}  // namespace

absl::Status ShapeError(absl::string_view place, absl::string_view tensor,
                        absl::Span<const int64_t> expected, absl::Span<const int64_t> found) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": tensor '", tensor, "': expected shape ",
                                                 ShapeText(expected), ", found ",
                                                 ShapeText(found)));
}

std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config) {
  std::vector<ParameterSpec> specs;
  specs.push_back({"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}});
  for (int layer = 0; layer < config.layers; ++layer) AddLayer(config, layer, &specs);
  specs.push_back({"model.norm.weight", {config.hidden_size}});
  if (!config.tie_embeddings) {
    specs.push_back({"lm_head.weight", {config.vocab_size, config.hidden_size}});
  }
  return specs;
}

absl::StatusOr<std::vector<const TensorBytes*>> MatchState(const std::vector<ParameterSpec>& specs,
                                                           absl::Span<const TensorBytes> tensors) {
  absl::flat_hash_map<absl::string_view, const TensorBytes*> by_name;
  for (const TensorBytes& tensor : tensors) {
    if (!by_name.emplace(tensor.name, &tensor).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("load weights: tensor '", tensor.name, "' comes twice"));
    }
  }
  std::vector<const TensorBytes*> sources;
  for (const ParameterSpec& spec : specs) {
    const auto it = by_name.find(spec.name);
    const auto fail = [&](absl::string_view expected, absl::string_view found) {
      return absl::InvalidArgumentError(absl::StrCat("load weights: tensor '", spec.name,
                                                     "': expected ", expected, ", found ", found));
    };
    if (it == by_name.end()) return fail("a value", "nothing");
    const TensorBytes& source = *it->second;
    if (source.shape != spec.shape) {
      return fail(absl::StrCat("shape ", ShapeText(spec.shape)), ShapeText(source.shape));
    }
    if (source.dtype != "F32" && source.dtype != "BF16") {
      return fail("dtype F32 or BF16", source.dtype);
    }
    size_t bytes = source.dtype == "F32" ? 4 : 2;
    for (const int64_t size : spec.shape) bytes *= static_cast<size_t>(size);
    if (source.bytes.size() != bytes) {
      return fail(absl::StrCat(bytes, " bytes"), absl::StrCat(source.bytes.size()));
    }
    sources.push_back(&source);
  }
  if (tensors.size() != sources.size()) {
    for (const ParameterSpec& spec : specs) by_name.erase(spec.name);
    return absl::InvalidArgumentError(absl::StrCat("load weights: tensor '", by_name.begin()->first,
                                                   "' is none of this policy's"));
  }
  return sources;
}

absl::StatusOr<std::unique_ptr<ModelWeights>> AllocateWeights(const ModelConfig& config,
                                                              at::ScalarType dtype,
                                                              at::Device device) {
  if (dtype != at::kFloat && dtype != at::kBFloat16) {
    return absl::InvalidArgumentError("policy dtype: expected float32 or bfloat16");
  }
  auto weights = std::make_unique<ModelWeights>();
  weights->config = config;
  weights->dtype = dtype;
  weights->device = device;
  RETURN_IF_ERROR(
      CatchTorch(absl::StrCat("allocate ", config.parameter_count(), " parameters"), [&] {
        const at::TensorOptions options = at::TensorOptions().dtype(dtype).device(device);
        const auto matrix = [&] {
          return Leaf(at::empty({config.vocab_size, config.hidden_size}, options), 0,
                      config.vocab_size);
        };
        weights->embedding = matrix();
        weights->layers.resize(static_cast<size_t>(config.layers));
        for (LayerWeights& layer : weights->layers) FillLayer(config, options, &layer);
        weights->final_norm = at::empty({config.hidden_size}, options);
        weights->head = config.tie_embeddings ? weights->embedding : matrix();
        weights->head_t = Leaf(weights->head, 0, config.vocab_size).t();
      }));
  const std::vector<ParameterSpec> specs = ParameterSpecs(config);
  const std::vector<at::Tensor> tensors = InOrder(*weights);
  if (device.is_cpu()) {
    for (const at::Tensor& t : tensors) {
      AskForHugePages(t.storage().mutable_data(), t.storage().nbytes());
    }
  }
  CRESCENDO_CHECK(specs.size() == tensors.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    CRESCENDO_CHECK(tensors[i].sizes() == at::IntArrayRef(specs[i].shape));
    weights->parameters.push_back({specs[i].name, tensors[i]});
    weights->bytes += static_cast<int64_t>(tensors[i].nbytes());
  }
  return weights;
}

namespace {

bool InTileOrder(const ModelWeights& weights, const at::Tensor& parameter) {
  const bool embeds_only = !weights.config.tie_embeddings && parameter.is_same(weights.embedding);
  return parameter.dim() == 2 && !embeds_only;
}

template <typename T>
void ToTileOrder(const at::Tensor& matrix) {
  const int64_t in = matrix.size(1);
  const int64_t strip = kernels::kStripRows<T> * in;
  T* elements = Data<T>(matrix);
  ParallelRange(at::get_num_threads(), matrix.size(0) / kernels::kStripRows<T>, 64,
                [&](int64_t begin, int64_t end) {
                  std::vector<T> scratch(static_cast<size_t>(strip));
                  kernels::ToTileOrder(elements + begin * strip, end - begin, in, scratch.data());
                });
}

// Whether all matrices of T can lie in tile order, here.
template <typename T>
bool TileOrderFits(const ModelWeights& weights) {
  if (!weights.device.is_cpu() || !kernels::TileProductUsable<T>()) return false;
  const auto whole = [](const at::Tensor& product) {
    return product.size(0) % kernels::kTileProductColumns == 0;
  };
  for (const LayerWeights& w : weights.layers) {
    if (!whole(w.qkv) || !whole(w.gate_up) || !whole(w.o) || !whole(w.down)) return false;
  }
  for (const NamedTensor& p : weights.parameters) {
    if (InTileOrder(weights, p.tensor) &&
        !kernels::FitsTileOrder<T>(p.tensor.size(0), p.tensor.size(1))) {
      return false;
    }
  }
  return whole(weights.head);
}

}  // namespace

void BringToTileOrder(ModelWeights* weights) {
  DispatchDtype(weights->dtype,
                [&](auto type) { weights->tile_order = TileOrderFits<decltype(type)>(*weights); });
  for (const NamedTensor& p : weights->parameters) BringToTileOrder(*weights, p.tensor);
}

void BringToTileOrder(const ModelWeights& weights, const at::Tensor& parameter) {
  if (!weights.tile_order || !InTileOrder(weights, parameter)) return;
  DispatchDtype(weights.dtype, [&](auto type) { ToTileOrder<decltype(type)>(parameter); });
}

absl::Status ConvertInto(absl::string_view bytes, absl::string_view dtype,
                         const at::Tensor& target) {
  const int64_t count = target.numel();
  const bool same = dtype == (target.scalar_type() == at::kFloat ? "F32" : "BF16");
  const size_t width = dtype == "F32" ? 4 : 2;
  if (dtype != "F32" && dtype != "BF16" && dtype != "F16") {
    return absl::UnimplementedError(absl::StrCat("expected F32, BF16 or F16, found ", dtype));
  }
  CRESCENDO_CHECK(bytes.size() == static_cast<size_t>(count) * width);
  if (!target.device().is_cpu()) {
    const at::Tensor host = at::empty(target.sizes(), target.scalar_type());
    RETURN_IF_ERROR(ConvertInto(bytes, dtype, host));
    const at::NoGradGuard no_grad;
    target.copy_(host);
    return absl::OkStatus();
  }
  if (same) {
    std::memcpy(target.data_ptr(), bytes.data(), bytes.size());
  } else if (dtype == "F32") {
    ConvertElements<float>(
        bytes.data(), count, [](float x) { return x; }, target);
  } else if (dtype == "BF16") {
    ConvertElements<uint16_t>(bytes.data(), count, &FloatFromBf16, target);
  } else {
    ConvertElements<uint16_t>(bytes.data(), count, &FloatFromF16, target);
  }
  return absl::OkStatus();
}

int UnitCount(const ModelConfig& config) { return config.layers + (config.tie_embeddings ? 2 : 3); }

absl::Span<const NamedTensor> UnitOf(const ModelWeights& weights, int unit) {
  const ModelConfig& c = weights.config;
  const absl::Span<const NamedTensor> all = weights.parameters;
  if (unit == 0) return all.subspan(0, 1);
  const size_t after = c.tie_embeddings ? 1 : 2;  // the final norm, the head
  if (unit > c.layers) return all.subspan(all.size() - after + (unit - c.layers - 1), 1);
  const size_t each = (all.size() - 1 - after) / static_cast<size_t>(c.layers);
  return all.subspan(1 + static_cast<size_t>(unit - 1) * each, each);
}

absl::StatusOr<std::unique_ptr<ModelWeights>> LoadHfWeights(
    FileSystem& files, const std::string& folder, at::ScalarType dtype,
    const std::function<absl::Status(absl::Span<const NamedTensor>)>& after_unit,
    at::Device device) {
  constexpr size_t kConfigBytesMax = 1 << 20;
  if (!files.IsDirectory(folder)) {
    const bool file = files.Exists(folder);
    return absl::NotFoundError(
        absl::StrCat(folder, file ? " is a file" : " does not exist",
                     "; expected a model: a Hugging Face folder or a .gguf file"));
  }
  ASSIGN_OR_RETURN(const std::string config_text,
                   files.ReadFile(JoinPath(folder, "config.json"), kConfigBytesMax));
  std::optional<absl::string_view> generation;
  std::string generation_text;
  const std::string generation_path = JoinPath(folder, "generation_config.json");
  if (files.Exists(generation_path)) {
    ASSIGN_OR_RETURN(generation_text, files.ReadFile(generation_path, kConfigBytesMax));
    generation = generation_text;
  }
  ASSIGN_OR_RETURN(const ModelConfig config, ParseHfConfig(config_text, generation, folder));
  ASSIGN_OR_RETURN(const auto file, SafetensorsFile::OpenModel(files, folder));
  // All are checked before memory is taken: config.json alone may ask for anything.
  std::vector<const TensorView*> sources;
  for (const ParameterSpec& spec : ParameterSpecs(config)) {
    const TensorView* source = file->Find(spec.name);
    if (source == nullptr && spec.name == "model.embed_tokens.weight" && config.tie_embeddings) {
      source = file->Find("lm_head.weight");
    }
    if (source == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(file->path(), ": tensor '", spec.name,
                                                     "' of shape ", ShapeText(spec.shape),
                                                     " is missing"));
    }
    if (source->shape != spec.shape) {
      return ShapeError(file->path(), spec.name, spec.shape, source->shape);
    }
    if (source->dtype != DType::kF32 && source->dtype != DType::kBF16 &&
        source->dtype != DType::kF16) {
      return absl::InvalidArgumentError(absl::StrCat(file->path(), ": tensor '", spec.name,
                                                     "': expected dtype F32, BF16 or F16, found ",
                                                     DTypeName(source->dtype)));
    }
    sources.push_back(source);
  }
  ASSIGN_OR_RETURN(auto weights, AllocateWeights(config, dtype, device));
  size_t i = 0;
  for (int unit = 0; unit < UnitCount(config); ++unit) {
    const absl::Span<const NamedTensor> parameters = UnitOf(*weights, unit);
    for (const NamedTensor& parameter : parameters) {
      const TensorView& source = *sources[i++];
      RETURN_IF_ERROR(
          Annotate(ConvertInto(absl::string_view(source.bytes.data(), source.bytes.size()),
                               DTypeName(source.dtype), parameter.tensor),
                   absl::StrCat(file->path(), ": tensor '", source.name, "'")));
    }
    if (after_unit) RETURN_IF_ERROR(after_unit(parameters));
  }
  CRESCENDO_CHECK(i == sources.size());
  return weights;
}

absl::StatusOr<std::unique_ptr<ModelWeights>> RandomWeights(const ModelConfig& config,
                                                            uint64_t seed, at::ScalarType dtype,
                                                            at::Device device) {
  RETURN_IF_ERROR(ValidateModelConfig(config, "model"));
  ASSIGN_OR_RETURN(auto weights, AllocateWeights(config, dtype, device));
  const double residual = 1.0 / std::sqrt(2.0 * config.layers);
  uint64_t stream = 0;
  for (const NamedTensor& parameter : weights->parameters) {
    const absl::string_view name = parameter.name;
    const auto has = [&](absl::string_view part) {
      return name.find(part) != absl::string_view::npos;
    };
    std::vector<float> values(static_cast<size_t>(parameter.tensor.numel()));
    CounterRng rng(seed, ++stream);
    if (has("norm.weight")) {
      values.assign(values.size(), 1.0f);
    } else if (!has(".bias")) {
      double scale = has("embed_tokens") || has("lm_head")
                         ? 0.02
                         : 1.0 / std::sqrt(static_cast<double>(parameter.tensor.size(1)));
      if (has("o_proj") || has("down_proj")) scale *= residual;
      for (float& value : values) value = static_cast<float>(scale * rng.Normal());
    }
    RETURN_IF_ERROR(ConvertInto(absl::string_view(reinterpret_cast<const char*>(values.data()),
                                                  values.size() * sizeof(float)),
                                "F32", parameter.tensor));
  }
  return weights;
}

}  // namespace crescendo
