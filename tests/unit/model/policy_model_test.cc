// The whole policy: rollout path against learner path, gradients, weight swaps, files good and bad.
#include "common/model/policy_model.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/log_prob.h"
#include "common/model/packed_attention.h"
#include "common/model/paged_attention.h"
#include "common/model/paged_kv_cache.h"
#include "common/model/torch_guard.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

ModelConfig SmallConfig(Architecture architecture, bool tied = false) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 53, config.hidden_size = 40, config.layers = 2, config.query_heads = 4;
  config.kv_heads = 2, config.head_dim = 12, config.mlp_size = 56, config.rope_theta = 100.0;
  config.tie_embeddings = tied;
  config.qkv_bias = architecture == Architecture::kQwen2;
  config.qk_norm = architecture == Architecture::kQwen3;
  config.max_positions = 512;
  config.eos_token_ids = {2};
  return config;
}

std::unique_ptr<PolicyModel> Make(const ModelConfig& config, at::ScalarType dtype = at::kFloat) {
  auto model = PolicyModel::Init(config, 17, {dtype});
  REQUIRE(model.ok());
  // Biases and norms away from 0 and 1, so that they count.
  at::manual_seed(1);
  for (const NamedTensor& p : (*model)->parameters()) {
    if (p.tensor.dim() == 1) p.tensor.add_(at::randn_like(p.tensor) * 0.3);
  }
  return std::move(*model);
}

