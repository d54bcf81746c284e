// Low-rank adapters: the policy holds the merged weights, gradients reach A and B, the rest stays.
#include "services/learner/lora.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/model/log_prob.h"
#include "common/model/packed_attention.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/learner/tiny_policy.h"

namespace crescendo {
namespace {

ModelConfig SmallConfig() {
  ModelConfig config = TinyConfig();
  config.vocab_size = 31;
  config.hidden_size = 32;
  config.head_dim = 8;
  config.mlp_size = 48;
  return config;
}

struct Fixture {
  std::unique_ptr<PolicyModel> base, policy;
  std::unique_ptr<Lora> lora;

  explicit Fixture(const std::string& targets) {
    base = *PolicyModel::Init(SmallConfig(), 3);
    policy = *PolicyModel::Init(SmallConfig(), 3);
    auto made =
        Lora::Create({.rank = 3, .alpha = 12, .targets = targets, .seed = 4}, *base, policy.get());
    REQUIRE(made.ok());
    lora = *std::move(made);
  }
  // B of a size at which everything matters.
  void FillB() const {
    const at::NoGradGuard no_grad;
    at::manual_seed(9);
    for (const NamedTensor& p : lora->parameters()) {
      if (absl::StrContains(p.name, "lora_B")) p.tensor.normal_(0, 0.2);
    }
    lora->Merge();
  }
  at::Tensor Loss() const {
    at::manual_seed(7);
    PackedAttention attention({0, 12, 30});
    const at::Tensor tokens = at::randint(31, {30}, at::kLong);
    const at::Tensor hidden = policy->Hidden(tokens, attention.Positions(), attention);
    return TokenLogProb(hidden, policy->head_weight(), tokens.roll(-1), 1.0).log_prob.sum();
  }
};

TEST_CASE("Adapters begin as the base, and are merged into exactly the weights they name") {
  const Fixture f("q_proj,down_proj");
  CHECK(f.lora->parameters().size() == 2 * 2 * 2);
  f.lora->Merge();
  for (size_t i = 0; i < f.base->parameters().size(); ++i) {
    CHECK(at::equal(f.base->parameters()[i].tensor, f.policy->parameters()[i].tensor));
  }
  f.FillB();
  size_t adapter = 0;
  for (size_t i = 0; i < f.base->parameters().size(); ++i) {
    const NamedTensor& p = f.policy->parameters()[i];
    const at::Tensor w0 = f.base->parameters()[i].tensor;
    INFO(p.name);
    const bool target =
        absl::EndsWith(p.name, "q_proj.weight") || absl::EndsWith(p.name, "down_proj.weight");
    CHECK(p.tensor.requires_grad() == target);
    if (!target) {
      CHECK(at::equal(w0, p.tensor));
      continue;
    }
    const NamedTensor& a = f.lora->parameters()[adapter++];
    const NamedTensor& b = f.lora->parameters()[adapter++];
    CHECK(a.name == "base_model.model." + p.name.substr(0, p.name.size() - 7) + ".lora_A.weight");
    const at::Tensor expected =
        w0.to(at::kDouble) +
        4.0 * at::mm(b.tensor.detach().to(at::kDouble), a.tensor.detach().to(at::kDouble));
    CHECK((expected - p.tensor.detach()).abs().max().item<double>() < 1e-6);
  }
}

TEST_CASE("Gradients of A and B pass finite differences; the policy's own are taken away") {
  const Fixture f("q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj");
  f.FillB();
  f.Loss().backward();
  f.Loss().backward();  // adds up
  for (const NamedTensor& p : f.policy->parameters()) CHECK_FALSE(p.tensor.grad().defined());
  for (const NamedTensor& p : f.lora->parameters()) {
    INFO(p.name);
    REQUIRE(p.tensor.grad().defined());
    const at::NoGradGuard no_grad;
    at::Tensor direction = at::randn_like(p.tensor);
    direction.div_(direction.norm());
    const at::Tensor kept = p.tensor.detach().clone();
    const at::Tensor leaf = p.tensor.detach();
    const double h = 2e-3;
    const auto loss_at = [&](double step) {
      leaf.copy_(kept).add_(direction, step);
      f.lora->Merge();
      return f.Loss().item<double>();
    };
    const double slope = (loss_at(h) - loss_at(-h)) / (2 * h);
    loss_at(0);
    const double expected = (p.tensor.grad() * direction).sum().item<double>() / 2;
    CHECK(slope == Approx(expected).epsilon(0.02).margin(5e-3));
  }
}

TEST_CASE("An unknown target and a rank beyond a weight are refused, naming the key") {
  auto base = *PolicyModel::Init(SmallConfig(), 3);
  auto policy = *PolicyModel::Init(SmallConfig(), 3);
  const auto error = [&](int rank, const std::string& targets) {
    return std::string(
        Lora::Create({.rank = rank, .targets = targets}, *base, policy.get()).status().message());
  };
  CHECK(absl::StrContains(error(2, "q_proj,lm_head"), "policy.lora_targets"));
  CHECK(absl::StrContains(error(2, ""), "policy.lora_targets"));
  CHECK(absl::StrContains(error(33, "q_proj"), "policy.lora_rank"));
}

TEST_CASE("An adapter is saved under PEFT's names") {
  const Fixture f("v_proj");
  f.FillB();
  TempDir dir;
  REQUIRE(f.lora->Save(*dir.files, dir / "adapter", "base").ok());
  const auto text = dir.files->ReadFile(dir / "adapter/adapter_config.json", 1 << 20);
  REQUIRE(text.ok());
  const nlohmann::json config = nlohmann::json::parse(*text);
  CHECK(config["r"] == 3);
  CHECK(config["lora_alpha"] == 12);
  CHECK(config["target_modules"] == nlohmann::json{"v_proj"});
  CHECK(dir.files->Exists(dir / "adapter/adapter_model.safetensors"));
}

}  // namespace
}  // namespace crescendo
