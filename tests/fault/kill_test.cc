// kill -9 of any service in the middle of the demo: it is started again, the run goes on and
// finishes, and every group was trained exactly once.
#include <signal.h>
#include <sqlite3.h>

#include <cstdio>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "tests/support/temp_dir.h"
#include "tests/support/train_run.h"

namespace crescendo {
namespace {

// Many and quick: a kill that follows a step's line must find the run in its middle.
constexpr int kSteps = 40;
constexpr int kGroups = 8;
constexpr absl::Duration kRunMax = absl::Minutes(5);

std::vector<std::string> ShortRun() {
  std::vector<std::string> overrides = ThreeStages(kGroups, 12, 12);
  overrides.insert(overrides.end(),
                   {absl::StrCat("--steps=", kSteps), "--curriculum.min_steps=2",
                    "--evaluation.problems=64", "--evaluation.every=20", "--coordinator.lease=2s"});
  return overrides;
}

// "step 3/8 ..." says that 3 steps are trained.
bool SaysStep(const std::string& line, int step) {
  int trained = 0;
  return std::sscanf(line.c_str(), "step %d/", &trained) == 1 && trained >= step;
}

// Rows of the journal's table of consumed groups: count, and first and last id.
std::string ConsumedGroups(const std::string& out) {
  sqlite3* db = nullptr;
  const std::string path = out + "/coordinator.sqlite";
  REQUIRE(sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READWRITE, nullptr) == SQLITE_OK);
  std::string found;
  const char* query =
      "SELECT count(*) || ' groups ' || min(group_id) || ' to ' || max(group_id) || ', ' || "
      "count(DISTINCT step) || ' steps' FROM outcome";
  const auto row = [](void* into, int, char** values, char**) {
    *static_cast<std::string*>(into) = values[0] == nullptr ? "" : values[0];
    return 0;
  };
  char* error = nullptr;
  const int code = sqlite3_exec(db, query, row, &found, &error);
  INFO((error == nullptr ? "" : error));
  CHECK(code == SQLITE_OK);
  sqlite3_free(error);
  sqlite3_close(db);
  return found;
}

void CheckWhole(const std::string& out) {
  const TrainRun run = ReadRun(out);
  CHECK(run.report.at("steps") == kSteps);
  REQUIRE(run.steps.size() == kSteps);
  for (int step = 0; step < kSteps; ++step) {
    CHECK(run.steps[step].at("step") == step);
    CHECK(run.steps[step].at("staleness_max") == 0);
  }
  CHECK(run.MismatchMax() <= 1e-4);
  CHECK(run.evaluations.size() == 3);
  CHECK(run.report.at("stages").size() == 3);
  CHECK(ConsumedGroups(out) == absl::StrCat(kSteps * kGroups, " groups 0 to ", kSteps * kGroups - 1,
                                            ", ", kSteps, " steps"));
}

// Kills the last of the processes of that name, which for ranks is not rank 0.
void KillInTheMiddle(const std::string& service, const std::vector<std::string>& more = {}) {
  const TempDir dir;
  const std::string out = dir.path() + "/run";
  std::vector<std::string> overrides = ShortRun();
  overrides.insert(overrides.end(), more.begin(), more.end());
  auto train = StartDemo(out, overrides);
  for (int step : {4, 12}) {  // twice: once in the first stage, once later
    const bool came =
        train->ReadUntil([&](const std::string& line) { return SaysStep(line, step); }, kRunMax);
    INFO(train->output());
    REQUIRE(came);
    // A service that is being started again is there in a moment.
    std::vector<pid_t> pids = ChildrenOf(train->pid(), service);
    for (int look = 0; pids.empty() && look < 100; ++look) {
      train->ReadUntil([](const std::string&) { return false; }, absl::Milliseconds(50));
      pids = ChildrenOf(train->pid(), service);
    }
    REQUIRE(!pids.empty());
    REQUIRE(kill(pids.back(), SIGKILL) == 0);
  }
  const std::optional<int> exit_code = train->Wait(kRunMax);
  INFO(train->output());
  REQUIRE(exit_code == 0);
  CHECK(absl::StrContains(train->output(), "SIGKILL (9)"));
  CheckWhole(out);
}

TEST_CASE("The coordinator is killed") { KillInTheMiddle("crescendo-coordinator"); }
TEST_CASE("The learner is killed") { KillInTheMiddle("crescendo-learner"); }
TEST_CASE("A rank of the learner is killed") {
  KillInTheMiddle("crescendo-learner", {"--learner.ranks=2"});
}
TEST_CASE("The reward service is killed") { KillInTheMiddle("crescendo-reward"); }
TEST_CASE("A rollout worker is killed") { KillInTheMiddle("crescendo-rollout"); }

TEST_CASE("Everything is killed at once, and the same command resumes") {
  const TempDir dir;
  const std::string out = dir.path() + "/run";
  {
    auto train = StartDemo(out, ShortRun());
    REQUIRE(train->ReadUntil([](const std::string& line) { return SaysStep(line, 3); }, kRunMax));
    const std::vector<pid_t> children = ChildrenOf(train->pid(), "crescendo-");
    CHECK(children.size() == 5);
    train->Signal(SIGKILL);
    train->Wait(absl::Minutes(1));
    // The services die with the supervisor: the pipe that they share with it has closed.
    for (pid_t child : children) CHECK(AwaitEnd(child, absl::Seconds(20)));
  }
  auto again = StartDemo(out, ShortRun());
  const std::optional<int> exit_code = again->Wait(kRunMax);
  INFO(again->output());
  REQUIRE(exit_code == 0);
  CHECK_FALSE(absl::StrContains(again->output(), "step 1/"));  // not from the beginning
  CheckWhole(out);
}

}  // namespace
}  // namespace crescendo
