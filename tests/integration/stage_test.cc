// crescendo stage as an operator uses it: on a run that is under way, whose rules stay silent.
#include <signal.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "tests/support/subprocess.h"
#include "tests/support/temp_dir.h"
#include "tests/support/train_run.h"

namespace crescendo {
namespace {

constexpr absl::Duration kPatience = absl::Minutes(5);

std::vector<std::string> EndlessRun() {
  std::vector<std::string> overrides = ThreeStages(4, 1000000, 1000000);
  overrides.insert(overrides.end(), {"--steps=1000000", "--curriculum.min_steps=1000000",
                                     "--evaluation.every=0", "--evaluation.problems=16"});
  return overrides;
}

ProgramResult Stage(const std::vector<std::string>& words) {
  std::vector<std::string> argv = {BuiltProgram("crescendo"), "stage"};
  argv.insert(argv.end(), words.begin(), words.end());
  return RunProgram(argv, kPatience);
}

// Whether a step of that stage is trained next.
bool ReachesStage(Subprocess& train, int stage) {
  return train.ReadUntil(
      [&](const std::string& line) {
        return absl::StartsWith(line, "step ") &&
               absl::StrContains(line, absl::StrCat("  stage ", stage, "  "));
      },
      kPatience);
}

TEST_CASE("an operator moves the stage of a run, and every move is told and kept") {
  TempDir dir;
  const std::string out = dir / "run";
  auto train = StartDemo(out, EndlessRun());
  REQUIRE(ReachesStage(*train, 1));

  const ProgramResult hold = Stage({"hold", out});
  INFO(hold.output);
  CHECK(hold.exit_code == 0);
  CHECK(absl::StrContains(hold.output, "the stage is held"));
  CHECK_FALSE(absl::StrContains(Stage({"release", out}).output, "held"));

  const ProgramResult advance = Stage({"advance", out});
  INFO(advance.output);
  CHECK(advance.exit_code == 0);
  CHECK(absl::StrContains(advance.output, "stage 2: 96 tokens"));
  REQUIRE(ReachesStage(*train, 2));
  CHECK(Stage({"go", "3", out}).exit_code == 0);
  REQUIRE(ReachesStage(*train, 3));
  CHECK(Stage({"back", out}).exit_code == 0);
  REQUIRE(ReachesStage(*train, 2));

  const ProgramResult status = Stage({"status", out});
  INFO(status.output);
  CHECK(status.exit_code == 0);
  for (const char* told : {"stage 1: 48 tokens", "stage 2: 96 tokens", "stage 3: 144 tokens"}) {
    CHECK(absl::StrContains(status.output, told));
  }
  CHECK(absl::StrContains(status.output, "operator"));

  // What cannot be done says so, with 2, and changes nothing.
  const ProgramResult beyond = Stage({"go", "9", out});
  INFO(beyond.output);
  CHECK(beyond.exit_code == 2);
  CHECK(absl::StrContains(beyond.output, "stage"));
  const ProgramResult unknown = Stage({"advnce", out});
  CHECK(unknown.exit_code == 2);
  CHECK(absl::StrContains(unknown.output, "did you mean advance?"));

  train->Signal(SIGINT);
  CHECK(train->Wait(kPatience).has_value());
  const ProgramResult gone = Stage({"status", out});
  INFO(gone.output);
  CHECK(gone.exit_code == 2);
}

}  // namespace
}  // namespace crescendo
