// A policy to GGUF and back: the same weights, types as asked for, bad files refused by tensor.
#include "common/model/model_gguf.h"

#include <ATen/ATen.h>

#include <string>

#include "catch2/catch.hpp"
#include "common/formats/gguf.h"
#include "common/model/policy_model.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

ModelConfig Config(Architecture architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 70, config.hidden_size = 64, config.layers = 2, config.query_heads = 4;
  config.kv_heads = 2, config.head_dim = 24, config.mlp_size = 96, config.max_positions = 512;
  config.tie_embeddings = architecture == Architecture::kQwen3;
  config.qkv_bias = architecture == Architecture::kQwen2;
  config.qk_norm = architecture == Architecture::kQwen3;
  config.bos_token_id = 3, config.eos_token_ids = {2}, config.pad_token_id = 4;
  return config;
}

// Within `tolerance` of the largest value of each tensor.
void CheckSame(const PolicyModel& a, const PolicyModel& b, double tolerance) {
  REQUIRE(a.parameters().size() == b.parameters().size());
  for (size_t i = 0; i < a.parameters().size(); ++i) {
    const at::Tensor &x = a.parameters()[i].tensor, &y = b.parameters()[i].tensor;
    INFO(a.parameters()[i].name);
    CHECK(a.parameters()[i].name == b.parameters()[i].name);
    CHECK((x - y).abs().max().item<double>() <= tolerance * x.abs().max().item<double>());
  }
}

}  // namespace

TEST_CASE("every architecture goes to GGUF and back, with the rows of q and k in their places") {
  for (const Architecture a : {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3}) {
    TempDir dir;
    ModelConfig config = Config(a);
    if (a == Architecture::kLlama) {
      config.rope_theta = 5e5;
      config.rope_scaling = {RopeScaling::Kind::kLlama3, 8.0, 1.0, 4.0, 8192};
    } else if (a == Architecture::kQwen2) {
      config.rope_scaling.kind = RopeScaling::Kind::kLinear;
      config.rope_scaling.factor = 2.0;
    }
    auto model = PolicyModel::Init(config, 3);
    REQUIRE(model.ok());
    const std::pair<GgmlType, double> types[] = {{GgmlType::kF32, 0.0},
                                                 {GgmlType::kF16, 1e-3},
                                                 {GgmlType::kQ8_0, 6e-3},
                                                 {GgmlType::kQ4_0, 0.13}};
    for (const auto& [type, tolerance] : types) {
      REQUIRE(SaveGguf(*dir.files, dir / "m.gguf", **model, type).ok());
      auto again = PolicyModel::Load(*dir.files, dir / "m.gguf");
      INFO(again.status());
      REQUIRE(again.ok());
      CheckSame(**model, **again, tolerance);
      const ModelConfig& read = (*again)->config();
      CHECK(WriteHfConfig(read, "float32").size() > 0);
      CHECK(read.tie_embeddings == config.tie_embeddings);
      CHECK(read.rope_scaling.kind == config.rope_scaling.kind);
      CHECK(read.rope_scaling.factor == config.rope_scaling.factor);
      CHECK(read.rope_theta == config.rope_theta);
      CHECK(read.norm_eps == Approx(config.norm_eps));
      CHECK(read.bos_token_id == 3);
      CHECK(read.eos_token_ids == config.eos_token_ids);
    }
  }
}

TEST_CASE("llama.cpp's order: rows of q are interleaved in the file, those of v are not") {
  TempDir dir;
  auto model = PolicyModel::Init(Config(Architecture::kLlama), 3);
  REQUIRE(model.ok());
  REQUIRE(SaveGguf(*dir.files, dir / "m.gguf", **model, GgmlType::kF32).ok());
  const auto file = GgufFile::Open(*dir.files, dir / "m.gguf");
  REQUIRE(file.ok());
  const auto row = [&](const char* name, int64_t index) {
    const GgufTensor* tensor = (*file)->Find(name);
    REQUIRE(tensor != nullptr);
    std::vector<float> values(static_cast<size_t>(tensor->elements()));
    REQUIRE(Dequantize(*tensor, absl::MakeSpan(values)).ok());
    return values[static_cast<size_t>(index * tensor->shape[1])];
  };
  const auto original = [&](const std::string& name, int64_t index) {
    for (const NamedTensor& p : (*model)->parameters()) {
      if (p.name == name) return p.tensor[index][0].item<float>();
    }
    return -1.0f;
  };
  // Head 1 (rows 24-47), half 12: the file's rows 0, 1, 2, 3 are the model's 0, 12, 1, 13.
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  for (const auto& [in_file, in_model] :
       {std::pair<int, int>{24, 24}, {25, 36}, {26, 25}, {27, 37}}) {
    CHECK(row("blk.1.attn_q.weight", in_file) == original(q, in_model));
    CHECK(row("blk.1.attn_v.weight", in_file) ==
          original("model.layers.1.self_attn.v_proj.weight", in_file));
  }
}

TEST_CASE("bad GGUF models are refused by file and tensor") {
  TempDir dir;
  auto model = PolicyModel::Init(Config(Architecture::kQwen2), 3);
  REQUIRE(model.ok());
  REQUIRE(SaveGguf(*dir.files, dir / "m.gguf", **model, GgmlType::kF16).ok());
  const auto bytes = dir.files->ReadFile(dir / "m.gguf", 1 << 24);
  REQUIRE(bytes.ok());
  const auto refused = [&](const std::string& contents, const std::string& part) {
    REQUIRE(dir.files->WriteFile(dir / "bad.gguf", contents).ok());
    const auto loaded = PolicyModel::Load(*dir.files, dir / "bad.gguf");
    REQUIRE(!loaded.ok());
    INFO(loaded.status());
    CHECK(std::string(loaded.status().message()).find("bad.gguf") != std::string::npos);
    CHECK(std::string(loaded.status().message()).find(part) != std::string::npos);
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string out = *bytes;
    size_t at = out.find(from);
    REQUIRE(at != std::string::npos);
    for (; at != std::string::npos; at = out.find(from, at + to.size())) {
      out.replace(at, from.size(), to);
    }
    return out;
  };
  refused(replaced("blk.1.ffn_up.weight", "blk.1.ffn_uq.weight"), "blk.1.ffn_up.weight");
  refused(replaced("qwen2", "mamba"), "general.architecture");
  refused(replaced("block_count", "block_xount"), "block_count");
  refused(bytes->substr(0, bytes->size() - 100), "");
  refused(bytes->substr(0, 40), "");
  // Five layers where there are two.
  std::string more = *bytes;
  const size_t at = more.find("qwen2.block_count") + 17 + 4;
  REQUIRE(more[at] == 2);
  more[at] = 5;
  refused(more, "blk.2.attn_norm.weight");
  CHECK(!SaveGguf(*dir.files, dir / "x.gguf", **model, GgmlType::kQ6_K).ok());
}

}  // namespace crescendo
