// Deterministic mode: the same tokens and the same bits of their log-probabilities for a prompt
// alone, in a crowd, after preemption and a resume, with 1 and 2 threads, and in the learner's
// pass.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/log_prob.h"
#include "common/model/packed_attention.h"
#include "common/model/policy_model.h"
#include "common/model/torch_guard.h"
#include "services/rollout/engine.h"
#include "services/rollout/torch_model_runner.h"

namespace crescendo {
namespace {

constexpr int kVocab = 301;

struct Drawn {
  std::vector<int32_t> tokens;
  std::vector<float> log_probs;
};
using Key = std::pair<uint64_t, uint32_t>;

struct Variant {
  Architecture architecture;
  int head_dim;
  at::ScalarType dtype;
};

std::unique_ptr<PolicyModel> Model(const Variant& variant, bool deterministic = true) {
  ModelConfig config;
  config.architecture = variant.architecture;
  config.vocab_size = kVocab;
  config.hidden_size = 96;
  config.layers = 3;
  config.query_heads = 6;
  config.kv_heads = 2;
  config.head_dim = variant.head_dim;
  config.mlp_size = 200;
  config.qkv_bias = variant.architecture == Architecture::kQwen2;
  config.qk_norm = variant.architecture == Architecture::kQwen3;
  auto model =
      PolicyModel::Init(config, 5, {.dtype = variant.dtype, .deterministic = deterministic});
  REQUIRE(model.ok());
  for (const NamedTensor& parameter : (*model)->parameters()) {
    if (parameter.name == "lm_head.weight") parameter.tensor.mul_(20.0);
  }
  return *std::move(model);
}

GroupRequest Request(uint64_t id, int samples, int prompt_tokens, int limit) {
  GroupRequest request;
  request.id = GroupId(id);
  request.seed = 11;
  request.sampling.temperature = 0.7f;
  request.limit = limit;
  CounterRng rng(id);
  for (int i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<int32_t>(rng.Below(kVocab)));
  }
  for (int i = 0; i < samples; ++i) request.samples.push_back({static_cast<uint32_t>(i), {}});
  return request;
}

struct Crowd {
  int slots = 64;
  int step_tokens = 512;
  int blocks = 256;
  int threads = 1;
};

std::map<Key, Drawn> Run(const Variant& variant, const Crowd& crowd,
                         const std::vector<GroupRequest>& requests, bool deterministic = true) {
  TorchRunnerOptions options;
  options.blocks = crowd.blocks;
  options.threads = crowd.threads;
  auto runner = TorchModelRunner::Create(Model(variant, deterministic), options);
  REQUIRE(runner.ok());
  EngineOptions engine_options;
  engine_options.slots = crowd.slots;
  engine_options.step_tokens = crowd.step_tokens;
  engine_options.blocks = crowd.blocks;
  Engine engine(engine_options, runner->get());
  for (const GroupRequest& request : requests) engine.AddGroup(GroupRequest(request));
  std::map<Key, Drawn> drawn;
  do {
    const auto outputs = engine.Step();
    REQUIRE(outputs.ok());
    for (const EngineOutput& output : *outputs) {
      Drawn& sample = drawn[{output.group.value(), output.sample}];
      sample.tokens.push_back(output.token);
      sample.log_probs.push_back(output.log_prob);
    }
  } while (engine.worked());
  SetComputeThreads(1);
  return drawn;
}

bool SameBits(absl::Span<const float> a, absl::Span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// What the learner says of the tokens, packed behind other sequences, in a pass with gradients.
std::vector<float> Learner(PolicyModel& model, const std::vector<int32_t>& before,
                           const GroupRequest& request, const Drawn& drawn) {
  std::vector<int32_t> all = before;
  all.insert(all.end(), request.prompt.begin(), request.prompt.end());
  all.insert(all.end(), drawn.tokens.begin(), drawn.tokens.end());
  const auto tokens = static_cast<int64_t>(all.size());
  const auto count = static_cast<int64_t>(drawn.tokens.size());
  at::Tensor ids = at::empty({tokens}, at::kLong);
  std::copy(all.begin(), all.end(), ids.data_ptr<int64_t>());
  PackedAttention attention(
      std::vector<int32_t>{0, static_cast<int32_t>(before.size()), static_cast<int32_t>(tokens)},
      model.deterministic());
  const at::Tensor hidden = model.Hidden(ids, attention.Positions(), attention);
  REQUIRE(hidden.requires_grad());
  const at::Tensor log_probs =
      TokenLogProb(hidden.narrow(0, tokens - count - 1, count), model.head_weight(),
                   ids.narrow(0, tokens - count, count).contiguous(), request.sampling.temperature,
                   true, model.deterministic())
          .log_prob;
  const float* data = log_probs.const_data_ptr<float>();
  return {data, data + count};
}

TEST_CASE("Deterministic mode: the same bits alone, in a crowd, resumed, and in the learner") {
  for (const Variant& variant : {Variant{Architecture::kQwen2, 16, at::kFloat},
                                 Variant{Architecture::kQwen3, 20, at::kFloat},
                                 Variant{Architecture::kLlama, 64, at::kFloat},
                                 Variant{Architecture::kQwen2, 24, at::kBFloat16}}) {
    CAPTURE(static_cast<int>(variant.architecture), c10::toString(variant.dtype));
    std::vector<GroupRequest> requests;
    for (uint64_t id = 1; id <= 9; ++id) {
      requests.push_back(Request(id, id == 1 ? 1 : 4, static_cast<int>(5 + 13 * id), 45));
    }
    const GroupRequest& one = requests[0];
    const std::map<Key, Drawn> alone = Run(variant, {}, {one});
    const Drawn& expected = alone.at({1, 0});
    REQUIRE(expected.tokens.size() == 45);

    // In a crowd; prompts in chunks and samples preempted for want of blocks; two threads.
    for (const Crowd& crowd :
         {Crowd{64, 512, 256, 1}, Crowd{20, 37, 30, 1}, Crowd{64, 512, 256, 2}}) {
      const std::map<Key, Drawn> crowded = Run(variant, crowd, requests);
      CHECK(crowded.at({1, 0}).tokens == expected.tokens);
      CHECK(SameBits(crowded.at({1, 0}).log_probs, expected.log_probs));
    }

    GroupRequest resumed = one;
    resumed.samples[0].drawn.assign(expected.tokens.begin(), expected.tokens.begin() + 21);
    const Drawn rest = Run(variant, {}, {resumed}).at({1, 0});
    CHECK(std::equal(rest.tokens.begin(), rest.tokens.end(), expected.tokens.begin() + 21));
    CHECK(SameBits(rest.log_probs, absl::MakeConstSpan(expected.log_probs).subspan(21)));

    auto learner = Model(variant);
    learner->SetRequiresGrad(true);
    CHECK(SameBits(Learner(*learner, requests[3].prompt, one, expected), expected.log_probs));
    CHECK(SameBits(Learner(*learner, {}, one, expected), expected.log_probs));
  }
}

TEST_CASE("Without deterministic mode some bits differ: the test above can fail") {
  const Variant variant{Architecture::kQwen2, 16, at::kFloat};
  std::vector<GroupRequest> requests;
  for (uint64_t id = 1; id <= 9; ++id)
    requests.push_back(Request(id, 4, static_cast<int>(5 + 13 * id), 45));
  const std::map<Key, Drawn> alone = Run(variant, {}, {requests[0]}, false);
  const std::map<Key, Drawn> crowded = Run(variant, {}, requests, false);
  CHECK_FALSE(SameBits(crowded.at({1, 0}).log_probs, alone.at({1, 0}).log_probs));
}

}  // namespace
}  // namespace crescendo
