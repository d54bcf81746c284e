#include "common/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/formats/gguf.h"
#include "common/formats/json.h"

namespace crescendo {
namespace {

constexpr int64_t kLayersMax = 1024;
constexpr int64_t kHeadsMax = 1024;
constexpr int64_t kHeadDimMax = 1024;
constexpr int64_t kHiddenMax = 1 << 17;
constexpr int64_t kMlpMax = 1 << 20;
constexpr int64_t kStopTokensMax = 64;

absl::Status FieldError(absl::string_view place, absl::string_view field,
                        absl::string_view expected, absl::string_view found) {
  return absl::InvalidArgumentError(
      absl::StrCat(place, ": field '", field, "': expected ", expected, ", found ", found));
}

absl::Status CheckRange(absl::string_view place, absl::string_view field, int64_t value,
                        int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return FieldError(place, field, absl::StrCat("a number from ", low, " to ", high),
                    absl::StrCat(value));
}

absl::Status CheckReal(absl::string_view place, absl::string_view field, double value, double low,
                       double high) {
  if (std::isfinite(value) && value > low && value <= high) return absl::OkStatus();
  return FieldError(place, field, absl::StrCat("a number above ", low, " and up to ", high),
                    absl::StrCat(value));
}

// Typed reads of one JSON object; a missing or null field gives the default where there is one.
class Fields {
 public:
  Fields(const Json& object, absl::string_view place) : object_(object), place_(place) {}

  bool Has(const char* name) const {
    const auto it = object_.find(name);
    return it != object_.end() && !it->is_null();
  }
  const Json& At(const char* name) const { return *object_.find(name); }

  absl::Status Int(const char* name, int64_t* out, bool required) const {
    if (!Has(name)) return Missing(name, required);
    const Json& value = At(name);
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() &&
         value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})) {
      return FieldError(place_, name, "an integer", Shown(value));
    }
    *out = value.get<int64_t>();
    return absl::OkStatus();
  }
  absl::Status Real(const char* name, double* out, bool required) const {
    if (!Has(name)) return Missing(name, required);
    if (!At(name).is_number()) return FieldError(place_, name, "a number", Shown(At(name)));
    *out = At(name).get<double>();
    return absl::OkStatus();
  }
  absl::Status Bool(const char* name, bool* out) const {
    if (!Has(name)) return absl::OkStatus();
    if (!At(name).is_boolean()) return FieldError(place_, name, "true or false", Shown(At(name)));
    *out = At(name).get<bool>();
    return absl::OkStatus();
  }
  absl::Status Text(const char* name, std::string* out) const {
    if (!Has(name)) return absl::OkStatus();
    if (!At(name).is_string()) return FieldError(place_, name, "a string", Shown(At(name)));
    *out = At(name).get<std::string>();
    return absl::OkStatus();
  }
  // An integer or a list of them.
  absl::Status Tokens(const char* name, std::vector<int64_t>* out) const {
    if (!Has(name)) return absl::OkStatus();
    const Json& value = At(name);
    std::vector<int64_t> tokens;
    const auto add = [&](const Json& item) {
      if (!item.is_number_integer()) return false;
      tokens.push_back(item.get<int64_t>());
      return tokens.size() <= static_cast<size_t>(kStopTokensMax);
    };
    bool good = true;
    if (value.is_array()) {
      for (const Json& item : value) good = good && add(item);
    } else {
      good = add(value);
    }
    if (!good) {
      return FieldError(place_, name,
                        absl::StrCat("a token id or a list of up to ", kStopTokensMax),
                        Shown(value));
    }
    *out = std::move(tokens);
    return absl::OkStatus();
  }

  static std::string Shown(const Json& value) {
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > 80) text = absl::StrCat(text.substr(0, 80), "...");
    return text;
  }

 private:
  absl::Status Missing(const char* name, bool required) const {
    if (!required) return absl::OkStatus();
    return FieldError(place_, name, "a value", "nothing");
  }
  const Json& object_;
  absl::string_view place_;
};