at::Tensor RandomTokens(int64_t n, int64_t vocab) {
  at::Tensor tokens = at::empty({n}, at::kLong);
  CounterRng rng(3);
  for (int64_t i = 0; i < n; ++i) {
    tokens.data_ptr<int64_t>()[i] = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

double MaxDiff(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

// Log-probabilities of each next token of one sequence, decoded through the paged cache in chunks.
at::Tensor PagedLogProbs(PolicyModel& model, const at::Tensor& tokens, int32_t chunk) {
  const auto n = static_cast<int32_t>(tokens.size(0));
  auto cache = PagedKvCache::Create(model.config(), n / 16 + 1, 16, model.dtype());
  REQUIRE(cache.ok());
  std::vector<int32_t> table;
  for (int32_t b = 0; b <= n / 16; ++b) table.push_back(n / 16 - b);
  PagedAttention attention(cache->get(), model.config().query_heads);
  std::vector<at::Tensor> out;
  for (int32_t done = 0; done + 1 < n; done += chunk) {
    const int32_t count = std::min(chunk, n - 1 - done);
    REQUIRE(attention.SetBatch({PagedSequence{table, done, count}}).ok());
    const at::Tensor hidden =
        model.Hidden(tokens.narrow(0, done, count), attention.Positions(), attention);
    out.push_back(
        TokenLogProb(hidden, model.head_weight(), tokens.narrow(0, done + 1, count), 1.0).log_prob);
  }
  return at::cat(out);
}

at::Tensor PackedLogProbs(PolicyModel& model, const at::Tensor& tokens,
                          const std::vector<int32_t>& bounds) {
  PackedAttention attention(bounds);
  const at::Tensor hidden = model.Hidden(tokens, attention.Positions(), attention);
  const at::Tensor targets = at::roll(tokens, -1).contiguous();
  return TokenLogProb(hidden, model.head_weight(), targets, 1.0).log_prob;
}

}  // namespace

TEST_CASE("rollout and learner agree on log-probabilities within 1e-5 in fp32") {
  for (const int threads : {1, 2}) {
    SetComputeThreads(threads);
    for (const Architecture a :
         {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3}) {
      const auto model = Make(SmallConfig(a, a == Architecture::kLlama));
      const at::Tensor tokens = RandomTokens(75, 53);
      model->SetRequiresGrad(true);
      const at::Tensor with_gradients = PackedLogProbs(*model, tokens, {0, 75}).detach();
      at::NoGradGuard no_grad;
      const at::Tensor without = PackedLogProbs(*model, tokens, {0, 75});
      CHECK(MaxDiff(with_gradients, without) < 1e-5);
      for (const int32_t chunk : {1, 7, 100}) {
        CHECK(MaxDiff(PagedLogProbs(*model, tokens, chunk), without.narrow(0, 0, 74)) < 1e-5);
      }
      // Packed with another sequence in front, it is the same.
      const at::Tensor both = at::cat({RandomTokens(31, 53), tokens});
      CHECK(MaxDiff(PackedLogProbs(*model, both, {0, 31, 106}).narrow(0, 31, 74),
                    without.narrow(0, 0, 74)) < 1e-5);
    }
  }
}

TEST_CASE("bf16: rollout and learner agree within bf16's rounding") {
  SetComputeThreads(2);
  const auto model = Make(SmallConfig(Architecture::kQwen2), at::kBFloat16);
  const at::Tensor tokens = RandomTokens(75, 53);
  at::NoGradGuard no_grad;
  const at::Tensor packed = PackedLogProbs(*model, tokens, {0, 75});
  CHECK(MaxDiff(PagedLogProbs(*model, tokens, 1), packed.narrow(0, 0, 74)) < 0.05);
}

// A shape whose matrices fit tile order.
ModelConfig TileConfig(Architecture architecture, bool tied) {
  ModelConfig config = SmallConfig(architecture, tied);
  config.vocab_size = 64, config.hidden_size = 64, config.head_dim = 16, config.mlp_size = 96;
  return config;
}

// Two ways to sum the same products differ by roundings of what they are of.
void CheckDecoding(const ModelConfig& config, at::ScalarType dtype, double tolerance) {
  const auto plain = Make(config, dtype);
  LoadOptions options;
  options.dtype = dtype;
  options.for_decoding = true;
  auto made = PolicyModel::Init(config, 99, options);
  REQUIRE(made.ok());
  PolicyModel& decoding = **made;
  if (!decoding.tile_order()) {
    WARN("this CPU has no product of this dtype in tile order: the policy is the plain one");
  }
  REQUIRE(decoding.LoadState(plain->State()).ok());
  auto cache = PagedKvCache::Create(config, 8, 16, dtype);
  REQUIRE(cache.ok());
  const std::vector<int32_t> table = {0, 1, 2, 3};
  const at::Tensor tokens = RandomTokens(37, config.vocab_size);
  const auto logits = [&](PolicyModel& model) {
    PagedAttention attention(cache->get(), config.query_heads);
    std::vector<at::Tensor> rows;
    for (const auto& [first, count] : std::vector<std::pair<int32_t, int32_t>>{{0, 33}, {33, 4}}) {
      REQUIRE(attention.SetBatch({PagedSequence{table, first, count}}).ok());
      const at::Tensor hidden =
          model.Hidden(tokens.narrow(0, first, count), attention.Positions(), attention);
      rows.push_back(model.Logits(hidden).clone());
    }
    return at::cat(rows);
  };
  const at::Tensor expected = logits(*plain);
  CHECK(MaxDiff(expected, logits(decoding)) < tolerance * expected.abs().max().item<double>());
}

TEST_CASE("a policy for decoding agrees with the learner's, also after a weight swap") {
  for (const Architecture architecture :
       {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3}) {
    for (const bool tied : {false, true}) {
      CheckDecoding(TileConfig(architecture, tied), at::kFloat, 1e-5);
      CheckDecoding(TileConfig(architecture, tied), at::kBFloat16, 0.03);
    }
  }
}

TEST_CASE(
    "a policy whose shape does not fit, or that is deterministic, is decoded in plain order") {
  LoadOptions options;
  options.for_decoding = true;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    options.dtype = dtype;
    options.deterministic = false;
    auto odd = PolicyModel::Init(SmallConfig(Architecture::kLlama, true), 1, options);
    REQUIRE(odd.ok());
    CHECK_FALSE((*odd)->tile_order());
    options.deterministic = true;
    auto fixed = PolicyModel::Init(TileConfig(Architecture::kLlama, true), 1, options);
    REQUIRE(fixed.ok());
    CHECK_FALSE((*fixed)->tile_order());
  }
}

TEST_CASE("gradients of every parameter equal finite differences") {
  SetComputeThreads(2);
  for (const Architecture a : {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3}) {
    const auto model = Make(SmallConfig(a, a == Architecture::kLlama));
    const at::Tensor tokens = RandomTokens(40, 53);
    const std::vector<int32_t> bounds = {0, 3, 21, 40};
    at::manual_seed(9);
    const at::Tensor weight = at::randn({40});
    const auto loss = [&] {
      return (PackedLogProbs(*model, tokens, bounds) * weight).to(at::kDouble).sum();
    };
    model->SetRequiresGrad(true);
    loss().backward();
    for (const NamedTensor& p : model->parameters()) {
      REQUIRE(p.tensor.grad().defined());
      CHECK(p.tensor.grad().sizes() == p.tensor.sizes());
      // The slope along a random direction, by central differences.
      const at::Tensor direction = at::randn_like(p.tensor.detach()) * p.tensor.detach().std();
      const double expected = (p.tensor.grad() * direction).to(at::kDouble).sum().item<double>();
      at::NoGradGuard no_grad;
      constexpr double kStep = 5e-3;
      const at::Tensor original = p.tensor.detach().clone();
      p.tensor.add_(direction, kStep);
      const double above = loss().item<double>();
      p.tensor.copy_(original).sub_(direction, kStep);
      const double below = loss().item<double>();
      p.tensor.copy_(original);
      INFO(p.name << " of " << ArchitectureName(a));
      CHECK((above - below) / (2 * kStep) == Approx(expected).epsilon(0.02).margin(0.05));
    }
  }
}

TEST_CASE("the initial weights are the demo's: scale by kind, the same for the same seed") {
  const ModelConfig config = SmallConfig(Architecture::kQwen2);
  const auto a = PolicyModel::Init(config, 5), b = PolicyModel::Init(config, 5),
             c = PolicyModel::Init(config, 6);
  REQUIRE((a.ok() && b.ok() && c.ok()));
  int64_t count = 0;
  for (size_t i = 0; i < (*a)->parameters().size(); ++i) {
    const NamedTensor& p = (*a)->parameters()[i];
    CHECK(at::equal(p.tensor, (*b)->parameters()[i].tensor));
    count += p.tensor.numel();
    if (p.tensor.dim() != 2) continue;
    CHECK(!at::equal(p.tensor, (*c)->parameters()[i].tensor));
    double expected = 1.0 / std::sqrt(static_cast<double>(p.tensor.size(1)));
    if (p.name.find("o_proj") != std::string::npos || p.name.find("down") != std::string::npos) {
      expected /= 2.0;  // sqrt(2 * 2 layers)
    }
    if (p.name.find("embed") != std::string::npos || p.name.find("head") != std::string::npos) {
      expected = 0.02;
    }
    INFO(p.name);
    CHECK(p.tensor.std().item<double>() == Approx(expected).epsilon(0.1));
  }
  CHECK(count == config.parameter_count());
  CHECK((*a)->weight_bytes() == count * 4);
}

TEST_CASE("a weight swap takes effect in place and refuses what does not fit, untouched") {
  const ModelConfig config = SmallConfig(Architecture::kQwen2);
  const auto model = Make(config);
  const auto other = std::move(PolicyModel::Init(config, 99)).value();
  const void* storage = model->parameters()[2].tensor.data_ptr();
  const at::Tensor tokens = RandomTokens(20, 53);
  at::NoGradGuard no_grad;
  const at::Tensor before = PackedLogProbs(*model, tokens, {0, 20});
  const auto refused = [&](const std::vector<TensorBytes>& state, const std::string& part) {
    const absl::Status status = model->LoadState(state);
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    INFO(status);
    CHECK(std::string(status.message()).find(part) != std::string::npos);
    CHECK(at::equal(PackedLogProbs(*model, tokens, {0, 20}), before));
  };
  const std::vector<TensorBytes> good = other->State();
  std::vector<TensorBytes> bad = good;
  bad.pop_back();
  refused(bad, "lm_head.weight");
  bad = good, bad.push_back(good[0]);
  refused(bad, "comes twice");
  bad = good, bad.push_back({"extra", "F32", {1}, "abcd"});
  refused(bad, "extra");
  bad = good, bad[3].shape[0] += 1;
  refused(bad, bad[3].name);
  bad = good, bad[3].bytes.remove_suffix(1);
  refused(bad, bad[3].name);
  bad = good, bad[3].dtype = "I32";
  refused(bad, "I32");

  REQUIRE(model->LoadState(good).ok());
  CHECK(model->parameters()[2].tensor.data_ptr() == storage);
  CHECK(
      at::equal(PackedLogProbs(*model, tokens, {0, 20}), PackedLogProbs(*other, tokens, {0, 20})));
  // Through bf16 and back: rounded as ATen rounds.
  const auto half = std::move(PolicyModel::Init(config, 1, {at::kBFloat16})).value();
  REQUIRE(half->CopyFrom(*other).ok());
  CHECK(at::equal(half->parameters()[1].tensor.to(at::kFloat),
                  other->parameters()[1].tensor.to(at::kBFloat16).to(at::kFloat)));
  REQUIRE(model->CopyFrom(*half).ok());
  CHECK(at::equal(model->parameters()[1].tensor, half->parameters()[1].tensor.to(at::kFloat)));
}

TEST_CASE("saved and loaded, a policy is the same; tied and untied, fp32 and bf16") {
  for (const bool tied : {false, true}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      TempDir dir;
      const auto model = Make(SmallConfig(Architecture::kQwen3, tied), dtype);
      REQUIRE(model->Save(*dir.files, dir / "m").ok());
      const auto again = PolicyModel::Load(*dir.files, dir / "m", {dtype});
      REQUIRE(again.ok());
      CHECK((*again)->config().eos_token_ids == model->config().eos_token_ids);
      REQUIRE((*again)->parameters().size() == model->parameters().size());
      for (size_t i = 0; i < model->parameters().size(); ++i) {
        CHECK((*again)->parameters()[i].name == model->parameters()[i].name);
        CHECK(at::equal((*again)->parameters()[i].tensor, model->parameters()[i].tensor));
      }
    }
  }
}

