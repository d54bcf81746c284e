// crescendo eval and crescendo data check as a user starts them, on the demo's recipe and sets.
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "catch2/catch.hpp"
#include "tests/support/subprocess.h"
#include "tests/support/temp_dir.h"
#include "tests/support/train_run.h"

namespace crescendo {
namespace {

constexpr absl::Duration kPatience = absl::Minutes(5);
constexpr char kDemoSet[] = "deploy/recipes/demo-eval.jsonl";

// The first 24 held-out problems, each second one called a variant of the one before.
std::string WithVariants(const TempDir& dir) {
  const auto text = dir.files->ReadFile(kDemoSet, 1 << 24);
  REQUIRE(text.ok());
  std::string out;
  std::string original;
  int rows = 0;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    auto row = nlohmann::json::parse(std::string(line), nullptr, false);
    if (!row.is_object() || ++rows > 24) continue;
    if (rows % 2 == 0) row["variant_of"] = original;
    original = row["id"].get<std::string>();
    absl::StrAppend(&out, row.dump(), "\n");
  }
  REQUIRE(dir.files->WriteFile(dir / "variants.jsonl", out).ok());
  return dir / "variants.jsonl";
}

TEST_CASE("sets are evaluated alone, and told with pass@k, majority and variants") {
  TempDir dir;
  const std::vector<std::string> argv = {BuiltProgram("crescendo"),
                                         "eval",
                                         "deploy/recipes/demo.toml",
                                         "--plain",
                                         "--out",
                                         dir / "eval",
                                         "--set",
                                         WithVariants(dir),
                                         kDemoSet,
                                         "--evaluation.samples=2",
                                         "--evaluation.problems=24"};
  const ProgramResult result = RunProgram(argv, kPatience);
  INFO(result.output);
  REQUIRE(result.exit_code == 0);
  REQUIRE(absl::StrContains(result.output, "variants of them, drop"));
  const TrainRun run = ReadRun(dir / "eval");
  CHECK(run.report["steps"] == 0);
  CHECK(run.evaluations.size() == 2);
  const nlohmann::json& sets = run.report["evaluations"];
  REQUIRE(sets.size() == 2);
  CHECK(sets[0]["set"] == "variants");
  CHECK(sets[0]["final"]["variants"]["originals"] == 12);
  CHECK(sets[1]["set"] == "demo-eval");
  for (const nlohmann::json& set : sets) {
    const nlohmann::json& final = set["final"];
    CHECK(final["problems"] == 24);
    CHECK(final["samples"] == 2);
    // The base solves a third; 48 samples scatter around that.
    CHECK(final["pass_at_1"].get<double>() > 0.05);
    CHECK(final["pass_at_1"].get<double>() < 0.75);
    CHECK(final["pass_at_k"]["1"].get<double>() == Approx(final["pass_at_1"].get<double>()));
    CHECK(final["pass_at_k"]["2"].get<double>() >= final["pass_at_1"].get<double>());
    CHECK(final["mean_tokens"].get<double>() > 0);
  }
  // The same command again shows what is there.
  const ProgramResult again = RunProgram(argv, kPatience);
  REQUIRE(again.exit_code == 0);
  CHECK(absl::StrContains(again.output, "this run is finished"));
}

TEST_CASE("a recipe without sets, and a set that is not there, are errors that say so") {
  TempDir dir;
  const auto run = [&](const std::vector<std::string>& more) {
    std::vector<std::string> argv = {BuiltProgram("crescendo"),
                                     "eval",
                                     "deploy/recipes/demo.toml",
                                     "--plain",
                                     "--out",
                                     dir / "eval"};
    argv.insert(argv.end(), more.begin(), more.end());
    return RunProgram(argv, kPatience);
  };
  const ProgramResult none = run({"--evaluation.set="});
  CHECK(none.exit_code == 2);
  CHECK(absl::StrContains(none.output, "no evaluation set"));
  const ProgramResult absent = run({"--set", dir / "absent.jsonl"});
  CHECK(absent.exit_code == 2);
  CHECK(absl::StrContains(absent.output, "absent.jsonl"));
}

TEST_CASE("no problem of the demo's held-out set is among its training problems") {
  const ProgramResult result =
      RunProgram({BuiltProgram("crescendo"), "data", "check", "deploy/recipes/demo-train.jsonl",
                  "--eval", kDemoSet, "--plain"},
                 kPatience);
  INFO(result.output);
  REQUIRE(result.exit_code == 0);
  CHECK_FALSE(absl::StrContains(result.output, "leak_exact"));
  CHECK_FALSE(absl::StrContains(result.output, "malformed"));
}

}  // namespace
}  // namespace crescendo
