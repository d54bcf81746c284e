// The event files that a run leaves, read by TensorBoard's own reader: every number of
// metrics.jsonl at its step and its time.
#include "deploy/cli/tensorboard.h"

#include <nlohmann/json.hpp>
#include <string>

#include "catch2/catch.hpp"
#include "tests/support/subprocess.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

constexpr char kPython[] = ".venv-oracle/bin/oracle-python";
constexpr char kLines[] =
    R"({"kind":"evaluation","step":0,"set":"aime","pass_at_1":0.25,"ci95":[0.1,0.4]}
{"kind":"step","step":0,"stage":0,"reward_mean":0.5,"loss":-1.5e-7,"skipped":false,"elapsed_seconds":2.5}
not json
{"kind":"step","step":1,"stage":1,"reward_mean":0.75,"loss":null,"skipped":true,"elapsed_seconds":4.0}
{"kind":"evaluation","step":2,"set":"","pass_at_1":0.5}
)";

TEST_CASE("TensorBoard's reader finds every number") {
  const TempDir dir;
  const absl::Time begin = absl::FromUnixSeconds(1'700'000'000);
  const std::string file = dir / "events.out.tfevents.0.crescendo";
  REQUIRE(dir.files->WriteFile(file, TensorBoardEvents(kLines, begin)).ok());
  if (!dir.files->Exists(kPython)) {
    WARN("no oracles: run deploy/setup --tests");
    return;
  }
  const ProgramResult result = RunProgram(
      {kPython, "tests/parity/tensorboard/read_events.py", dir.path()}, absl::Seconds(100));
  INFO(result.output);
  REQUIRE(result.exit_code == 0);
  // Warnings may come before the line.
  const auto read =
      nlohmann::json::parse(result.output.substr(result.output.find("\n{") + 1), nullptr, false);
  REQUIRE(read.is_object());
  CHECK(read["train/reward_mean"].dump() == "[[1700000002.5,1,0.5],[1700000004.0,2,0.75]]");
  REQUIRE(read["train/loss"].size() == 1);
  CHECK(read["train/loss"][0][2].get<double>() == Approx(-1.5e-7));
  CHECK(read["train/skipped"][1][2] == 1.0);
  CHECK(read["evaluation/aime/pass_at_1"].dump() == "[[1700000000.0,0,0.25]]");
  CHECK(read["evaluation/set/pass_at_1"].dump() == "[[1700000004.0,2,0.5]]");
  CHECK(!read.contains("train/step"));
}

}  // namespace
}  // namespace crescendo
