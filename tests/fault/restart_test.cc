// In deterministic mode a run one of whose services is killed (-9) at any moment ends with bitwise
// the same weights as one that was left alone: the demo, seeded kills, each printed; and with two
// ranks of the learner, one of which is killed. CRESCENDO_RESTART_RUNS says how many runs are
// killed, and a quarter as many of two ranks; without it one for each service, and one.
#include <signal.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "tests/support/temp_dir.h"
#include "tests/support/train_run.h"

namespace crescendo {
namespace {

constexpr int kSteps = 10;
constexpr uint64_t kSeed = 20;
constexpr int kDelayMsMax = 400;  // longer than a step
constexpr absl::Duration kRunMax = absl::Minutes(5);
constexpr std::array<const char*, 4> kServices = {"crescendo-rollout", "crescendo-learner",
                                                  "crescendo-coordinator", "crescendo-reward"};

// Whatever the result depends on besides weights and optimizer takes part: stages, an adaptive KL,
// a choice of problems by their history, steps that are trained again because no checkpoint holds
// them.
std::vector<std::string> DeterministicRun() {
  std::vector<std::string> overrides = ThreeStages(4, 4, 3);
  overrides.insert(
      overrides.end(),
      {"--policy.deterministic=true", absl::StrCat("--steps=", kSteps), "--curriculum.min_steps=2",
       "--learner.checkpoint_every=3", "--data.settled_weight=0.3",
       "--objective.kl_coefficient=0.01", "--objective.kl_target=0.05", "--evaluation.problems=16",
       "--evaluation.every=5", "--coordinator.lease=2s"});
  return overrides;
}

std::string WeightsOf(const std::string& out) {
  std::ifstream file(out + "/policy/model.safetensors", std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  REQUIRE(bytes.size() > 100'000);
  return bytes;
}

struct Kill {
  std::string service;
  int step = 0;  // so many steps are trained; 0: the run has begun
  int delay_ms = 0;
  uint64_t which = 0;  // of several workers
  int rank = -1;       // of the learner's; -1: it has one
};

Kill KillOfRun(int run) {
  CounterRng rng(kSeed, static_cast<uint64_t>(run));
  Kill kill;
  kill.service = kServices[static_cast<size_t>(run) % kServices.size()];
  kill.step = static_cast<int>(rng.Below(kSteps));
  kill.delay_ms = static_cast<int>(rng.Below(kDelayMsMax));
  kill.which = rng.Below(2);
  return kill;
}

// Mostly a rank that is not rank 0.
Kill KillOfRank(int run) {
  CounterRng rng(kSeed + 1, static_cast<uint64_t>(run));
  Kill kill;
  kill.service = "crescendo-learner";
  kill.step = static_cast<int>(rng.Below(kSteps));
  kill.delay_ms = static_cast<int>(rng.Below(kDelayMsMax));
  kill.rank = run % 3 == 2 ? 0 : 1;
  return kill;
}

// As its launcher told it; -1: it has ended.
int RankOf(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/environ"), std::ios::binary);
  for (std::string word; std::getline(file, word, '\0');) {
    int rank = -1;
    if (absl::StartsWith(word, "RANK=") && absl::SimpleAtoi(word.substr(5), &rank)) return rank;
  }
  return -1;
}

// Those that `kill` may mean.
std::vector<pid_t> Targets(const Subprocess& train, const Kill& kill) {
  std::vector<pid_t> pids = ChildrenOf(train.pid(), kill.service);
  if (kill.rank >= 0) std::erase_if(pids, [&](pid_t pid) { return RankOf(pid) != kill.rank; });
  return pids;
}

bool Reached(const std::string& line, int step) {
  if (step == 0) return absl::StartsWith(line, "training ");
  int trained = 0;
  return std::sscanf(line.c_str(), "step %d/", &trained) == 1 && trained >= step;
}

void KillOne(Subprocess& train, const Kill& kill) {
  const auto reached = [&](const std::string& line) { return Reached(line, kill.step); };
  REQUIRE(train.ReadUntil(reached, kRunMax));
  const auto never = [](const std::string&) { return false; };
  train.ReadUntil(never, absl::Milliseconds(kill.delay_ms));
  std::vector<pid_t> pids = Targets(train, kill);
  for (int look = 0; pids.empty() && look < 100; ++look) {  // it is being started
    train.ReadUntil(never, absl::Milliseconds(50));
    pids = Targets(train, kill);
  }
  REQUIRE(!pids.empty());
  REQUIRE(::kill(pids[kill.which % pids.size()], SIGKILL) == 0);
}

int Runs() {
  const char* asked = std::getenv("CRESCENDO_RESTART_RUNS");
  int runs = static_cast<int>(kServices.size());
  if (asked != nullptr) REQUIRE(absl::SimpleAtoi(asked, &runs));
  return runs;
}

// The bits of a run that is left alone, held against those of runs that are killed.
void CheckKilledRuns(const std::vector<std::string>& overrides, const std::vector<Kill>& kills) {
  const TempDir dir;
  const TrainRun reference = RunDemo(dir.path() + "/reference", overrides, kRunMax);
  REQUIRE(reference.steps.size() == kSteps);
  CHECK(reference.MismatchMax() == 0);
  const std::string weights = WeightsOf(dir.path() + "/reference");
  size_t mended = 0;  // the others were killed when their work was done
  for (size_t i = 0; i < kills.size(); ++i) {
    const Kill& kill = kills[i];
    WARN("run " << i + 1 << " of " << kills.size() << ": " << kill.service
                << (kill.rank < 0 ? "" : absl::StrCat(" rank ", kill.rank)) << " is killed "
                << kill.delay_ms << " ms after step " << kill.step);
    const std::string out = absl::StrCat(dir.path(), "/run-", i);
    auto train = StartDemo(out, overrides);
    KillOne(*train, kill);
    const std::optional<int> exit_code = train->Wait(kRunMax);
    INFO(train->output());
    REQUIRE(exit_code == 0);
    if (absl::StrContains(train->output(), "SIGKILL (9)")) ++mended;
    const TrainRun run = ReadRun(out);
    CHECK(run.steps.size() == kSteps);
    CHECK(run.MismatchMax() == 0);
    const bool same = WeightsOf(out) == weights;
    CHECK(same);
  }
  CHECK(mended >= kills.size() / 2);
}

TEST_CASE("Killed at a random moment, a deterministic run ends with the same bits") {
  std::vector<Kill> kills;
  for (int i = 0; i < Runs(); ++i) kills.push_back(KillOfRun(i));
  CheckKilledRuns(DeterministicRun(), kills);
}

TEST_CASE("One of two ranks killed, a deterministic run ends with the same bits") {
  std::vector<std::string> overrides = DeterministicRun();
  overrides.insert(overrides.end(), {"--learner.ranks=2", "--learner.zero_stage=2"});
  std::vector<Kill> kills;
  for (int i = 0; i < std::max(1, Runs() / 4); ++i) kills.push_back(KillOfRank(i));
  CheckKilledRuns(overrides, kills);
}

}  // namespace
}  // namespace crescendo
