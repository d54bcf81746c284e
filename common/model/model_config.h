// The shape of a policy: what config.json (Hugging Face) or a GGUF's metadata says of it, checked.
//
// A ModelConfig that a parser here returned is valid: its sizes are positive and bounded, heads
// divide, and the architecture is one that PolicyModel knows. No LibTorch. Plain values;
// thread-safe.
#ifndef CRESCENDO_COMMON_MODEL_MODEL_CONFIG_H_
#define CRESCENDO_COMMON_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace crescendo {

enum class Architecture { kLlama, kQwen2, kQwen3 };

// "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM".
absl::string_view ArchitectureName(Architecture architecture);

// Frequencies below a wavelength stay, long ones are divided by `factor`, smoothly between ("The
// Llama 3 Herd of Models", section 3.4.1; Hugging Face's rope_type "llama3"). kLinear divides all.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 8192;
};

// The frequency that RoPE uses in place of `frequency` (radians a position).
double ScaledRopeFrequency(double frequency, const RopeScaling& scaling);

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;  // divides query_heads
  int head_dim = 0;  // even; query_heads * head_dim need not be hidden_size
  int64_t mlp_size = 0;
  double norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_embeddings = false;
  bool qkv_bias = false;
  bool qk_norm = false;
  int64_t max_positions = 2048;
  // -1: the model has none.
  int64_t bos_token_id = -1;
  // Each ends a completion; generation_config.json wins over config.json.
  std::vector<int64_t> eos_token_ids;
  int64_t pad_token_id = -1;

  int64_t query_size() const { return int64_t{query_heads} * head_dim; }
  int64_t kv_size() const { return int64_t{kv_heads} * head_dim; }
  // What all parameters sum up to, a tied head counted once.
  int64_t parameter_count() const;
  // Bytes of keys and values that one token holds over all layers.
  int64_t kv_bytes_per_token(int bytes_per_element) const {
    return 2 * int64_t{layers} * kv_size() * bytes_per_element;
  }
};

// INVALID_ARGUMENT names `place` (the file), the field, what was expected and what was found.
absl::Status ValidateModelConfig(const ModelConfig& config, absl::string_view place);

// From the text of config.json and, when there is one, of generation_config.json. `place` is the
// folder, for messages. UNIMPLEMENTED for an architecture, activation or rope type that is not
// known; INVALID_ARGUMENT for bad fields.
absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view config_json,
                                          std::optional<absl::string_view> generation_config_json,
                                          absl::string_view place);

// config.json and generation_config.json that `transformers` loads unchanged. `torch_dtype` is
// "float32" or "bfloat16".
std::string WriteHfConfig(const ModelConfig& config, absl::string_view torch_dtype);
std::string WriteHfGenerationConfig(const ModelConfig& config);

class GgufFile;
// From a GGUF's metadata (llama, qwen2 and qwen3 architectures). Tied embeddings: no output.weight.
absl::StatusOr<ModelConfig> ParseGgufConfig(const GgufFile& file, absl::string_view place);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_MODEL_CONFIG_H_
