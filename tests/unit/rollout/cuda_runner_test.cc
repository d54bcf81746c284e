// The engine over the policy on a device draws what it draws over the policy on the CPU: shared
// prompts, chunked prefill, preemption, swaps of weights.
#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "services/rollout/cuda_model_runner.h"
#include "services/rollout/engine.h"
#include "services/rollout/torch_model_runner.h"
#include "tests/unit/model/cuda_test_support.h"

namespace crescendo {
namespace {

using Key = std::pair<uint64_t, uint32_t>;
using Samples = std::map<Key, std::vector<DrawnToken>>;

constexpr int32_t kTop = 3;  // most probable tokens wanted of the first group's draws

std::unique_ptr<PolicyModel> SmallModel(uint64_t seed) {
  ModelConfig config;
  config.architecture = Architecture::kQwen2;
  config.vocab_size = 61, config.hidden_size = 48, config.layers = 2, config.query_heads = 4;
  config.kv_heads = 2, config.head_dim = 12, config.mlp_size = 80;
  config.qkv_bias = true;
  auto model = PolicyModel::Init(config, seed);
  REQUIRE(model.ok());
  // So that the distributions are not flat.
  for (const NamedTensor& parameter : (*model)->parameters()) {
    if (parameter.name == "lm_head.weight") parameter.tensor.mul_(20.0);
  }
  return *std::move(model);
}

std::unique_ptr<StagedWeights> Staged(const PolicyModel& model, uint64_t version) {
  auto staged = std::make_unique<StagedWeights>();
  staged->version = PolicyVersion(version);
  std::string bytes;
  for (const TensorBytes& tensor : model.State()) {
    staged->tensors.push_back(
        {tensor.name, tensor.dtype, tensor.shape, bytes.size(), tensor.bytes.size()});
    bytes.append(tensor.bytes.data(), tensor.bytes.size());
  }
  staged->bytes = std::make_shared<const std::string>(std::move(bytes));
  return staged;
}

GroupRequest Request(uint64_t id, int samples, int prompt_tokens, int limit) {
  GroupRequest request;
  request.id = GroupId(id);
  request.seed = 11;
  request.sampling.temperature = id == 2 ? 0.7f : 1.0f;
  request.sampling.top_p = id == 3 ? 0.9f : 1.0f;
  request.limit = limit;
  request.top_tokens = id == 1 ? kTop : 0;
  CounterRng rng(id);
  for (int i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<int32_t>(rng.Below(61)));
  }
  for (int i = 0; i < samples; ++i) request.samples.push_back({static_cast<uint32_t>(i), {}});
  return request;
}

// Runs three groups to their ends, with new weights after some steps.
Samples RunAll(ModelRunner* runner, int blocks) {
  EngineOptions options;
  options.slots = 8;
  options.step_tokens = 24;
  options.blocks = blocks;
  Engine engine(options, runner);
  engine.AddGroup(Request(1, 4, 20, 28));
  engine.AddGroup(Request(2, 3, 33, 25));
  engine.AddGroup(Request(3, 2, 5, 20));
  Samples samples;
  int steps = 0;
  do {
    if (++steps == 9) REQUIRE(runner->SwapWeights(PolicyVersion(4)).ok());
    const auto outputs = engine.Step();
    INFO(outputs.status());
    REQUIRE(outputs.ok());
    for (const EngineOutput& output : *outputs) {
      samples[{output.group.value(), output.sample}].push_back(
          DrawnToken{output.token, output.log_prob, output.top});
    }
  } while (engine.worked());
  if (blocks < 20) CHECK(engine.preemptions() > 0);
  return samples;
}

}  // namespace

TEST_CASE("the engine draws the same tokens on a device as on the CPU") {
  if (!HaveDevice()) return;
  for (const int blocks : {12, 200}) {
    INFO(blocks << " blocks");
    TorchRunnerOptions torch_options;
    torch_options.blocks = blocks;
    auto torch = TorchModelRunner::Create(SmallModel(3), torch_options);
    REQUIRE(torch.ok());
    (*torch)->Stage(Staged(*SmallModel(5), 4));
    const Samples expected = RunAll(torch->get(), blocks);

    const auto model = SmallModel(3);
    CudaPolicyOptions options;
    options.blocks = blocks;
    options.dtype = cuda::Dtype::kF32;
    options.step_tokens = 24;
    options.sequences = 8;
    auto policy = CudaPolicy::Create(model->config(), model->State(), options);
    INFO(policy.status());
    REQUIRE(policy.ok());
    CudaModelRunner runner(*std::move(policy));
    CHECK(absl::IsNotFound(runner.SwapWeights(PolicyVersion(4))));
    runner.Stage(Staged(*SmallModel(5), 4));
    const Samples found = RunAll(&runner, blocks);
    CHECK(runner.policy().graph_launches() > 0);

    REQUIRE(found.size() == expected.size());
    for (const auto& [key, tokens] : expected) {
      INFO("group " << key.first << ", sample " << key.second);
      const auto& others = found.at(key);
      REQUIRE(others.size() == tokens.size());
      for (size_t i = 0; i < tokens.size(); ++i) {
        CHECK(others[i].token == tokens[i].token);
        CHECK(std::abs(others[i].log_prob - tokens[i].log_prob) <= 5e-5f);
        REQUIRE(tokens[i].top.size() == (key.first == 1 ? kTop : 0));
        REQUIRE(others[i].top.size() == tokens[i].top.size());
        for (size_t t = 0; t < tokens[i].top.size(); ++t) {
          CHECK(others[i].top[t].token == tokens[i].top[t].token);
          CHECK(std::abs(others[i].top[t].log_prob - tokens[i].top[t].log_prob) <= 5e-5f);
        }
      }
    }
  }
}

}  // namespace crescendo
