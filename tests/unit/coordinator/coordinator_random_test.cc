// Random sequences of events, from printed seeds: whatever happens, the journal holds exactly the
// state, a restart brings exactly it back, and no group ends twice.
#include <map>
#include <set>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "services/coordinator/sqlite_journal.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/coordinator/coordinator_fixture.h"

namespace crescendo {
namespace {

CoordinatorOptions RandomRun(CounterRng& rng) {
  CoordinatorOptions options = SmallRun();
  options.steps = 6 + static_cast<int64_t>(rng.Below(10));
  options.max_staleness = static_cast<int>(rng.Below(4));
  options.curriculum.max_steps = {1 + static_cast<int>(rng.Below(5))};
  if (rng.Below(2) == 0) {
    options.evaluations = {{"held-out", 2, 1, {}, 96, static_cast<int>(rng.Below(4))},
                           {"other", 1, 2, {}, 48, static_cast<int>(rng.Below(4))}};
    options.evaluation_problems = MakeProblems(3, "e");
  }
  if (rng.Below(2) == 0) {
    options.settled_weight = 0.4;
    options.stages[0].level_mix = {3, 1};
    options.stages[1].level_mix = {1, 3};
  }
  return options;
}

// Random events by two workers and a learner that restarts from older checkpoints.
class Chaos {
 public:
  explicit Chaos(uint64_t seed) : rng_(seed, 1), run_(RandomRun(rng_)) {}

  Driver& run() { return run_; }

  void Event() {
    run_.now += absl::Milliseconds(static_cast<int64_t>(rng_.Below(1500)));
    const std::string worker = rng_.Below(2) == 0 ? "a" : "b";
    std::string& incarnation = incarnations_[worker];
    if (incarnation.empty()) incarnation = "i0";
    std::vector<GroupLease>& held = held_[worker];
    switch (rng_.Below(12)) {
      case 0:
        if (rng_.Below(4) == 0) incarnation = absl::StrCat("i", ++count_);
        (void)run_.Join(worker, incarnation);
        break;
      case 1:
      case 2: {
        auto leases = run_.state->Lease(worker, incarnation, 1 + int(rng_.Below(4)), run_.now);
        run_.Commit();
        if (leases.ok()) held.insert(held.end(), leases->begin(), leases->end());
        break;
      }
      case 3:
        (void)run_.Heartbeat(worker, held, rng_.Below(100), incarnation);
        break;
      case 4:
      case 5:
      case 6:
        if (!held.empty()) {
          const size_t i = rng_.Below(held.size());
          (void)run_.Complete(worker, held[i], Verdict::kCorrect,
                              rng_.Below(2) == 0 ? learner_ : "");
        }
        break;
      case 7:
        if (!held.empty() && rng_.Below(3) == 0) {
          (void)run_.state->Abandon(worker, {held[0].lease}, "full", run_.now);
        }
        break;
      case 8:
        run_.state->Tick(run_.now);
        break;
      case 9:
        Learner();
        break;
      case 10:
        (void)run_.Report(run_.state->trained(), {}, learner_);
        break;
      case 11:
        (void)run_.state->SetStage(static_cast<StageAction>(rng_.Below(4)), int(rng_.Below(2)),
                                   run_.now);
        break;
    }
    run_.Commit();
  }

 private:
  void Learner() {
    const int64_t trained = run_.state->trained();
    if (rng_.Below(3) == 0) learner_ = absl::StrCat("L", ++count_);
    int64_t step = trained;
    if (rng_.Below(3) == 0) step -= static_cast<int64_t>(rng_.Below(trained + 1));
    if (rng_.Below(8) == 0) step = trained + 1;
    (void)run_.Attach(step, learner_);
  }

