// A configuration is read whole and within its bounds, or refused with the line and the nearest
// name.
#include "catch2/catch.hpp"
#include "common/config/config_fields.h"
#include "common/config/edit_distance.h"
#include "common/config/run_config.h"
#include "tests/unit/config/temp_recipe.h"

namespace crescendo {
namespace {

constexpr char kMinimal[] = R"([policy]
path = "base"
[data]
train = "train.jsonl"
[[stage]]
context_tokens = 48
)";

std::string ErrorOf(const std::string& text, const std::vector<std::string>& overrides = {}) {
  TempRecipe recipe(text);
  const auto config = recipe.Load(overrides);
  REQUIRE_FALSE(config.ok());
  CHECK(config.status().code() == absl::StatusCode::kInvalidArgument);
  return recipe.WithoutFolder(std::string(config.status().message()));
}

TEST_CASE("a minimal recipe gets the defaults and absolute paths from its own folder") {
  TempRecipe recipe(kMinimal);
  const auto config = recipe.Load({});
  REQUIRE(config.ok());
  CHECK(config->policy.path == recipe.folder() + "/base");
  CHECK(config->data.train == recipe.folder() + "/train.jsonl");
  CHECK(config->evaluation.set.empty());
  CHECK(config->stages.size() == 1);
  CHECK(config->stages[0].group_samples == 8);
  CHECK(config->optimizer.learning_rate == 1e-6);
}

TEST_CASE("every key can be read, and what is written reads back to the same") {
  TempRecipe recipe(std::string(kMinimal) + R"(
[[stage]]
context_tokens = 96
learning_rate = 0.00012345678901234567
[run]
name = "a-run"
seed = 9000000000000000001
[policy.]
)");
  CHECK_FALSE(recipe.Load({}).ok());
  TempRecipe good(std::string(kMinimal) + R"(
[[stage]]
context_tokens = 96
learning_rate = 0.00012345678901234567
[run]
name = "a-run"
seed = 9000000000000000001
[curriculum]
max_steps = [10, 5]
[rollout]
heartbeat = "250ms"
drain = "1m30s"
[reward]
plain_text_answers = false
[objective]
clip_high = 1
)");
  const auto config = good.Load({"policy.system_prompt=say \"hi\"\\\n\ttwo"});
  REQUIRE(config.ok());
  CHECK(config->run.seed == 9000000000000000001u);
  CHECK(config->curriculum.max_steps == std::vector<int>{10, 5});
  CHECK(config->rollout.drain == absl::Seconds(90));
  CHECK(config->objective.clip_high == 1.0);
  CHECK(config->policy.system_prompt == "say \"hi\"\\\n\ttwo");
  TempRecipe again(ToToml(*config));
  const auto reread = again.Load({});
  REQUIRE(reread.ok());
  CHECK(ToToml(*reread) == ToToml(*config));
  CHECK(ConfigDigest(*reread) == ConfigDigest(*config));
  CHECK(reread->stages[1].learning_rate == 0.00012345678901234567);
}

TEST_CASE("an unknown key is an error with file, line and the nearest valid key") {
  CHECK(ErrorOf(std::string(kMinimal) + "[optimizer]\nlearning_rat = 1e-3\n") ==
        "recipe.toml:8: unknown key 'optimizer.learning_rat'; did you mean 'learning_rate'?");
  CHECK(ErrorOf(std::string(kMinimal) + "[objective]\nlearning_rate = 1e-3\n") ==
        "recipe.toml:8: unknown key 'objective.learning_rate'; did you mean "
        "'optimizer.learning_rate'?");
  CHECK(ErrorOf(std::string(kMinimal) + "[optimiser]\n") ==
        "recipe.toml:7: unknown section 'optimiser'; did you mean 'optimizer'?");
  CHECK(ErrorOf(std::string(kMinimal) + "contxt_tokens = 3\n") ==
        "recipe.toml:7: unknown key 'stage.0.contxt_tokens'; did you mean 'context_tokens'?");
  CHECK(ErrorOf(kMinimal, {"run.step=3"}) ==
        "--run.step: unknown key 'run.step'; did you mean 'steps'?");
}

TEST_CASE("a wrong type or range is an error that says what was expected and found") {
  CHECK(ErrorOf(std::string(kMinimal) + "[run]\nsteps = \"many\"\n") ==
        "recipe.toml:8: run.steps: expected an integer in [0, 1000000000], found \"many\"");
  CHECK(ErrorOf(std::string(kMinimal) + "[rollout]\nheartbeat = 5\n") ==
        "recipe.toml:8: rollout.heartbeat: expected a duration such as \"10s\" or \"500ms\", from "
        "10ms to 10m, found 5");
  CHECK(ErrorOf(std::string(kMinimal) + "temperature = 0.0\n") ==
        "recipe.toml:7: stage.0.temperature: expected a number in (0, 10], found 0.0");
  CHECK(ErrorOf(std::string(kMinimal) + "[objective]\nadvantage = \"ppo\"\n") ==
        "recipe.toml:8: objective.advantage: expected one of \"grpo\", \"dr_grpo\", \"rloo\", "
        "found \"ppo\"");
  CHECK(ErrorOf(kMinimal, {"network.reward=localhost"}) ==
        "--network.reward: expected host:port, found \"localhost\"");
  CHECK(ErrorOf(kMinimal, {"optimizer.learning_rate=nan"}) ==
        "--optimizer.learning_rate: expected a number in [0, 10], found nan");
  CHECK(ErrorOf(kMinimal, {"run.steps=3 # four"}) ==
        "--run.steps: expected an integer in [0, 1000000000], found '3 # four'");
}

TEST_CASE("several errors are told at once") {
  CHECK(ErrorOf("[run]\nname = 3\nsteps = -1\n") ==
        "recipe.toml:2: run.name: expected a name of 1 to 63 of a-z, 0-9 and '-', found 3\n"
        "recipe.toml:3: run.steps: expected an integer in [0, 1000000000], found -1");
}

TEST_CASE("relations between keys hold") {
  CHECK(ErrorOf("[run]\nsteps = 1\n") ==
        "recipe.toml: policy.path is required: a Hugging Face folder or a .gguf file\n"
        "recipe.toml: data.train is required: a file of JSON lines\n"
        "recipe.toml: no [[stage]]: at least one is required, with its context_tokens");
  CHECK(ErrorOf(kMinimal, {"objective.minibatches=33"}) ==
        "--objective.minibatches: objective.minibatches is 33, more than the groups of a step "
        "(stage.0.groups_per_step is 32); a mini-batch is made of whole groups");
  CHECK(ErrorOf(kMinimal, {"objective.dual_clip=1"}) ==
        "--objective.dual_clip: objective.dual_clip is 1: expected 0 (off) or more than 1");
  CHECK(ErrorOf(std::string(kMinimal) + "[coordinator]\nlease = \"900ms\"\n") ==
        "recipe.toml:8: coordinator.lease is 900ms: expected at least two heartbeats "
        "(rollout.heartbeat is 500ms)");
  CHECK(ErrorOf(std::string(kMinimal) + "level_mix = [3, 1]\n[[stage]]\ncontext_tokens = 9\n"
                                        "level_mix = [1, 1, 2]\n") ==
        "recipe.toml:10: stage.1.level_mix has 3 weights, another stage's has 2: every mix weighs "
        "the same classes");
  CHECK(ErrorOf(kMinimal, {"stage.0.level_mix=[0, 0]"}) ==
        "--stage.0.level_mix: stage.0.level_mix has no weight above 0");
  CHECK(ErrorOf(kMinimal, {"stage.1.context_tokens=5"}) ==
        "--stage.1.context_tokens: there is no stage 1; the recipe has 1, counted from 0");
}

TEST_CASE(
    "what is not TOML is an error with line and column, and nothing in it can crash the reader") {
  CHECK(ErrorOf("[run\nname = 1\n").substr(0, 28) == "recipe.toml:1:5: not TOML: E");
  for (const std::string& text :
       {std::string("\xff\xfe"), std::string("a = \"\\u0000\""), std::string(5000, '['),
        std::string("x = ") + std::string(5000, '['), std::string("stage = 1"),
        std::string("stage = [1]"), std::string("[stage]\ncontext_tokens = 1"),
        std::string("run = 1"), std::string("\0", 1), std::string("1979-05-27 = 1")}) {
    TempRecipe recipe(text);
    CHECK_FALSE(recipe.Load({}).ok());
  }
}

TEST_CASE("a missing file is NotFound and names it") {
  const auto files = MakePosixFileSystem();
  const auto config = LoadRunConfig(*files, "no/such.toml", {});
  CHECK(config.status().code() == absl::StatusCode::kNotFound);
  CHECK(std::string(config.status().message()).find("no/such.toml") != std::string::npos);
}

TEST_CASE("the digest covers what coordinator and learner must agree on, and nothing else") {
  TempRecipe recipe(kMinimal);
  const auto digest = [&](const std::vector<std::string>& overrides) {
    const auto config = recipe.Load(overrides);
    REQUIRE(config.ok());
    return ConfigDigest(*config);
  };
  const std::string base = digest({});
  CHECK(base.size() == 64);
  for (const char* same : {"run.out=elsewhere", "run.steps=7", "rollout.threads=2",
                           "network.reward=h:1", "learner.threads=3", "coordinator.lease=20s",
                           "security.directory=certs", "log.format=json"}) {
    CHECK(digest({same}) == base);
  }
  for (const char* other :
       {"run.seed=2", "policy.path=x", "data.problems_max=3", "stage.0.group_samples=4",
        "curriculum.min_steps=2", "objective.clip_low=0.1", "optimizer.beta1=0.5",
        "learner.max_staleness=1", "evaluation.every=1"}) {
    CHECK(digest({other}) != base);
  }
}

TEST_CASE("every range holds its default, so that a recipe may say it") {
  RunConfig config;
  config.stages.emplace_back();
  config.stages[0].context_tokens = 1;
  for (const ConfigFields& section : FieldsOf(config)) {
    for (const ConfigField& field : section.fields) {
      if (const auto* number = std::get_if<int*>(&field.target)) {
        CHECK(**number >= field.min);
        CHECK(**number <= field.max);
      } else if (const auto* real = std::get_if<double*>(&field.target)) {
        CHECK(**real >= field.min);
        CHECK(**real <= field.max);
      } else if (const auto* duration = std::get_if<absl::Duration*>(&field.target)) {
        CHECK(absl::ToDoubleSeconds(**duration) >= field.min);
        CHECK(absl::ToDoubleSeconds(**duration) <= field.max);
      }
    }
  }
}

TEST_CASE("edit distance counts a swap once, and nothing near is no suggestion") {
  CHECK(EditDistance("kitten", "sitting") == 3);
  CHECK(EditDistance("steps", "setps") == 1);
  CHECK(EditDistance("", "abc") == 3);
  CHECK(Nearest("zzzzzz", {"steps", "name"}).empty());
  CHECK(Nearest("setps", {"seed", "steps"}) == "steps");
}

TEST_CASE("a stage's own objective and sampling hold over the run's, an override included") {
  TempRecipe recipe(std::string(kMinimal) + R"(
[[stage]]
context_tokens = 96
clip_high = 0.28
top_p = 0.95
[objective]
clip_high = 0.2
kl_coefficient = 0.001
)");
  const auto config = recipe.Load({"objective.clip_high=0.3", "stage.0.kl_coefficient=0"});
  REQUIRE(config.ok());
  CHECK(config->stages[0].objective.clip_high == 0.3);
  CHECK(config->stages[0].objective.kl_coefficient == 0);
  CHECK(config->stages[1].objective.clip_high == 0.28);
  CHECK(config->stages[1].objective.kl_coefficient == 0.001);
  CHECK(config->stages[1].top_p == 0.95);
  TempRecipe again(ToToml(*config));
  const auto read = again.Load({});
  REQUIRE(read.ok());
  CHECK(ToToml(*read) == ToToml(*config));
  CHECK(ConfigDigest(*read) == ConfigDigest(*config));
}

TEST_CASE("evaluation sets take from [evaluation] what they do not say") {
  TempRecipe recipe(std::string(kMinimal) + R"(
[evaluation]
samples = 16
temperature = 0.6
every = 10
problems = 0
[[evaluation_set]]
path = "eval/aime24.jsonl"
[[evaluation_set]]
name = "math"
path = "eval/math500.jsonl"
samples = 4
)");
  const auto config = recipe.Load({"evaluation.temperature=0.5", "evaluation_set.1.every=0"});
  REQUIRE(config.ok());
  const std::vector<EvaluationSetSection> sets = EvaluationSets(*config);
  REQUIRE(sets.size() == 2);
  CHECK(sets[0].name == "aime24");
  CHECK(sets[0].path == recipe.folder() + "/eval/aime24.jsonl");
  CHECK(sets[0].samples == 16);
  CHECK(sets[0].temperature == 0.5);
  CHECK(sets[0].every == 10);
  CHECK(sets[0].reward_kind == "math");
  CHECK(sets[1].name == "math");
  CHECK(sets[1].samples == 4);
  CHECK(sets[1].every == 0);
  TempRecipe again(ToToml(*config));
  CHECK(ToToml(*again.Load({})) == ToToml(*config));
  CHECK(ErrorOf(std::string(kMinimal) + "[evaluation]\nset = \"a.jsonl\"\n[[evaluation_set]]\n"
                                        "path = \"b.jsonl\"\n")
            .find("give one of them") != std::string::npos);
  CHECK(ErrorOf(std::string(kMinimal) + "[[evaluation_set]]\npath = \"x/a.jsonl\"\n"
                                        "[[evaluation_set]]\npath = \"y/a.jsonl\"\n")
            .find("another set") != std::string::npos);
}

}  // namespace
}  // namespace crescendo
