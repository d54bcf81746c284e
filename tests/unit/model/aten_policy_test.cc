// The policy in ATen's operations, which is what runs on a CUDA device, here on the CPU: the same
// hidden states, log-probs, entropies and gradients as the CPU's kernels give.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/model/log_prob.h"
#include "common/model/packed_attention.h"
#include "common/model/policy_model.h"

namespace crescendo {
namespace {

constexpr int kVocab = 31;

ModelConfig SmallConfig(Architecture architecture, bool tied) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = kVocab;
  config.hidden_size = 32;
  config.layers = 3;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.mlp_size = 48;
  config.rope_theta = 100;
  config.qkv_bias = architecture == Architecture::kQwen2;
  config.qk_norm = architecture == Architecture::kQwen3;
  config.tie_embeddings = tied;
  config.max_positions = 512;
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
  return config;
}

// An empty sequence, one of a token, and one of more than a block of queries.
const std::vector<int32_t> kBounds = {0, 20, 20, 21, 54, 340};

std::unique_ptr<PolicyModel> Make(const ModelConfig& config, bool aten,
                                  at::ScalarType dtype = at::kFloat) {
  auto model = PolicyModel::Init(config, 3, {.dtype = dtype, .aten = aten});
  REQUIRE(model.ok());
  REQUIRE((*model)->aten() == aten);
  // Norms of 1 and biases of 0 would hide what they do.
  at::manual_seed(7);
  for (const NamedTensor& p : (*model)->parameters()) {
    if (p.tensor.dim() == 1) p.tensor.add_(at::randn(p.tensor.sizes()).to(dtype), 0.2);
  }
  (*model)->SetRequiresGrad(true);
  return *std::move(model);
}

struct Pass {
  at::Tensor hidden, log_prob, entropy;
  std::vector<at::Tensor> gradients;  // of the parameters, in order
};

at::Tensor Tokens() {
  at::manual_seed(11);
  return at::randint(kVocab, {kBounds.back()}, at::kLong);
}

// The gradients of sum of slopes x log-probs + bonus x entropies.
Pass Run(PolicyModel& model, bool graph, double bonus) {
  const PackedAttention positions(kBounds);
  PackedAttention attention(kBounds, false, model.aten());
  const at::Tensor tokens = Tokens();
  const at::Tensor targets = tokens.roll(-1);
  const at::Tensor slopes = at::randn({tokens.size(0)});
  const at::Tensor hidden = model.Hidden(tokens, positions.Positions(), attention);
  Pass pass;
  pass.hidden = hidden.detach().clone();
  TokenLogProbs out;
  if (graph) {
    out = TokenLogProb(hidden, model.head_weight(), targets, 0.7, true, false, model.aten());
    ((out.log_prob * slopes).sum() + bonus * out.entropy.sum()).backward();
  } else {
    const at::NoGradGuard no_grad;
    const at::Tensor d_hidden = at::empty_like(hidden);
    const auto rows = [&](int64_t begin, int64_t end, const float*, const float*, float* d,
                          float* d_entropy) {
      for (int64_t t = begin; t < end; ++t) {
        d[t - begin] = slopes.data_ptr<float>()[t];
        d_entropy[t - begin] = static_cast<float>(bonus);
      }
    };
    out = TokenLogProbBackward(hidden.detach(), model.head_weight(), targets, 0.7, true, false,
                               rows, d_hidden, model.aten());
    hidden.backward(d_hidden);
  }
  pass.log_prob = out.log_prob.detach().clone();
  pass.entropy = out.entropy.detach().clone();
  for (const NamedTensor& p : model.parameters()) {
    REQUIRE(p.tensor.grad().defined());
    pass.gradients.push_back(p.tensor.grad().clone());
    p.tensor.mutable_grad().reset();
  }
  return pass;
}

// The largest difference relative to the largest value.
double Difference(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  const double size = b.to(at::kDouble).abs().max().item<double>();
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>() / std::max(1e-3, size);
}

void CheckSame(const PolicyModel& model, const Pass& aten, const Pass& kernels, double margin) {
  CHECK(Difference(aten.hidden, kernels.hidden) < margin);
  CHECK(Difference(aten.log_prob, kernels.log_prob) < margin);
  CHECK(Difference(aten.entropy, kernels.entropy) < margin);
  for (size_t i = 0; i < kernels.gradients.size(); ++i) {
    INFO(model.parameters()[i].name);
    CHECK(aten.gradients[i].scalar_type() == kernels.gradients[i].scalar_type());
    CHECK(Difference(aten.gradients[i], kernels.gradients[i]) < margin);
  }
}

TEST_CASE("ATen's operations give what the kernels give, for every architecture") {
  const auto architecture =
      GENERATE(Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3);
  const bool tied = GENERATE(false, true);
  const bool graph = GENERATE(false, true);
  const double bonus = GENERATE(0.0, 0.3);
  const ModelConfig config = SmallConfig(architecture, tied);
  const auto aten = Make(config, true), kernels = Make(config, false);
  const Pass expected = Run(*kernels, graph, bonus);
  CheckSame(*kernels, Run(*aten, graph, bonus), expected, 1e-5);
  aten->SetRecomputeLayers(-1);
  CheckSame(*kernels, Run(*aten, graph, bonus), expected, 1e-5);
}

TEST_CASE("In bf16 ATen's operations round where the kernels round") {
  const auto architecture =
      GENERATE(Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3);
  const ModelConfig config = SmallConfig(architecture, false);
  const auto aten = Make(config, true, at::kBFloat16);
  const auto kernels = Make(config, false, at::kBFloat16);
  CheckSame(*kernels, Run(*aten, false, 0.3), Run(*kernels, false, 0.3), 0.03);
}

TEST_CASE("A pass without gradients has the bits of one with them, and takes a layer's memory") {
  const ModelConfig config = SmallConfig(Architecture::kQwen2, false);
  const auto aten = Make(config, true);
  PackedAttention attention(kBounds, false, true);
  const at::Tensor positions = PackedAttention(kBounds).Positions();
  at::Tensor evaluated;
  {
    const at::NoGradGuard no_grad;
    evaluated = aten->Hidden(Tokens(), positions, attention).clone();
  }
  const int64_t bytes = aten->scratch_bytes();
  const at::Tensor hidden = aten->Hidden(Tokens(), positions, attention);
  CHECK(at::equal(evaluated, hidden.detach()));
  CHECK(aten->scratch_bytes() - bytes > 2 * bytes);
}

TEST_CASE("Log-probs over more rows than a chunk takes are those of the kernels") {
  constexpr int64_t kRows = 130, kLargeVocab = 140000;  // chunks of 64 rows
  at::manual_seed(5);
  const at::Tensor hidden = at::randn({kRows, 8});
  const at::Tensor targets = at::randint(kLargeVocab, {kRows}, at::kLong);
  at::Tensor d_hidden[2], gradients[2];
  TokenLogProbs out[2];
  std::vector<int64_t> begins;
  for (const bool aten : {false, true}) {
    at::manual_seed(6);
    const at::Tensor head = at::randn({kLargeVocab, 8}).requires_grad_(true);
    const at::NoGradGuard no_grad;
    d_hidden[aten] = at::empty_like(hidden);
    begins.clear();
    out[aten] = TokenLogProbBackward(
        hidden, head, targets, 1.0, true, false,
        [&](int64_t begin, int64_t end, const float* log_prob, const float* entropy, float* d,
            float* d_entropy) {
          begins.push_back(begin);
          for (int64_t i = 0; i < end - begin; ++i) {
            d[i] = 0.1f * log_prob[i];
            d_entropy[i] = 0.01f * entropy[i];
          }
        },
        d_hidden[aten], aten);
    gradients[aten] = head.grad();
  }
  CHECK(begins == std::vector<int64_t>{0, 64, 128});
  CHECK(Difference(out[1].log_prob, out[0].log_prob) < 1e-5);
  CHECK(Difference(out[1].entropy, out[0].entropy) < 1e-5);
  CHECK(Difference(d_hidden[1], d_hidden[0]) < 1e-5);
  CHECK(Difference(gradients[1], gradients[0]) < 1e-5);
}

}  // namespace
}  // namespace crescendo
