// The executable: what its user gets to see, and its exit codes.
#include <csignal>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "tests/support/subprocess.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

// A recipe with its data in a folder of its own.
struct Recipe {
  Recipe() {
    std::string rows;
    for (int i = 0; i < 8; ++i) {
      absl::StrAppend(&rows, "{\"id\":\"p", i, "\",\"problem\":\"what is ", i, "?\",\"answer\":\"",
                      i, "\"}\n");
    }
    REQUIRE(dir.files->WriteFile(dir / "train.jsonl", rows).ok());
    REQUIRE(dir.files
                ->WriteFile(dir / "run.toml", absl::StrCat(R"([run]
name = "small"
steps = 3
out = ")",
                                                           dir / "out", R"("
[policy]
path = "policy"
[data]
train = "train.jsonl"
[[stage]]
context_tokens = 48
[network]
coordinator = "127.0.0.1:0"
)"))
                .ok());
  }
  std::vector<std::string> Command(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> argv = {BuiltProgram("crescendo-coordinator"), "--config",
                                     dir / "run.toml"};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  // Starts it, waits until it serves, and ends it with SIGTERM; what it said.
  std::string RunBriefly() const {
    auto process = Subprocess::Start(Command());
    REQUIRE(process->ReadUntil(
        [](const std::string& line) { return absl::StrContains(line, "msg=serving"); },
        absl::Seconds(20)));
    process->Signal(SIGTERM);
    REQUIRE(process->Wait(absl::Seconds(20)) == 0);
    return process->output();
  }

  TempDir dir;
};

std::string RunIdOf(const std::string& output) {
  const size_t begin = output.find("run=");
  REQUIRE(begin != std::string::npos);
  return output.substr(begin, output.find(' ', begin) - begin);
}

TEST_CASE("it serves, stops on SIGTERM with status 0, and goes on with the same run") {
  const Recipe recipe;
  const std::string first = recipe.RunBriefly();
  REQUIRE(recipe.dir.files->Exists(recipe.dir / "out/coordinator.sqlite"));
  REQUIRE(RunIdOf(recipe.RunBriefly()) == RunIdOf(first));
}

TEST_CASE("a dry run says what would run and leaves nothing behind") {
  const Recipe recipe;
  const ProgramResult result = RunProgram(recipe.Command({"--dry-run"}), absl::Seconds(20));
  REQUIRE(result.exit_code == 0);
  REQUIRE(absl::StrContains(result.output, "training problems: 8"));
  REQUIRE(absl::StrContains(result.output, "stage 0: 48 tokens"));
  REQUIRE_FALSE(recipe.dir.files->Exists(recipe.dir / "out"));
}

TEST_CASE("a folder of another configuration is refused, naming what differs") {
  const Recipe recipe;
  recipe.RunBriefly();
  const ProgramResult result =
      RunProgram(recipe.Command({"--optimizer.learning_rate=0.5"}), absl::Seconds(20));
  INFO(result.output);
  REQUIRE(result.exit_code == 2);
  REQUIRE(absl::StrContains(result.output, "optimizer.learning_rate = 0.5 (was "));
  REQUIRE(absl::StrContains(result.output, "--run.out"));
  // What only says where and how fast it runs may change.
  auto process = Subprocess::Start(recipe.Command({"--coordinator.lease=20s"}));
  REQUIRE(process->ReadUntil(
      [](const std::string& line) { return absl::StrContains(line, "msg=serving"); },
      absl::Seconds(20)));
}

TEST_CASE("a bad row of the data set: file and line, status 2") {
  const Recipe recipe;
  REQUIRE(recipe.dir.files
              ->WriteFile(recipe.dir / "train.jsonl",
                          "{\"id\":\"a\",\"problem\":\"1+1\",\"answer\":\"2\"}\n{\"id\":\"b\"}\n")
              .ok());
  const ProgramResult result = RunProgram(recipe.Command(), absl::Seconds(20));
  REQUIRE(result.exit_code == 2);
  REQUIRE(absl::StrContains(result.output, "train.jsonl:2"));
  REQUIRE(absl::StrContains(result.output, "problem"));
}

TEST_CASE("a corrupt journal, and one that another coordinator has open: status 2") {
  const Recipe recipe;
  recipe.RunBriefly();
  {
    auto process = Subprocess::Start(recipe.Command());
    REQUIRE(process->ReadUntil(
        [](const std::string& line) { return absl::StrContains(line, "msg=serving"); },
        absl::Seconds(20)));
    const ProgramResult second = RunProgram(recipe.Command(), absl::Seconds(20));
    REQUIRE(second.exit_code == 2);
    REQUIRE(absl::StrContains(second.output, "another process has it open"));
  }
  for (const char* suffix : {"", "-wal"}) {
    (void)recipe.dir.files->Remove(recipe.dir / absl::StrCat("out/coordinator.sqlite", suffix));
  }
  REQUIRE(recipe.dir.files->WriteFile(recipe.dir / "out/coordinator.sqlite", std::string(9000, 'x'))
              .ok());
  const ProgramResult result = RunProgram(recipe.Command(), absl::Seconds(20));
  INFO(result.output);
  REQUIRE(result.exit_code == 2);
  REQUIRE(absl::StrContains(result.output, "out/coordinator.sqlite"));
}

}  // namespace
}  // namespace crescendo