absl::Status ParseArchitecture(const Fields& fields, absl::string_view place, ModelConfig* config) {
  std::string type;
  RETURN_IF_ERROR(fields.Text("model_type", &type));
  if (type.empty() && fields.Has("architectures")) {
    const Json& list = fields.At("architectures");
    if (list.is_array() && !list.empty() && list[0].is_string()) {
      const std::string name = list[0].get<std::string>();
      for (const auto& [known, model_type] :
           {std::pair<const char*, const char*>{"LlamaForCausalLM", "llama"},
            {"Qwen2ForCausalLM", "qwen2"},
            {"Qwen3ForCausalLM", "qwen3"}}) {
        if (name == known) type = model_type;
      }
      if (type.empty()) type = name;
    }
  }
  if (type == "llama") {
    config->architecture = Architecture::kLlama;
  } else if (type == "qwen2") {
    config->architecture = Architecture::kQwen2;
  } else if (type == "qwen3") {
    config->architecture = Architecture::kQwen3;
  } else {
    return absl::UnimplementedError(
        absl::StrCat(place, ": field 'model_type': expected llama, qwen2 or qwen3, found ",
                     type.empty() ? "nothing" : type));
  }
  config->qkv_bias = config->architecture == Architecture::kQwen2;
  config->qk_norm = config->architecture == Architecture::kQwen3;
  return absl::OkStatus();
}

