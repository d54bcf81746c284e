// The kinds of reward that are not mathematics, the rewards file, and the audit log.
#include "services/reward/reward_kinds.h"

#include <cstdlib>
#include <string>

#include "catch2/catch.hpp"
#include "common/os/posix_env.h"
#include "services/reward/audit_log.h"
#include "services/reward/reward_config.h"

namespace crescendo {
namespace {

RewardQuery Query(absl::string_view kind, absl::string_view gold, absl::string_view response) {
  RewardQuery query;
  query.grade.kind = kind;
  query.grade.gold = {gold};
  query.grade.response = response;
  return query;
}

Verdict Ask(const RewardKinds& kinds, absl::string_view kind, absl::string_view gold,
            absl::string_view response) {
  Grader grader({});
  return kinds.Evaluate(Query(kind, gold, response), grader).verdict;
}

TEST_CASE("Exact, choice and regex compare as they say") {
  const RewardKinds kinds;
  CHECK(Ask(kinds, "exact", "1/2", "\\boxed{1/2}") == Verdict::kCorrect);
  CHECK(Ask(kinds, "exact", "1/2", "\\boxed{0.5}") == Verdict::kIncorrect);
  CHECK(Ask(kinds, "exact", "", "\\boxed{}") == Verdict::kUndecided);
  CHECK(Ask(kinds, "choice", "B", "The answer is (B).") == Verdict::kCorrect);
  CHECK(Ask(kinds, "choice", "B", "\\boxed{C}") == Verdict::kIncorrect);
  CHECK(Ask(kinds, "choice", "42", "\\boxed{C}") == Verdict::kUndecided);
  CHECK(Ask(kinds, "regex", "[0-9]+ (cats|dogs)", "\\boxed{12 dogs}") == Verdict::kCorrect);
  CHECK(Ask(kinds, "regex", "[0-9]+", "\\boxed{12 dogs}") == Verdict::kIncorrect);
  CHECK(Ask(kinds, "regex", "(((", "\\boxed{1}") == Verdict::kUndecided);
  // Exponential for a backtracking engine.
  CHECK(Ask(kinds, "regex", "(a*)*b", "\\boxed{" + std::string(3000, 'a') + "}") ==
        Verdict::kIncorrect);
  CHECK(Ask(kinds, "no such kind", "1", "\\boxed{1}") == Verdict::kUndecided);
  CHECK(Ask(kinds, "", "1/2", "\\boxed{0.5}") == Verdict::kCorrect);
}

TEST_CASE("Format wants one thinking part that ends, then a box that ends") {
  const RewardKinds kinds;
  CHECK(Ask(kinds, "format", "", "<think>a</think> \\boxed{1}") == Verdict::kCorrect);
  CHECK(Ask(kinds, "format", "", "a</think> \\boxed{1}") == Verdict::kCorrect);
  CHECK(Ask(kinds, "format", "", "\\boxed{1}") == Verdict::kIncorrect);
  CHECK(Ask(kinds, "format", "", "<think>a</think> \\boxed{1") == Verdict::kIncorrect);
  CHECK(Ask(kinds, "format", "", "a</think>b</think>\\boxed{1}") == Verdict::kIncorrect);
  CHECK(Ask(kinds, "format", "", "a</think><think>\\boxed{1}") == Verdict::kIncorrect);
}

TEST_CASE("Overlong penalty is DAPO's equation 13") {
  CHECK(OverlongPenalty(12, 20, 8) == 0);
  CHECK(OverlongPenalty(16, 20, 8) == -0.5);
  CHECK(OverlongPenalty(20, 20, 8) == -1);
  CHECK(OverlongPenalty(21, 20, 8) == -1);
}

TEST_CASE("A rewards file is checked whole, and its kinds are used") {
  const auto config = ParseRewardConfig(R"(
[audit]
path = "audit.jsonl"
rate = 0.25
[kind.brief]
type = "length"
tokens_max = 20
tokens_buffer = 8
[kind.mixed]
type = "sum"
parts = [{kind = "math", weight = 1.0}, {kind = "format", weight = 0.5}, {kind = "brief", weight = 2}]
[kind.physics]
type = "external"
address = "127.0.0.1:7080"
timeout_seconds = 2.5
)",
                                        "rewards.toml");
  REQUIRE(config.ok());
  CHECK(config->audit.rate == 0.25);
  const auto kinds = RewardKinds::Make(config->kinds);
  REQUIRE(kinds.ok());
  CHECK((*kinds)->Find("physics")->timeout == absl::Seconds(2.5));
  Grader grader({});
  RewardQuery query = Query("mixed", "1/2", "<think></think>\\boxed{0.5}");
  query.tokens = 16;
  const Grade grade = (*kinds)->Evaluate(query, grader);
  CHECK(grade.verdict == Verdict::kCorrect);
  CHECK(grade.reward == 1 + 0.5 - 2 * 0.5);
}

TEST_CASE("What is wrong in a rewards file is named by line and key") {
  const auto message = [](absl::string_view toml) {
    return std::string(ParseRewardConfig(toml, "r.toml").status().message());
  };
  CHECK(message("[kind.a]\ntype = \"regexp\"\n")
            .find("r.toml:1: kind.a: type: expected math, exact") == 0);
  CHECK(message("[kind.a]\npattern = \"x\"\n")
            .find("r.toml:2: kind.a.pattern: expected a known key") == 0);
  CHECK(
      message("[audit]\nrate = 2.0\n").find("r.toml:2: audit.rate: expected a number in [0, 1]") ==
      0);
  CHECK(message("[kind.a]\ntype = \"regex\"\npattern = \"((\"\n").find("kind \"a\": pattern") !=
        std::string::npos);
  CHECK(message("[kind.a]\ntype = \"sum\"\nparts = [{kind = \"b\"}]\n").find("found \"b\"") !=
        std::string::npos);
  CHECK(message("[kind\n").find("r.toml:1: ") == 0);
  CHECK(message("x = 1\n").find("expected [audit] or [kind.NAME]") != std::string::npos);
}

TEST_CASE("The audit log rotates by size and samples by contents") {
  const auto files = MakePosixFileSystem();
  const char* build = std::getenv("CRESCENDO_BUILD_DIR");
  const std::string folder = std::string(build != nullptr ? build : "/tmp") + "/reward-audit-test";
  REQUIRE(files->RemoveTree(folder).ok());
  REQUIRE(files->MakeDirs(folder).ok());
  AuditOptions options;
  options.path = folder + "/audit.jsonl";
  options.bytes_max = 4096;
  options.files_max = 3;
  {
    AuditLog log(options, files.get());
    for (int i = 0; i < 10; ++i) log.Write(std::string(1500, 'x'));
    CHECK(log.TakeError().ok());
    CHECK(log.Samples("anything", "exact_equal"));
    CHECK_FALSE(log.Samples("anything", "byte_match"));
  }
  CHECK(files->FileSize(options.path).value() == 2 * 1501);
  CHECK(files->FileSize(options.path + ".1").value() == 2 * 1501);
  CHECK(files->FileSize(options.path + ".2").value() == 2 * 1501);
  CHECK_FALSE(files->Exists(options.path + ".3"));
  options.rate = 0.3;
  AuditLog log(options, files.get());
  int sampled = 0;
  for (int i = 0; i < 1000; ++i) sampled += log.Samples(std::to_string(i), "unproven") ? 1 : 0;
  CHECK(sampled > 240);
  CHECK(sampled < 360);
  REQUIRE(files->RemoveTree(folder).ok());
}

}  // namespace
}  // namespace crescendo
