// The engine over the real model: what it draws and the log-probabilities against a plain forward
// pass over the whole sequence; swaps of weights.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/paged_attention.h"
#include "common/model/policy_model.h"
#include "common/model/sampler.h"
#include "services/rollout/engine.h"
#include "services/rollout/torch_model_runner.h"

namespace crescendo {
namespace {

using Key = std::pair<uint64_t, uint32_t>;

struct Drawn {
  std::vector<int32_t> tokens;
  std::vector<float> log_probs;
};

ModelConfig SmallConfig() {
  ModelConfig config;
  config.architecture = Architecture::kQwen2;
  config.vocab_size = 61;
  config.hidden_size = 48;
  config.layers = 2;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 12;
  config.mlp_size = 80;
  config.qkv_bias = true;
  return config;
}

// Weights large enough that the distributions are not flat.
std::unique_ptr<PolicyModel> SmallModel(uint64_t seed) {
  auto model = PolicyModel::Init(SmallConfig(), seed);
  REQUIRE(model.ok());
  for (const NamedTensor& parameter : (*model)->parameters()) {
    if (parameter.name == "lm_head.weight") parameter.tensor.mul_(20.0);
  }
  return *std::move(model);
}

std::unique_ptr<TorchModelRunner> Runner(uint64_t seed, int blocks) {
  TorchRunnerOptions options;
  options.blocks = blocks;
  auto runner = TorchModelRunner::Create(SmallModel(seed), options);
  REQUIRE(runner.ok());
  return *std::move(runner);
}

GroupRequest Request(uint64_t id, int samples, int prompt_tokens, int limit, float temperature) {
  GroupRequest request;
  request.id = GroupId(id);
  request.seed = 11;
  request.sampling.temperature = temperature;
  request.limit = limit;
  CounterRng rng(id);
  for (int i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<int32_t>(rng.Below(61)));
  }
  for (int i = 0; i < samples; ++i) request.samples.push_back({static_cast<uint32_t>(i), {}});
  return request;
}

std::map<Key, Drawn> RunAll(Engine& engine) {
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
  return drawn;
}

// What the model says of a whole sequence in one pass: logits of each completion token.
at::Tensor WholeLogits(PolicyModel& model, const std::vector<int32_t>& prompt,
                       const std::vector<int32_t>& completion) {
  const at::NoGradGuard no_grad;
  std::vector<int32_t> all = prompt;
  all.insert(all.end(), completion.begin(), completion.end() - 1);
  auto cache = PagedKvCache::Create(model.config(), 64, 16);
  REQUIRE(cache.ok());
  PagedAttention attention(cache->get(), model.config().query_heads);
  std::vector<int32_t> table;
  for (int i = 0; i < 64; ++i) table.push_back(i);
  const PagedSequence sequence{table, 0, static_cast<int32_t>(all.size())};
  REQUIRE(attention.SetBatch({&sequence, 1}).ok());
  at::Tensor tokens = at::empty({static_cast<int64_t>(all.size())}, at::kLong);
  std::copy(all.begin(), all.end(), tokens.data_ptr<int64_t>());
  at::Tensor hidden = model.Hidden(tokens, attention.Positions(), attention);
  return model
      .Logits(hidden.narrow(0, static_cast<int64_t>(prompt.size()) - 1,
                            static_cast<int64_t>(completion.size())))
      .clone();
}

void CheckAgainstWhole(PolicyModel& model, const GroupRequest& request, uint32_t index,
                       const Drawn& drawn) {
  const at::Tensor logits = WholeLogits(model, request.prompt, drawn.tokens);
  const at::Tensor log_probs = at::log_softmax(logits / request.sampling.temperature, 1);
  for (size_t i = 0; i < drawn.tokens.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    CHECK(drawn.log_probs[i] == Approx(log_probs[row][drawn.tokens[i]].item<float>()).margin(2e-5));
    const RowSampling sampling{request.sampling.temperature, 0, 1.0, 0.0};
    const double uniform =
        TokenUniform(request.seed, request.id.value(), index, static_cast<uint32_t>(i));
    SampledToken expected;
    REQUIRE(SampleRows(logits.narrow(0, row, 1).contiguous(), {&sampling, 1}, {&uniform, 1},
                       {&expected, 1})
                .ok());
    CHECK(drawn.tokens[i] == expected.token);
  }
}

TEST_CASE("Shared prompts, chunks and preemption draw what a plain forward pass says") {
  auto reference = SmallModel(3);
  for (const int blocks : {16, 200}) {
    auto runner = Runner(3, blocks);
    EngineOptions options;
    options.slots = 8;
    options.step_tokens = 24;
    options.blocks = blocks;
    Engine engine(options, runner.get());
    std::vector<GroupRequest> requests = {Request(1, 4, 20, 30, 1.0f), Request(2, 3, 33, 25, 0.7f),
                                          Request(3, 2, 16, 40, 1.0f), Request(4, 1, 1, 40, 1.3f)};
    for (const GroupRequest& request : requests) engine.AddGroup(GroupRequest(request));
    const std::map<Key, Drawn> drawn = RunAll(engine);
    CHECK((engine.preemptions() > 0) == (blocks == 16));
    REQUIRE(drawn.size() == 10);
    for (const GroupRequest& request : requests) {
      for (const SampleStart& start : request.samples) {
        const Drawn& sample = drawn.at({request.id.value(), start.sample});
        REQUIRE(static_cast<int>(sample.tokens.size()) == request.limit);
        CheckAgainstWhole(*reference, request, start.sample, sample);
      }
    }
  }
}

std::unique_ptr<StagedWeights> Staged(const PolicyModel& model, int64_t version) {
  auto staged = std::make_unique<StagedWeights>();
  staged->version = PolicyVersion(version);
  auto bytes = std::make_shared<std::string>();
  for (const TensorBytes& tensor : model.State()) {
    staged->tensors.push_back(
        {tensor.name, tensor.dtype, tensor.shape, bytes->size(), tensor.bytes.size()});
    bytes->append(tensor.bytes.data(), tensor.bytes.size());
  }
  staged->bytes = std::move(bytes);
  return staged;
}

TEST_CASE("A swap takes the staged version whole, or leaves the old one") {
  auto other = SmallModel(9);
  auto runner = Runner(3, 64);
  const GroupRequest request = Request(1, 2, 8, 20, 1.0f);
  const auto run = [&] {
    EngineOptions options;
    options.blocks = 64;
    Engine engine(options, runner.get());
    engine.AddGroup(GroupRequest(request));
    return RunAll(engine);
  };
  const auto before = run();
  CHECK(runner->SwapWeights(PolicyVersion(1)).code() == absl::StatusCode::kNotFound);
  runner->Stage(Staged(*other, 2));
  CHECK(runner->SwapWeights(PolicyVersion(1)).code() == absl::StatusCode::kNotFound);
  auto broken = Staged(*other, 1);
  broken->tensors.back().shape.push_back(1);
  runner->Stage(std::move(broken));
  CHECK(runner->SwapWeights(PolicyVersion(1)).code() == absl::StatusCode::kInvalidArgument);
  CHECK(run().at({1, 0}).tokens == before.at({1, 0}).tokens);

  runner->Stage(Staged(*other, 2));
  REQUIRE(runner->SwapWeights(PolicyVersion(2)).ok());
  const auto after = run();
  CHECK(after.at({1, 0}).tokens != before.at({1, 0}).tokens);
  CheckAgainstWhole(*other, request, 0, after.at({1, 0}));
}

}  // namespace
}  // namespace crescendo