TEST_CASE("bad model folders are refused by file and tensor") {
  TempDir dir;
  const ModelConfig config = SmallConfig(Architecture::kQwen2);
  const auto model = Make(config);
  REQUIRE(model->Save(*dir.files, dir / "m").ok());
  const auto refused = [&](const std::string& part) {
    const auto loaded = PolicyModel::Load(*dir.files, dir / "m");
    REQUIRE(!loaded.ok());
    INFO(loaded.status());
    CHECK(std::string(loaded.status().message()).find(part) != std::string::npos);
  };
  const auto write_config = [&](const ModelConfig& changed) {
    REQUIRE(dir.files->WriteFile(dir / "m/config.json", WriteHfConfig(changed, "float32")).ok());
  };
  ModelConfig more_layers = config;
  more_layers.layers = 3;
  write_config(more_layers);
  refused("model.layers.2");
  ModelConfig absurd = config;  // 10^13 parameters: refused before memory is asked for
  absurd.vocab_size = 1 << 20, absurd.hidden_size = 1 << 17, absurd.layers = 1000;
  write_config(absurd);
  refused("model.embed_tokens.weight");
  ModelConfig wide = config;
  wide.mlp_size = 57;
  write_config(wide);
  refused("mlp.gate_proj.weight");
  write_config(config);
  auto bytes = dir.files->ReadFile(dir / "m/model.safetensors", 1 << 24);
  REQUIRE(bytes.ok());
  REQUIRE(
      dir.files->WriteFile(dir / "m/model.safetensors", bytes->substr(0, bytes->size() / 2)).ok());
  refused("model.safetensors");
  REQUIRE(dir.files->Remove(dir / "m/model.safetensors").ok());
  refused("model.safetensors");
  REQUIRE(dir.files->Remove(dir / "m/config.json").ok());
  refused("config.json");
  CHECK(!PolicyModel::Load(*dir.files, dir / "none.gguf").ok());
}

