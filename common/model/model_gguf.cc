#include "common/model/model_gguf.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/formats/gguf.h"
#include "common/formats/half.h"

namespace crescendo {
namespace {

constexpr absl::string_view kRopeFactors = "rope_freqs.weight";

// llama.cpp's name of a Hugging Face tensor.
std::string GgufName(absl::string_view name) {
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  constexpr absl::string_view kPrefix = "model.layers.";
  name.remove_prefix(kPrefix.size());
  const size_t dot = name.find('.');
  const absl::string_view layer = name.substr(0, dot);
  const absl::string_view rest = name.substr(dot + 1);
  static constexpr std::pair<absl::string_view, absl::string_view> kNames[] = {
      {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  for (const auto& [hf, gguf] : kNames) {
    if (rest.substr(0, hf.size()) == hf && rest[hf.size()] == '.') {
      return absl::StrCat("blk.", layer, ".", gguf, rest.substr(hf.size()));
    }
  }
  return std::string(name);
}

// llama.cpp stores q and k rows of the llama architecture interleaved (2 i + j); Hugging Face wants
// (j half + i): convert_hf_to_gguf.py, LlamaModel.permute, undone.
void UndoPermutation(std::vector<float>* values, int64_t rows, int64_t columns, int64_t head_dim) {
  std::vector<float> head(static_cast<size_t>(head_dim * columns));
  const int64_t half = head_dim / 2;
  const size_t row_bytes = static_cast<size_t>(columns) * sizeof(float);
  for (int64_t first = 0; first + head_dim <= rows; first += head_dim) {
    float* base = values->data() + first * columns;
    for (int64_t i = 0; i < half; ++i) {
      for (int64_t j = 0; j < 2; ++j) {
        std::memcpy(head.data() + (j * half + i) * columns, base + (2 * i + j) * columns,
                    row_bytes);
      }
    }
    std::memcpy(base, head.data(), row_bytes * static_cast<size_t>(head_dim));
  }
}

// Whether llama.cpp keeps the tensor's rows in its own order.
bool IsPermuted(const ModelConfig& config, absl::string_view name) {
  return config.architecture == Architecture::kLlama &&
         (name.find("q_proj.weight") != absl::string_view::npos ||
          name.find("k_proj.weight") != absl::string_view::npos);
}

absl::Status LoadGgufTensor(const GgufTensor& source, const ModelConfig& config,
                            const NamedTensor& target) {
  std::vector<float> values(static_cast<size_t>(target.tensor.numel()));
  RETURN_IF_ERROR(Dequantize(source, absl::MakeSpan(values)));
  if (IsPermuted(config, target.name)) {
    UndoPermutation(&values, target.tensor.size(0), target.tensor.size(1), config.head_dim);
  }
  return ConvertInto(absl::string_view(reinterpret_cast<const char*>(values.data()),
                                       values.size() * sizeof(float)),
                     "F32", target.tensor);
}

// What each frequency is divided by, [head_dim / 2].
std::vector<float> RopeFactors(const ModelConfig& config) {
  std::vector<float> factors;
  for (int i = 0; i < config.head_dim / 2; ++i) {
    const double frequency = std::pow(config.rope_theta, -2.0 * i / config.head_dim);
    factors.push_back(
        static_cast<float>(frequency / ScaledRopeFrequency(frequency, config.rope_scaling)));
  }
  return factors;
}

// A GGUF holds the factors, not what they were made from: Llama 3.1 and 3.2 are tried.
absl::Status RecogniseRopeFactors(const GgufTensor& tensor, const std::string& path,
                                  ModelConfig* config) {
  const std::vector<int64_t> shape = {config->head_dim / 2};
  if (tensor.shape != shape) return ShapeError(path, kRopeFactors, shape, tensor.shape);
  std::vector<float> factors(static_cast<size_t>(shape[0]));
  RETURN_IF_ERROR(Dequantize(tensor, absl::MakeSpan(factors)));
  const RopeScaling known[] = {RopeScaling(),
                               {RopeScaling::Kind::kLlama3, 8.0, 1.0, 4.0, 8192},
                               {RopeScaling::Kind::kLlama3, 32.0, 1.0, 4.0, 8192}};
  for (const RopeScaling& scaling : known) {
    config->rope_scaling = scaling;
    const std::vector<float> expected = RopeFactors(*config);
    bool equal = true;
    for (size_t i = 0; i < factors.size(); ++i) {
      equal = equal && std::abs(factors[i] - expected[i]) <= 1e-4f * expected[i];
    }
    if (equal) return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat(
      path, ": tensor '", kRopeFactors,
      "': expected the factors of Llama 3.1 or 3.2, found others; load the Hugging Face folder"));
}

using Metadata = std::vector<std::pair<std::string, GgufWriteValue>>;

uint32_t FileType(GgmlType type) {  // llama.cpp's enum llama_ftype
  switch (type) {
    case GgmlType::kF32:
      return 0;
    case GgmlType::kF16:
      return 1;
    case GgmlType::kQ4_0:
      return 2;
    case GgmlType::kQ8_0:
      return 7;
    default:
      return 32;  // BF16
  }
}

Metadata ModelMetadata(const ModelConfig& config, GgmlType type) {
  const std::string name = config.architecture == Architecture::kLlama   ? "llama"
                           : config.architecture == Architecture::kQwen2 ? "qwen2"
                                                                         : "qwen3";
  Metadata out = {{"general.architecture", name},
                  {"general.name", std::string("Crescendo policy")},
                  {"general.file_type", FileType(type)},
                  {"general.quantization_version", uint32_t{2}}};
  const auto add = [&](absl::string_view key, auto value) {
    out.emplace_back(absl::StrCat(name, ".", key), GgufWriteValue(value));
  };
  const auto count = [](int64_t value) { return static_cast<uint32_t>(value); };
  add("vocab_size", count(config.vocab_size));
  add("context_length", count(config.max_positions));
  add("embedding_length", count(config.hidden_size));
  add("block_count", count(config.layers));
  add("feed_forward_length", count(config.mlp_size));
  add("attention.head_count", count(config.query_heads));
  add("attention.head_count_kv", count(config.kv_heads));
  add("attention.key_length", count(config.head_dim));
  add("attention.value_length", count(config.head_dim));
  add("rope.dimension_count", count(config.head_dim));
  add("rope.freq_base", static_cast<float>(config.rope_theta));
  add("attention.layer_norm_rms_epsilon", static_cast<float>(config.norm_eps));
  if (config.rope_scaling.kind == RopeScaling::Kind::kLinear) {
    add("rope.scaling.type", std::string("linear"));
    add("rope.scaling.factor", static_cast<float>(config.rope_scaling.factor));
  }
  return out;
}

void AddTokenId(absl::string_view key, int64_t id, Metadata* metadata) {
  if (id < 0) return;
  for (const auto& [known, value] : *metadata) {
    if (known == key) return;
  }
  metadata->emplace_back(std::string(key), static_cast<uint32_t>(id));
}

// Row `row` of a matrix (a vector is one row) as floats.
void ReadRow(const TensorBytes& tensor, int64_t row, absl::Span<float> out) {
  const char* bytes = tensor.bytes.data();
  if (tensor.dtype == "F32") {
    std::memcpy(out.data(), bytes + static_cast<size_t>(row) * out.size() * 4, out.size() * 4);
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t half;
    std::memcpy(&half, bytes + (static_cast<size_t>(row) * out.size() + i) * 2, 2);
    out[i] = FloatFromBf16(half);
  }
}

GgufWriteTensor WriteTensor(const ModelConfig& config, const TensorBytes& tensor, GgmlType type) {
  GgufWriteTensor out;
  out.name = GgufName(tensor.name);
  out.shape = tensor.shape;
  if (tensor.shape.size() < 2) {
    out.type = GgmlType::kF32;
  } else {
    out.type = tensor.shape[1] % InfoOf(type).block_elements == 0 ? type : GgmlType::kF16;
  }
  const int64_t head_dim = IsPermuted(config, tensor.name) ? config.head_dim : 0;
  out.read_row = [tensor, head_dim](int64_t index, absl::Span<float> row) {
    if (head_dim > 0) {  // 2 i + j here is j half + i there
      const int64_t place = index % head_dim;
      index += place % 2 * (head_dim / 2) + place / 2 - place;
    }
    ReadRow(tensor, index, row);
  };
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelWeights>> LoadGgufWeights(FileSystem& files,
                                                              const std::string& path,
                                                              at::ScalarType dtype,
                                                              at::Device device) {
  ASSIGN_OR_RETURN(const auto file, GgufFile::Open(files, path));
  ASSIGN_OR_RETURN(ModelConfig config, ParseGgufConfig(*file, path));
  if (const GgufTensor* factors = file->Find(kRopeFactors); factors != nullptr) {
    RETURN_IF_ERROR(RecogniseRopeFactors(*factors, path, &config));
  }
  std::vector<const GgufTensor*> sources;
  for (const ParameterSpec& spec : ParameterSpecs(config)) {
    ASSIGN_OR_RETURN(const GgufTensor* source, file->Get(GgufName(spec.name)));
    if (source->shape != spec.shape) {
      return ShapeError(path, source->name, spec.shape, source->shape);
    }
    if (!InfoOf(source->type).dequantizes) {
      return absl::UnimplementedError(absl::StrCat(path, ": tensor '", source->name, "': type ",
                                                   InfoOf(source->type).name, " is not supported"));
    }
    sources.push_back(source);
  }
  ASSIGN_OR_RETURN(auto weights, AllocateWeights(config, dtype, device));
  for (size_t i = 0; i < sources.size(); ++i) {
    RETURN_IF_ERROR(Annotate(LoadGgufTensor(*sources[i], config, weights->parameters[i]), path));
  }
  return weights;
}

absl::Status SaveGguf(FileSystem& files, const std::string& path, const PolicyModel& policy,
                      GgmlType type,
                      absl::Span<const std::pair<std::string, GgufWriteValue>> tokenizer) {
  const ModelConfig& config = policy.config();
  if (!CanQuantize(type)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": expected a type that is written (F32, F16, BF16, Q8_0 or Q4_0), found ",
        InfoOf(type).name));
  }
  Metadata metadata = ModelMetadata(config, type);
  metadata.insert(metadata.end(), tokenizer.begin(), tokenizer.end());
  AddTokenId("tokenizer.ggml.bos_token_id", config.bos_token_id, &metadata);
  AddTokenId("tokenizer.ggml.eos_token_id",
             config.eos_token_ids.empty() ? -1 : config.eos_token_ids[0], &metadata);
  AddTokenId("tokenizer.ggml.padding_token_id", config.pad_token_id, &metadata);
  std::vector<GgufWriteTensor> tensors;
  if (config.rope_scaling.kind == RopeScaling::Kind::kLlama3) {
    GgufWriteTensor factors;
    factors.name = std::string(kRopeFactors);
    factors.shape = {config.head_dim / 2};
    factors.read_row = [values = RopeFactors(config)](int64_t, absl::Span<float> row) {
      std::copy(values.begin(), values.end(), row.begin());
    };
    tensors.push_back(std::move(factors));
  }
  for (const TensorBytes& tensor : policy.State()) {
    tensors.push_back(WriteTensor(config, tensor, type));
  }
  return WriteGguf(files, path, metadata, tensors);
}

}  // namespace crescendo
