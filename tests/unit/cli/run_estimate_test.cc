// What a recipe is said to take: the published recipe in the right order of magnitude, each source
// by hand-computed figures, and what cannot be estimated.
#include "deploy/cli/run_estimate.h"

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/os/posix_env.h"

namespace crescendo {
namespace {

RunConfig TwoStages() {
  RunConfig config;
  config.run.steps = 30;
  config.stages.resize(2);
  config.stages[0].context_tokens = 1000;
  config.stages[1].context_tokens = 2000;
  for (StageSection& stage : config.stages) {
    stage.groups_per_step = 10;
    stage.group_samples = 10;
  }
  config.curriculum.max_steps = {20};
  return config;
}

EstimateInputs On(absl::string_view gpus) {
  EstimateInputs inputs;
  auto parsed = ParseGpus(gpus);
  REQUIRE(parsed.ok());
  inputs.gpus = *parsed;
  inputs.model = DistilledQwenShape();
  return inputs;
}

TEST_CASE(
    "The published recipe: computed limits stay below what it took, in its order of magnitude") {
  const auto files = MakePosixFileSystem();
  const auto config = LoadRunConfig(*files, "deploy/recipes/deepscaler-1.5b.toml", {});
  INFO(config.status().ToString());
  REQUIRE(config.ok());
  EstimateInputs inputs = On("32xA100");
  inputs.gpu_hour_price = 4500.0 / 3800;
  const auto estimate = EstimateRun(*config, inputs);
  REQUIRE(estimate.ok());
  REQUIRE(estimate->stages.size() == 3);
  CHECK(estimate->stages[0].steps == 1040);
  CHECK(estimate->stages[2].steps == 230);
  CHECK(estimate->total.tokens == Approx(12.2e9).epsilon(0.1));
  // notes: 765 to 870 A100-hours of work at practical efficiency; published: 3,800 held.
  CHECK(estimate->total.busy_gpu_hours > 600);
  CHECK(estimate->total.busy_gpu_hours < 1000);
  CHECK(estimate->total.gpu_hours > estimate->total.busy_gpu_hours);
  CHECK(estimate->total.gpu_hours < 3800);
  CHECK(estimate->total.money == Approx(estimate->total.gpu_hours * 4500 / 3800));
  CHECK(absl::StrContains(estimate->source, "computed"));
}

TEST_CASE("Given throughputs: GPUs are shared out so that the two halves take least time") {
  EstimateInputs inputs = On("4xH100");
  inputs.rollout_tokens_per_second = 1000;
  inputs.train_tokens_per_second = 4000;
  inputs.mean_tokens = {500, 900};
  RunConfig config = TwoStages();
  const auto estimate = EstimateRun(config, inputs);
  REQUIRE(estimate.ok());
  const StageEstimate& first = estimate->stages[0];
  CHECK(first.tokens == Approx(20 * 100 * 500));
  CHECK(first.busy_gpu_hours == Approx(1e6 / 3600.0 / 1000 + 1e6 / 3600.0 / 4000));
  CHECK(first.rollout_gpus == 3);
  CHECK(first.hours == Approx(1e6 / 3600.0 / 3000 + 1e6 / 3600.0 / 4000));
  CHECK(first.gpu_hours == Approx(4 * first.hours));
  CHECK(estimate->stages[1].tokens == Approx(10 * 100 * 900));
  CHECK(estimate->total.hours == Approx(first.hours + estimate->stages[1].hours));
  // Running ahead, they overlap.
  config.learner.max_staleness = 1;
  CHECK(EstimateRun(config, inputs)->stages[0].hours == Approx(1e6 / 3600.0 / 3000));
}

TEST_CASE("An earlier run: what an hour of a GPU generated, stage by stage") {
  const auto measured = ReadMeasured(
      R"({"kind":"evaluation","step":0}
{"kind":"step","step":0,"stage":0,"generated_tokens":1000,"response_tokens_mean":100,"gpu_hours":2,"core_hours":9}
{"kind":"step","step":1,"stage":0,"generated_tokens":3000,"response_tokens_mean":300,"gpu_hours":4,"core_hours":9}
{"kind":"step","step":2,"stage":1,"generated_tokens":500,"response_tokens_mean":50,"gpu_hours":5,"core_hours":9}
)");
  REQUIRE(measured.ok());
  REQUIRE(measured->size() == 2);
  CHECK((*measured)[0].hours == Approx(4));
  CHECK((*measured)[0].mean_tokens == Approx(200));
  EstimateInputs inputs = On("2xA100");
  inputs.measured = *measured;
  const auto estimate = EstimateRun(TwoStages(), inputs);
  REQUIRE(estimate.ok());
  CHECK(estimate->stages[0].tokens == Approx(20 * 100 * 200));
  CHECK(estimate->stages[0].gpu_hours == Approx(400'000 * 4.0 / 4000));
  CHECK(estimate->stages[0].hours == Approx(200));
  CHECK(absl::StrContains(estimate->source, "an earlier run"));
}

TEST_CASE("What is wrong is told") {
  CHECK(absl::StrContains(ParseGpus("8xABACUS").status().message(), "known: A100"));
  CHECK(!ParseGpus("0xA100").ok());
  CHECK(ParseGpus("h100")->count == 1);
  CHECK(!ReadMeasured("").ok());
  CHECK(!ReadMeasured(R"({"kind":"step","stage":0})").ok());
  CHECK(!ShapeFromConfigJson("[]", "model").ok());
  RunConfig config = TwoStages();
  config.curriculum.max_steps.clear();
  CHECK(absl::StrContains(EstimateRun(config, On("A100")).status().message(), "cap"));
}

TEST_CASE("The shape of a model from its config.json") {
  const auto shape = ShapeFromConfigJson(
      R"({"hidden_size":1536,"num_hidden_layers":28,"num_attention_heads":12,"num_key_value_heads":2,
          "intermediate_size":8960,"vocab_size":151936})",
      "qwen");
  REQUIRE(shape.ok());
  CHECK(shape->parameters == Approx(1.544e9).epsilon(0.001));
  CHECK(shape->kv_bytes == 28672);
  CHECK(shape->attention_size == DistilledQwenShape().attention_size);
}

}  // namespace
}  // namespace crescendo