// What other models of these families have and this one does not do.
absl::Status CheckUnsupported(const Fields& fields, absl::string_view place) {
  std::string activation = "silu";
  RETURN_IF_ERROR(fields.Text("hidden_act", &activation));
  if (activation != "silu" && activation != "swish") {
    return absl::UnimplementedError(
        absl::StrCat(place, ": field 'hidden_act': expected silu, found ", activation));
  }
  for (const char* name : {"attention_bias", "mlp_bias", "use_sliding_window"}) {
    bool value = false;
    RETURN_IF_ERROR(fields.Bool(name, &value));
    if (value) {
      return absl::UnimplementedError(
          absl::StrCat(place, ": field '", name, "': expected false, found true"));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseRope(const Fields& fields, absl::string_view place, ModelConfig* config) {
  RETURN_IF_ERROR(fields.Real("rope_theta", &config->rope_theta, false));
  // "rope_parameters" is the newer name; it holds theta too.
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!fields.Has(name)) continue;
    if (!fields.At(name).is_object()) {
      return FieldError(place, name, "an object", Fields::Shown(fields.At(name)));
    }
    const std::string inner_place = absl::StrCat(place, ": ", name);
    const Fields inner(fields.At(name), inner_place);
    std::string type = "default";
    RETURN_IF_ERROR(inner.Text("type", &type));
    RETURN_IF_ERROR(inner.Text("rope_type", &type));
    RETURN_IF_ERROR(inner.Real("rope_theta", &config->rope_theta, false));
    RopeScaling& scaling = config->rope_scaling;
    if (type == "default") continue;
    if (type != "linear" && type != "llama3") {
      return absl::UnimplementedError(absl::StrCat(
          inner_place, ": field 'rope_type': expected default, linear or llama3, found ", type));
    }
    scaling.kind = type == "linear" ? RopeScaling::Kind::kLinear : RopeScaling::Kind::kLlama3;
    RETURN_IF_ERROR(inner.Real("factor", &scaling.factor, true));
    if (type == "llama3") {
      RETURN_IF_ERROR(inner.Real("low_freq_factor", &scaling.low_freq_factor, true));
      RETURN_IF_ERROR(inner.Real("high_freq_factor", &scaling.high_freq_factor, true));
      RETURN_IF_ERROR(
          inner.Int("original_max_position_embeddings", &scaling.original_max_positions, true));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseSizes(const Fields& fields, absl::string_view place, ModelConfig* config) {
  int64_t layers = 0, query_heads = 0, kv_heads = 0, head_dim = 0;
  RETURN_IF_ERROR(fields.Int("vocab_size", &config->vocab_size, true));
  RETURN_IF_ERROR(fields.Int("hidden_size", &config->hidden_size, true));
  RETURN_IF_ERROR(fields.Int("intermediate_size", &config->mlp_size, true));
  RETURN_IF_ERROR(fields.Int("num_hidden_layers", &layers, true));
  RETURN_IF_ERROR(fields.Int("num_attention_heads", &query_heads, true));
  RETURN_IF_ERROR(CheckRange(place, "hidden_size", config->hidden_size, 1, kHiddenMax));
  RETURN_IF_ERROR(CheckRange(place, "num_hidden_layers", layers, 1, kLayersMax));
  RETURN_IF_ERROR(CheckRange(place, "num_attention_heads", query_heads, 1, kHeadsMax));
  kv_heads = query_heads;
  RETURN_IF_ERROR(fields.Int("num_key_value_heads", &kv_heads, false));
  RETURN_IF_ERROR(CheckRange(place, "num_key_value_heads", kv_heads, 1, query_heads));
  head_dim = config->architecture == Architecture::kQwen3 ? 128 : config->hidden_size / query_heads;
  RETURN_IF_ERROR(fields.Int("head_dim", &head_dim, false));
  RETURN_IF_ERROR(CheckRange(place, "head_dim", head_dim, 2, kHeadDimMax));
  config->layers = static_cast<int>(layers);
  config->query_heads = static_cast<int>(query_heads);
  config->kv_heads = static_cast<int>(kv_heads);
  config->head_dim = static_cast<int>(head_dim);
  RETURN_IF_ERROR(fields.Real("rms_norm_eps", &config->norm_eps, false));
  RETURN_IF_ERROR(fields.Bool("tie_word_embeddings", &config->tie_embeddings));
  return fields.Int("max_position_embeddings", &config->max_positions, false);
}

absl::Status ParseTokenIds(const Fields& fields, ModelConfig* config) {
  RETURN_IF_ERROR(fields.Int("bos_token_id", &config->bos_token_id, false));
  RETURN_IF_ERROR(fields.Tokens("eos_token_id", &config->eos_token_ids));
  if (!fields.Has("pad_token_id")) return absl::OkStatus();
  return fields.Int("pad_token_id", &config->pad_token_id, false);
}

Json RopeJson(const RopeScaling& scaling) {
  if (scaling.kind == RopeScaling::Kind::kNone) return nullptr;
  if (scaling.kind == RopeScaling::Kind::kLinear) {
    return {{"rope_type", "linear"}, {"factor", scaling.factor}};
  }
  return {{"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_freq_factor},
          {"high_freq_factor", scaling.high_freq_factor},
          {"original_max_position_embeddings", scaling.original_max_positions}};
}

void WriteTokenIds(const ModelConfig& config, Json* json) {
  (*json)["bos_token_id"] = config.bos_token_id < 0 ? Json(nullptr) : Json(config.bos_token_id);
  if (config.eos_token_ids.empty()) {
    (*json)["eos_token_id"] = nullptr;
  } else if (config.eos_token_ids.size() == 1) {
    (*json)["eos_token_id"] = config.eos_token_ids[0];
  } else {
    (*json)["eos_token_id"] = config.eos_token_ids;
  }
  if (config.pad_token_id >= 0) (*json)["pad_token_id"] = config.pad_token_id;
}

}  // namespace

absl::string_view ArchitectureName(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama:
      return "LlamaForCausalLM";
    case Architecture::kQwen2:
      return "Qwen2ForCausalLM";
    case Architecture::kQwen3:
      return "Qwen3ForCausalLM";
  }
  return "";
}

// Hugging Face's _compute_llama3_parameters; see RopeScaling.
double ScaledRopeFrequency(double frequency, const RopeScaling& scaling) {
  if (scaling.kind == RopeScaling::Kind::kNone) return frequency;
  if (scaling.kind == RopeScaling::Kind::kLinear) return frequency / scaling.factor;
  const double length = static_cast<double>(scaling.original_max_positions);
  const double wavelength = 2.0 * M_PI / frequency;
  if (wavelength < length / scaling.high_freq_factor) return frequency;
  if (wavelength > length / scaling.low_freq_factor) return frequency / scaling.factor;
  const double smooth = (length / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - smooth) * frequency / scaling.factor + smooth * frequency;
}

int64_t ModelConfig::parameter_count() const {
  int64_t layer = 2 * hidden_size + hidden_size * (query_size() + 2 * kv_size()) +
                  query_size() * hidden_size + 3 * hidden_size * mlp_size;
  if (qkv_bias) layer += query_size() + 2 * kv_size();
  if (qk_norm) layer += 2 * int64_t{head_dim};
  return vocab_size * hidden_size * (tie_embeddings ? 1 : 2) + hidden_size + layers * layer;
}

absl::Status ValidateModelConfig(const ModelConfig& config, absl::string_view place) {
  RETURN_IF_ERROR(CheckRange(place, "vocab_size", config.vocab_size, 1, limits::kVocabularyMax));
  RETURN_IF_ERROR(CheckRange(place, "hidden_size", config.hidden_size, 1, kHiddenMax));
  RETURN_IF_ERROR(CheckRange(place, "intermediate_size", config.mlp_size, 1, kMlpMax));
  RETURN_IF_ERROR(CheckRange(place, "num_hidden_layers", config.layers, 1, kLayersMax));
  RETURN_IF_ERROR(CheckRange(place, "num_attention_heads", config.query_heads, 1, kHeadsMax));
  RETURN_IF_ERROR(CheckRange(place, "num_key_value_heads", config.kv_heads, 1, config.query_heads));
  RETURN_IF_ERROR(CheckRange(place, "head_dim", config.head_dim, 2, kHeadDimMax));
  RETURN_IF_ERROR(CheckRange(place, "max_position_embeddings", config.max_positions, 1, 1 << 30));
  if (config.head_dim % 2 != 0) {
    return FieldError(place, "head_dim", "an even number", absl::StrCat(config.head_dim));
  }
  if (config.query_heads % config.kv_heads != 0) {
    return FieldError(place, "num_key_value_heads",
                      absl::StrCat("a divisor of num_attention_heads (", config.query_heads, ")"),
                      absl::StrCat(config.kv_heads));
  }
  RETURN_IF_ERROR(CheckReal(place, "rms_norm_eps", config.norm_eps, 0.0, 1.0));
  RETURN_IF_ERROR(CheckReal(place, "rope_theta", config.rope_theta, 0.0, 1e12));
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind != RopeScaling::Kind::kNone) {
    RETURN_IF_ERROR(CheckReal(place, "rope_scaling.factor", scaling.factor, 0.0, 1e6));
  }
  if (scaling.kind == RopeScaling::Kind::kLlama3) {
    RETURN_IF_ERROR(
        CheckReal(place, "rope_scaling.low_freq_factor", scaling.low_freq_factor, 0.0, 1e6));
    RETURN_IF_ERROR(CheckReal(place, "rope_scaling.high_freq_factor", scaling.high_freq_factor,
                              scaling.low_freq_factor, 1e6));
    RETURN_IF_ERROR(CheckRange(place, "rope_scaling.original_max_position_embeddings",
                               scaling.original_max_positions, 1, 1 << 30));
  }
  for (const int64_t token : config.eos_token_ids) {
    RETURN_IF_ERROR(CheckRange(place, "eos_token_id", token, 0, config.vocab_size - 1));
  }
  return CheckRange(place, "bos_token_id", config.bos_token_id, -1, config.vocab_size - 1);
}

absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view config_json,
                                          std::optional<absl::string_view> generation_config_json,
                                          absl::string_view place) {
  const std::string config_place = absl::StrCat(place, "/config.json");
  ASSIGN_OR_RETURN(const Json json, ParseJson(config_json, config_place));
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(config_place, ": expected an object, found ", json.type_name()));
  }
  const Fields fields(json, config_place);
  ModelConfig config;
  RETURN_IF_ERROR(ParseArchitecture(fields, config_place, &config));
  RETURN_IF_ERROR(CheckUnsupported(fields, config_place));
  RETURN_IF_ERROR(ParseSizes(fields, config_place, &config));
  RETURN_IF_ERROR(ParseRope(fields, config_place, &config));
  RETURN_IF_ERROR(ParseTokenIds(fields, &config));
  if (generation_config_json.has_value()) {
    const std::string generation_place = absl::StrCat(place, "/generation_config.json");
    ASSIGN_OR_RETURN(const Json generation, ParseJson(*generation_config_json, generation_place));
    if (!generation.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat(generation_place, ": expected an object, found ", generation.type_name()));
    }
    RETURN_IF_ERROR(ParseTokenIds(Fields(generation, generation_place), &config));
  }
  RETURN_IF_ERROR(ValidateModelConfig(config, config_place));
  return config;
}

