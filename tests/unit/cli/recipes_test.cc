// Every recipe that is shipped parses, and every service says what it would run with it.
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/config/run_config.h"
#include "common/os/posix_env.h"
#include "deploy/cli/child_process.h"

namespace crescendo {
namespace {

std::vector<std::string> Recipes() {
  const auto files = MakePosixFileSystem();
  std::vector<std::string> recipes;
  const auto names = files->ListDir("deploy/recipes");
  REQUIRE(names.ok());
  for (const std::string& name : *names) {
    if (absl::EndsWith(name, ".toml")) recipes.push_back("deploy/recipes/" + name);
  }
  REQUIRE(recipes.size() >= 2);
  return recipes;
}

TEST_CASE("every shipped recipe parses, and its effective form reads back") {
  const auto files = MakePosixFileSystem();
  for (const std::string& recipe : Recipes()) {
    INFO(recipe);
    const auto config = LoadRunConfig(*files, recipe, {});
    INFO(std::string(config.status().message()));
    CHECK(config.ok());
  }
}

TEST_CASE("every shipped recipe dry-runs, and a model that is not on this machine is named") {
  const char* build = std::getenv("CRESCENDO_BUILD_DIR");
  REQUIRE(build != nullptr);
  const auto files = MakePosixFileSystem();
  for (const std::string& recipe : Recipes()) {
    INFO(recipe);
    const auto plan =
        RunTool({absl::StrCat(build, "/bin/crescendo"), "train", recipe, "--dry-run"}, "");
    INFO(std::string(plan.status().message()));
    REQUIRE(plan.ok());
    CHECK(absl::StrContains(*plan, "# rollout-1: "));
    const auto config = LoadRunConfig(*files, recipe, {});
    REQUIRE(config.ok());
    const bool has_model = files->Exists(config->policy.path);
    for (const std::string& service :
         std::vector<std::string>{"coordinator", "reward", "learner", "rollout"}) {
      const auto words = RunTool(
          {absl::StrCat(build, "/bin/crescendo-", service), "--config", recipe, "--dry-run"}, "");
      const std::string error(words.status().message());
      INFO(error);
      if (words.ok()) {
        CHECK(absl::StrContains(*words, absl::StrCat("# crescendo-", service, " would run: ")));
      } else {
        CHECK_FALSE(has_model);
        CHECK(absl::StrContains(error, absl::StrCat(config->policy.path, " does not exist")));
        CHECK(absl::StrContains(error, "status 2"));
      }
    }
  }
}

}  // namespace
}  // namespace crescendo
