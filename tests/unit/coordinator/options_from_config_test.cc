// What differs between two configurations of one run folder.
#include "services/coordinator/options_from_config.h"

#include "catch2/catch.hpp"

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

}  // namespace
}  // namespace crescendo