std::string WriteHfConfig(const ModelConfig& config, absl::string_view torch_dtype) {
  const char* type = config.architecture == Architecture::kLlama   ? "llama"
                     : config.architecture == Architecture::kQwen2 ? "qwen2"
                                                                   : "qwen3";
  Json json = {{"architectures", {std::string(ArchitectureName(config.architecture))}},
               {"model_type", type},
               {"attention_dropout", 0.0},
               {"hidden_act", "silu"},
               {"hidden_size", config.hidden_size},
               {"initializer_range", 0.02},
               {"intermediate_size", config.mlp_size},
               {"max_position_embeddings", config.max_positions},
               {"num_attention_heads", config.query_heads},
               {"num_hidden_layers", config.layers},
               {"num_key_value_heads", config.kv_heads},
               {"head_dim", config.head_dim},
               {"rms_norm_eps", config.norm_eps},
               {"rope_scaling", RopeJson(config.rope_scaling)},
               {"rope_theta", config.rope_theta},
               {"tie_word_embeddings", config.tie_embeddings},
               {"torch_dtype", std::string(torch_dtype)},
               {"use_cache", true},
               {"vocab_size", config.vocab_size}};
  if (config.architecture == Architecture::kQwen2) json["use_sliding_window"] = false;
  if (config.architecture != Architecture::kQwen2) json["attention_bias"] = false;
  WriteTokenIds(config, &json);
  return json.dump(2) + "\n";
}

std::string WriteHfGenerationConfig(const ModelConfig& config) {
  Json json = {{"_from_model_config", true}};
  WriteTokenIds(config, &json);
  return json.dump(2) + "\n";
}

