// The shared command line: help, version, dry run, and errors with the exit status of the user's
// mistake.
#include "common/config/command_line.h"

#include <sstream>

#include "catch2/catch.hpp"
#include "tests/unit/config/temp_recipe.h"

namespace crescendo {
namespace {

constexpr char kRecipe[] =
    "[policy]\npath = \"base\"\n[data]\ntrain = \"t\"\n[[stage]]\ncontext_tokens = 48\n";

struct Outcome {
  std::optional<RunConfig> config;
  int exit_code = -1;
  std::string out, err;
};

Outcome Run(std::vector<std::string> arguments, absl::Status dry_run_status = absl::OkStatus()) {
  TempRecipe recipe(kRecipe);
  std::vector<const char*> argv = {"crescendo-test"};
  for (std::string& argument : arguments) {
    if (argument == "RECIPE") argument = recipe.file();
    argv.push_back(argument.c_str());
  }
  ServiceDescription service{"crescendo-test", "tests",
                             [&](const RunConfig&) -> absl::StatusOr<std::string> {
                               if (!dry_run_status.ok()) return dry_run_status;
                               return std::string("nothing");
                             }};
  std::ostringstream out, err;
  Outcome outcome;
  outcome.config = ParseServiceCommandLine(static_cast<int>(argv.size()), argv.data(), service,
                                           recipe.files(), out, err, &outcome.exit_code);
  outcome.out = out.str();
  outcome.err = err.str();
  return outcome;
}

TEST_CASE("a configuration with overrides is returned to run with") {
  const Outcome outcome = Run({"--config", "RECIPE", "--run.steps=7", "--stage.0.group_samples=4"});
  REQUIRE(outcome.config.has_value());
  CHECK(outcome.config->run.steps == 7);
  CHECK(outcome.config->stages[0].group_samples == 4);
  CHECK(outcome.out.empty());
  CHECK(outcome.err.empty());
}

TEST_CASE("help and version end with 0") {
  CHECK(Run({"--help"}).exit_code == 0);
  CHECK(Run({"--help"}).out.find("--section.key=value") != std::string::npos);
  CHECK(Run({"--version"}).out.find("crescendo-test 0.") == 0);
}

TEST_CASE("a dry run prints the effective configuration and what would run") {
  const Outcome outcome = Run({"--config", "RECIPE", "--dry-run", "--run.seed=5"});
  CHECK_FALSE(outcome.config.has_value());
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.out.find("seed = 5\n") != std::string::npos);
  CHECK(outcome.out.find("# crescendo-test would run: nothing") != std::string::npos);
  const Outcome broken =
      Run({"--config", "RECIPE", "--dry-run"}, absl::DataLossError("model.gguf: cut short"));
  CHECK(broken.exit_code == 2);
  CHECK(broken.err == "crescendo-test: error: model.gguf: cut short\n");
}

TEST_CASE("mistakes end with 2 and a sentence") {
  CHECK(Run({}).err == "crescendo-test: error: --config FILE is required (see --help)\n");
  CHECK(Run({}).exit_code == 2);
  CHECK(Run({"--confg", "x"}).err ==
        "crescendo-test: error: unknown option '--confg'; did you mean --config?\n");
  CHECK(Run({"--config"}).exit_code == 2);
  CHECK(Run({"--config", "/no/such"}).exit_code == 2);
  CHECK(Run({"--config", "RECIPE", "--run.stepz=1"}).err ==
        "crescendo-test: error: --run.stepz: unknown key 'run.stepz'; did you mean 'steps'?\n");
  CHECK(ExitCode(absl::InternalError("bug")) == 1);
}

}  // namespace
}  // namespace crescendo
