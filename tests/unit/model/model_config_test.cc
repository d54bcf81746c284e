// config.json: what is read, what is written back, and what is refused by file and field.
#include "common/model/model_config.h"

#include <string>
#include <utility>
#include <vector>

#include "catch2/catch.hpp"

namespace crescendo {
namespace {

std::string Config(const std::string& changes = "") {
  return R"({"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536,
    "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 10000,
    "max_position_embeddings": 131072, "bos_token_id": 151646, "eos_token_id": 151643)" +
         changes + "}";
}

// The value of `field` replaced (or the field added).
std::string With(const std::string& field, const std::string& value) {
  std::string text = Config();
  const size_t at = text.find("\"" + field + "\":");
  if (at == std::string::npos) return Config(", \"" + field + "\": " + value);
  const size_t colon = text.find(':', at);
  const size_t end = text.find_first_of(",}", colon);
  return text.replace(colon + 1, end - colon - 1, " " + value);
}

}  // namespace

TEST_CASE("a Qwen2 configuration is read with its defaults") {
  const auto config = ParseHfConfig(Config(), std::nullopt, "model");
  REQUIRE(config.ok());
  CHECK(config->architecture == Architecture::kQwen2);
  CHECK(config->head_dim == 128);
  CHECK(config->qkv_bias);
  CHECK(!config->qk_norm);
  CHECK(!config->tie_embeddings);
  CHECK(config->eos_token_ids == std::vector<int64_t>{151643});
  CHECK(config->parameter_count() == 1777088000);
  CHECK(config->kv_bytes_per_token(2) == 28672);
}

TEST_CASE("generation_config.json wins where it names the stop tokens") {
  const auto config = ParseHfConfig(Config(), R"({"eos_token_id": [5, 7]})", "model");
  REQUIRE(config.ok());
  CHECK(config->eos_token_ids == std::vector<int64_t>{5, 7});
  CHECK(config->bos_token_id == 151646);
}

TEST_CASE("what is written is read back the same") {
  ModelConfig config;
  config.architecture = Architecture::kQwen3;
  config.vocab_size = 47, config.hidden_size = 96, config.layers = 3, config.query_heads = 4;
  config.kv_heads = 2, config.head_dim = 24, config.mlp_size = 192, config.qk_norm = true;
  config.rope_theta = 100.0, config.tie_embeddings = true, config.max_positions = 512;
  config.eos_token_ids = {1, 2}, config.bos_token_id = 0;
  config.rope_scaling = {RopeScaling::Kind::kLlama3, 8.0, 1.0, 4.0, 8192};
  const std::string text = WriteHfConfig(config, "float32");
  const std::string generation = WriteHfGenerationConfig(config);
  const auto again = ParseHfConfig(text, generation, "model");
  REQUIRE(again.ok());
  CHECK(WriteHfConfig(*again, "float32") == text);
  CHECK(again->eos_token_ids == config.eos_token_ids);
  CHECK(again->rope_scaling.kind == RopeScaling::Kind::kLlama3);
  CHECK(again->rope_scaling.original_max_positions == 8192);
  CHECK(again->head_dim == 24);
  CHECK(again->parameter_count() == config.parameter_count());
}

TEST_CASE("bad fields are refused with file and field") {
  const std::pair<std::string, std::string> cases[] = {
      {"vocab_size", "0"},
      {"vocab_size", "9223372036854775808"},
      {"vocab_size", "\"many\""},
      {"hidden_size", "-5"},
      {"hidden_size", "1e300"},
      {"num_hidden_layers", "1000000"},
      {"num_attention_heads", "0"},
      {"num_key_value_heads", "5"},
      {"num_key_value_heads", "13"},
      {"head_dim", "127"},
      {"head_dim", "0"},
      {"intermediate_size", "null"},
      {"rms_norm_eps", "0"},
      {"rope_theta", "-1"},
      {"rope_scaling", "5"},
      {"rope_scaling", "{\"rope_type\": \"llama3\"}"},
      {"rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4.0}"},
      {"eos_token_id", "151936"},
      {"eos_token_id", "\"</s>\""},
      {"model_type", "\"mamba\""},
      {"hidden_act", "\"gelu\""},
      {"use_sliding_window", "true"},
      {"tie_word_embeddings", "1"},
  };
  for (const auto& [field, value] : cases) {
    const auto config = ParseHfConfig(With(field, value), std::nullopt, "some/model");
    INFO(field << " = " << value);
    REQUIRE(!config.ok());
    const std::string message(config.status().message());
    CHECK(message.find("some/model/config.json") != std::string::npos);
    CHECK(message.find(value.find("rope_type") == std::string::npos ? field : "rope_scaling") !=
          std::string::npos);
  }
  for (const char* text : {"", "[]", "{", "{\"model_type\": 5}", "null"}) {
    CHECK(!ParseHfConfig(text, std::nullopt, "m").ok());
  }
  CHECK(!ParseHfConfig(Config(), "{\"eos_token_id\": [1, \"x\"]}", "m").ok());
}

}  // namespace crescendo
