// The learner's pass through the layers: recomputing layers changes memory and nothing else, and
// gradients are made for the weights that want one, as often as they are asked for.
#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/model/log_prob.h"
#include "common/model/packed_attention.h"
#include "common/model/policy_model.h"

namespace crescendo {
namespace {

ModelConfig SmallConfig(Architecture architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 31;
  config.hidden_size = 32;
  config.layers = 4;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.mlp_size = 48;
  config.rope_theta = 100;
  config.qkv_bias = architecture == Architecture::kQwen2;
  config.qk_norm = architecture == Architecture::kQwen3;
  config.tie_embeddings = architecture == Architecture::kLlama;
  config.max_positions = 64;
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
  return config;
}

const std::vector<int32_t> kBounds = {0, 20, 33, 70};

void ForwardAndBackward(PolicyModel& model, uint64_t seed) {
  at::manual_seed(seed);
  PackedAttention attention(kBounds);
  const at::Tensor tokens = at::randint(31, {kBounds.back()}, at::kLong);
  const at::Tensor hidden = model.Hidden(tokens, attention.Positions(), attention);
  TokenLogProb(hidden, model.head_weight(), tokens.roll(-1), 1.0).log_prob.sum().backward();
}

std::vector<at::Tensor> Gradients(PolicyModel& model) {
  std::vector<at::Tensor> out;
  for (const NamedTensor& p : model.parameters()) {
    out.push_back(p.tensor.grad().defined() ? p.tensor.grad().clone() : at::Tensor());
    p.tensor.mutable_grad().reset();
  }
  return out;
}

TEST_CASE("Recomputed layers give the same gradients, bit by bit, from less memory") {
  const Architecture architecture =
      GENERATE(Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3);
  const at::ScalarType dtype = GENERATE(at::kFloat, at::kBFloat16);
  std::vector<std::vector<at::Tensor>> gradients;
  std::vector<int64_t> bytes;
  for (const int layers : {0, 2, 4, -1}) {
    auto model = PolicyModel::Init(SmallConfig(architecture), 3, {.dtype = dtype});
    REQUIRE(model.ok());
    (*model)->SetRequiresGrad(true);
    (*model)->SetRecomputeLayers(layers);
    ForwardAndBackward(**model, 1);
    ForwardAndBackward(**model, 2);  // adds to the first
    gradients.push_back(Gradients(**model));
    bytes.push_back((*model)->scratch_bytes());
  }
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    REQUIRE(gradients[0][i].defined());
    if (i + 1 < gradients[0].size()) CHECK(gradients[0][i].scalar_type() == at::kFloat);
    for (size_t k = 1; k < gradients.size(); ++k) {
      CHECK(at::equal(gradients[0][i], gradients[k][i]));
    }
  }
  CHECK(bytes[1] < bytes[0]);
  CHECK(bytes[2] < bytes[1]);
  CHECK(bytes[3] == bytes[2]);
}

TEST_CASE("Gradients go to the weights that want one, layer by layer, and add up over passes") {
  auto model = PolicyModel::Init(SmallConfig(Architecture::kQwen2), 3);
  REQUIRE(model.ok());
  (*model)->SetRequiresGrad(true);
  ForwardAndBackward(**model, 1);
  const std::vector<at::Tensor> all = Gradients(**model);
  (*model)->SetRequiresGrad(false);
  const auto wanted = [](const std::string& name) {
    return name.find("layers.2.self_attn.k_proj.weight") != std::string::npos ||
           name.find("down_proj") != std::string::npos;
  };
  for (const NamedTensor& p : (*model)->parameters()) p.tensor.requires_grad_(wanted(p.name));
  std::vector<int> calls;
  (*model)->SetAfterLayer([&](int layer) { calls.push_back(layer); });
  ForwardAndBackward(**model, 1);
  CHECK(calls == std::vector<int>{3, 2, 1, 0, -1});
  ForwardAndBackward(**model, 1);
  const std::vector<at::Tensor> some = Gradients(**model);
  for (size_t i = 0; i < all.size(); ++i) {
    const std::string& name = (*model)->parameters()[i].name;
    INFO(name);
    REQUIRE(some[i].defined() == wanted(name));
    if (some[i].defined()) {
      CHECK((some[i] - 2 * all[i]).abs().max().item<float>() <=
            1e-5f * all[i].abs().max().item<float>());
    }
  }
}

TEST_CASE("Two passes may wait for their backward passes at once; one runs only once") {
  auto model = PolicyModel::Init(SmallConfig(Architecture::kLlama), 3);
  REQUIRE(model.ok());
  (*model)->SetRequiresGrad(true);
  PackedAttention attention(kBounds);
  at::manual_seed(5);
  const at::Tensor a = at::randint(31, {kBounds.back()}, at::kLong);
  const at::Tensor b = at::randint(31, {kBounds.back()}, at::kLong);
  const auto run = [&](const at::Tensor& tokens) {
    return (*model)->Hidden(tokens, attention.Positions(), attention);
  };
  run(a).sum().backward();
  run(b).sum().backward();
  const std::vector<at::Tensor> apart = Gradients(**model);
  const at::Tensor first = run(a);
  const at::Tensor second = run(b);
  first.sum().backward();
  second.sum().backward();
  const std::vector<at::Tensor> together = Gradients(**model);
  for (size_t i = 0; i < apart.size(); ++i) CHECK(at::equal(apart[i], together[i]));
  CHECK_THROWS(first.sum().backward());
}

}  // namespace
}  // namespace crescendo