  CounterRng rng_;
  Driver run_;
  std::string learner_ = "L0";
  int count_ = 0;
  std::map<std::string, std::string> incarnations_;
  std::map<std::string, std::vector<GroupLease>> held_;
};

void CheckInvariants(const JournalImage& image, const CoordinatorOptions& options) {
  size_t next = 0;
  for (const auto& [id, outcome] : image.outcomes) REQUIRE(id == next++);
  std::set<uint64_t> leases;
  for (const auto& [id, group] : image.groups) {
    if (!IsEvaluationGroup(group.group)) {
      REQUIRE(id == next++);  // consumed, then open: each group has one row
      REQUIRE(group.step <= image.scalars.trained + options.max_staleness);
    }
    if (group.state == GroupRowState::kLeased) {
      REQUIRE(leases.insert(group.lease.value()).second);
      REQUIRE(group.lease.value() < image.scalars.next_lease);
    }
  }
  REQUIRE(image.steps.size() == static_cast<size_t>(image.scalars.trained));
}

TEST_CASE("after any events the journal holds the state, and a restart brings it back") {
  for (uint64_t seed = 0; seed < 150; ++seed) {
    INFO("seed " << seed);
    Chaos chaos(seed);
    Driver& run = chaos.run();
    for (int i = 0; i < 300; ++i) {
      chaos.Event();
      const std::string text = Timeless(run.state->DurableImage());
      REQUIRE(text == Timeless(run.journal()));
      if (i % 50 != 49) continue;
      CheckInvariants(run.journal(), run.options());
      run.Restart();
      REQUIRE(Timeless(run.state->DurableImage()) == text);
    }
  }
}

TEST_CASE("SQLite gives back what the memory journal holds") {
  TempDir dir;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    INFO("seed " << seed);
    const std::string path = dir / absl::StrCat("j", seed, ".sqlite");
    auto journal = SqliteJournal::Open(path);
    REQUIRE(journal.ok());
    Chaos chaos(seed);
    Driver& run = chaos.run();
    for (int i = 0; i < 200; ++i) {
      chaos.Event();
      REQUIRE((*journal)->Append(run.TakeMirrored()).ok());
      if (i % 40 != 39) continue;
      journal->reset();
      journal = SqliteJournal::Open(path);
      INFO(journal.status().ToString());
      REQUIRE(journal.ok());
      const auto image = (*journal)->Load();
      REQUIRE(image.ok());
      REQUIRE(DebugString(*image) == DebugString(run.journal()));
    }
  }
}

TEST_CASE("a run that rolls back trains the same batches in the same stages as one that does not") {
  const auto batches = [](bool with_faults) {
    CoordinatorOptions options = SmallRun();
    options.max_staleness = 1;
    options.curriculum.max_steps = {4};
    options.settled_weight = 0.4;
    options.stages[0].level_mix = {3, 1};
    options.stages[1].level_mix = {1, 3};
    Driver run(options);
    REQUIRE(run.Join("w").ok());
    REQUIRE(run.Attach(0).ok());
    CounterRng rng(5);
    std::string learner = "L1";
    int faults = 0;
    while (!run.state->finished()) {
      for (const GroupLease& lease : run.Lease("w", 256)) REQUIRE(*run.Complete("w", lease));
      REQUIRE(run.Report(run.state->trained(), {}, learner).ok());
      if (!with_faults || rng.Below(3) != 0 || faults == 20) continue;
      learner = absl::StrCat("F", ++faults);
      REQUIRE(run.Attach(rng.Below(run.state->trained() + 1), learner).ok());
    }
    std::vector<std::string> rows;
    for (const auto& [id, outcome] : run.journal().outcomes) {
      rows.push_back(absl::StrCat(id, ":", outcome.step, ":", outcome.problem));
    }
    for (const auto& [step, plan] : run.journal().plans) {
      rows.push_back(absl::StrCat(step, ":", plan.stage, ":", plan.planned_at));
    }
    return rows;
  };
  REQUIRE(batches(true) == batches(false));
}

}  // namespace
}  // namespace crescendo