absl::StatusOr<ModelConfig> ParseGgufConfig(const GgufFile& file, absl::string_view place) {
  ASSIGN_OR_RETURN(const std::string name, file.GetString("general.architecture"));
  ModelConfig config;
  if (name == "llama") {
    config.architecture = Architecture::kLlama;
  } else if (name == "qwen2") {
    config.architecture = Architecture::kQwen2;
  } else if (name == "qwen3") {
    config.architecture = Architecture::kQwen3;
  } else {
    return absl::UnimplementedError(absl::StrCat(
        place, ": key 'general.architecture': expected llama, qwen2 or qwen3, found ", name));
  }
  config.qkv_bias = config.architecture == Architecture::kQwen2;
  config.qk_norm = config.architecture == Architecture::kQwen3;
  const auto key = [&](absl::string_view suffix) { return absl::StrCat(name, ".", suffix); };
  ASSIGN_OR_RETURN(const int64_t layers, file.GetInt(key("block_count")));
  ASSIGN_OR_RETURN(const int64_t query_heads, file.GetInt(key("attention.head_count")));
  RETURN_IF_ERROR(CheckRange(place, key("block_count"), layers, 1, kLayersMax));
  RETURN_IF_ERROR(CheckRange(place, key("attention.head_count"), query_heads, 1, kHeadsMax));
  int64_t kv_heads = query_heads;
  if (file.Has(key("attention.head_count_kv"))) {
    ASSIGN_OR_RETURN(kv_heads, file.GetInt(key("attention.head_count_kv")));
  }
  RETURN_IF_ERROR(CheckRange(place, key("attention.head_count_kv"), kv_heads, 1, query_heads));
  ASSIGN_OR_RETURN(config.hidden_size, file.GetInt(key("embedding_length")));
  ASSIGN_OR_RETURN(config.mlp_size, file.GetInt(key("feed_forward_length")));
  ASSIGN_OR_RETURN(config.norm_eps, file.GetFloat(key("attention.layer_norm_rms_epsilon")));
  int64_t head_dim = config.hidden_size / query_heads;
  if (file.Has(key("attention.key_length"))) {
    ASSIGN_OR_RETURN(head_dim, file.GetInt(key("attention.key_length")));
  }
  RETURN_IF_ERROR(CheckRange(place, key("attention.key_length"), head_dim, 2, kHeadDimMax));
  config.layers = static_cast<int>(layers);
  config.query_heads = static_cast<int>(query_heads);
  config.kv_heads = static_cast<int>(kv_heads);
  config.head_dim = static_cast<int>(head_dim);
  if (file.Has(key("rope.freq_base"))) {
    ASSIGN_OR_RETURN(config.rope_theta, file.GetFloat(key("rope.freq_base")));
  }
  if (file.Has(key("context_length"))) {
    ASSIGN_OR_RETURN(config.max_positions, file.GetInt(key("context_length")));
  }
  if (file.Has(key("rope.scaling.type"))) {
    ASSIGN_OR_RETURN(const std::string type, file.GetString(key("rope.scaling.type")));
    if (type == "linear") {
      config.rope_scaling.kind = RopeScaling::Kind::kLinear;
      ASSIGN_OR_RETURN(config.rope_scaling.factor, file.GetFloat(key("rope.scaling.factor")));
    } else if (type != "none") {
      return absl::UnimplementedError(absl::StrCat(place, ": key '", key("rope.scaling.type"),
                                                   "': expected none or linear, found ", type));
    }
  }
  config.tie_embeddings = file.Find("output.weight") == nullptr;
  const GgufTensor* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, ": tensor 'token_embd.weight': expected a matrix, found ",
                     embedding == nullptr ? "nothing" : "another rank"));
  }
  config.vocab_size = embedding->shape[0];
  if (file.Has("tokenizer.ggml.bos_token_id")) {
    ASSIGN_OR_RETURN(config.bos_token_id, file.GetInt("tokenizer.ggml.bos_token_id"));
  }
  if (file.Has("tokenizer.ggml.eos_token_id")) {
    ASSIGN_OR_RETURN(const int64_t eos, file.GetInt("tokenizer.ggml.eos_token_id"));
    config.eos_token_ids.push_back(eos);
  }
  if (file.Has("tokenizer.ggml.padding_token_id")) {
    ASSIGN_OR_RETURN(config.pad_token_id, file.GetInt("tokenizer.ggml.padding_token_id"));
  }
  RETURN_IF_ERROR(ValidateModelConfig(config, place));
  return config;
}

}  // namespace crescendo
