// What differs between two configurations of one run folder.
#include "services/coordinator/options_from_config.h"

#include "catch2/catch.hpp"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

RunConfig Config() {
  RunConfig config;
  config.stages.resize(2);
  config.stages[0].context_tokens = 48;
  config.stages[1].context_tokens = 96;
  return config;
}

TEST_CASE("keys that a run must keep are named with both values") {
  const RunConfig before = Config();
  RunConfig now = before;
  REQUIRE(ConfigDifferences(ToToml(before), ToToml(now)).empty());
  now.stages[1].context_tokens = 100;
  now.run.seed = 9;
  REQUIRE(ConfigDifferences(ToToml(before), ToToml(now)) ==
          "run.seed = 9 (was 1), stage.1.context_tokens = 100 (was 96)");
  now = before;
  now.stages.pop_back();
  REQUIRE(ConfigDifferences(ToToml(before), ToToml(now)).find("stage.1.context_tokens is gone") !=
          std::string::npos);
}

TEST_CASE("keys that only say where, how fast and how long it runs may change") {
  const RunConfig before = Config();
  RunConfig now = before;
  now.run.out = "elsewhere";
  now.run.steps = 7;
  now.rollout.slots = 7;
  now.network.coordinator = "127.0.0.1:1";
  now.learner.threads = 3;
  REQUIRE(ConfigDifferences(ToToml(before), ToToml(now)).empty());
  now.learner.max_staleness = 3;
  REQUIRE(ConfigDifferences(ToToml(before), ToToml(now)) == "learner.max_staleness = 3 (was 0)");
}

TEST_CASE("evaluation sets: problems set by set, variants by the place of their original") {
  TempDir dir;
  const auto write = [&](const std::string& name, const std::string& text) {
    REQUIRE(dir.files->WriteFile(dir / name, text).ok());
    return dir / name;
  };
  RunConfig config;
  config.run.steps = 0;
  config.stages.resize(1);
  config.stages[0].context_tokens = 96;
  config.stages[0].top_p = 0.9;
  config.stages[0].min_steps = 7;
  EvaluationSetSection first;
  first.path = write("first.jsonl", R"({"id": "a", "problem": "1+1?", "answer": "2"})"
                                    "\n");
  first.samples = 4;
  EvaluationSetSection second;
  second.name = "numbers";
  second.path = write("second.jsonl",
                      R"({"id": "a", "problem": "1+2?", "answer": 3})"
                      "\n"
                      R"({"id": "b", "problem": "1+3?", "answer": 4, "variant_of": "a"})"
                      "\n"
                      R"({"id": "c", "problem": "1+4?", "answer": 5, "variant_of": "nowhere"})"
                      "\n");
  second.problems = 0;
  second.reward_kind = "exact";
  second.context_tokens = 32;
  config.evaluation_sets = {first, second};
  const auto options = OptionsFromConfig(*dir.files, config, "run-1");
  INFO(options.status().ToString());
  REQUIRE(options.ok());
  REQUIRE(options->evaluations.size() == 2);
  REQUIRE(options->evaluations[0].set == "first");
  REQUIRE(options->evaluations[0].problems == 1);
  REQUIRE(options->evaluations[0].samples == 4);
  REQUIRE(options->evaluations[0].context_tokens == 96);
  REQUIRE(options->evaluations[1].set == "numbers");
  REQUIRE(options->evaluations[1].context_tokens == 32);
  REQUIRE(options->evaluation_problems.size() == 4);
  REQUIRE(options->evaluation_problems[0].reward.kind == "math");
  REQUIRE(options->evaluation_problems[1].variant_of == -1);
  REQUIRE(options->evaluation_problems[2].variant_of == 1);
  REQUIRE(options->evaluation_problems[2].reward.kind == "exact");
  REQUIRE(options->evaluation_problems[3].variant_of == -1);
  REQUIRE(options->stages[0].sampling.top_p == 0.9F);
  REQUIRE(options->curriculum.stage_min_steps == std::vector<int>{7});
}

}  // namespace
}  // namespace crescendo