TEST_CASE("tokens and positions out of range are errors") {
  const auto model = Make(SmallConfig(Architecture::kLlama));
  PackedAttention attention(std::vector<int32_t>{0, 2});
  const auto status = [&](int64_t token, int64_t position) {
    return CatchTorch("hidden", [&] {
      model->Hidden(at::full({2}, token, at::kLong), at::full({2}, position, at::kLong), attention);
    });
  };
  CHECK(status(5, 7).ok());
  CHECK(std::string(status(53, 0).message()).find("vocabulary of 53") != std::string::npos);
  CHECK(!status(-1, 0).ok());
  CHECK(!status(0, -1).ok());
  CHECK(!status(0, int64_t{1} << 40).ok());
}

TEST_CASE("the real checkpoint of the shared data loads and continues its sequence") {
  const char* shared = std::getenv("CRESCENDO_SHARED_DATA");
  const std::string folder =
      std::string(shared != nullptr ? shared : "../shared/data") + "/models/arithmetic_sequence";
  const auto files = MakePosixFileSystem();
  if (!files->Exists(folder)) {
    WARN("no " << folder << ": not checked");
    return;
  }
  const auto model = PolicyModel::Load(*files, folder);
  REQUIRE(model.ok());
  CHECK((*model)->config().vocab_size == 16);
  CHECK((*model)->config().eos_token_ids == std::vector<int64_t>{1});
  at::NoGradGuard no_grad;
  const at::Tensor tokens = RandomTokens(12, 16);
  CHECK(PackedLogProbs(**model, tokens, {0, 12}).isfinite().all().item<bool>());
}

}  // namespace crescendo
