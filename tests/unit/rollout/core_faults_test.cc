// Random orders of events and faults, from a seed: the learner gets each token of each group
// exactly once, every group is completed, and all blocks are free at the end.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "tests/unit/rollout/fake_world.h"

namespace crescendo {
namespace {

RolloutOptions Options(CounterRng& rng) {
  RolloutOptions options;
  options.engine.slots = 2 + static_cast<int>(rng.Below(16));
  options.engine.step_tokens = 32;
  options.engine.blocks = 24 + static_cast<int>(rng.Below(100));
  options.engine.block_tokens = 4;
  options.engine.stop_tokens = {1};
  options.chunk_tokens = 1 + static_cast<int>(rng.Below(12));
  options.unacked_tokens_max = 16 + static_cast<int>(rng.Below(50));
  options.chunks_in_flight_max = 1 + static_cast<int>(rng.Below(30));
  options.grades_in_flight_max = 1 + static_cast<int>(rng.Below(20));
  return options;
}

class Faults {
 public:
  explicit Faults(uint64_t seed) : rng_(seed), world_(Options(rng_), Model()) {}

  static ScriptedModelOptions Model() {
    ScriptedModelOptions options;
    options.block_tokens = 4;
    return options;
  }

  void Run() {
    world_.core.OnPublished(PolicyVersion(0), Incarnation());
    for (int i = 0; i < 1500 && world_.error.empty(); ++i) OneEvent();
    for (int i = 0; i < 20000 && world_.error.empty() && world_.done.size() < leased_; ++i) {
      Answer();
      if (i % 50 != 49) continue;
      // The steps that a killed learner lost are trained again.
      if (world_.published < peak_) ++world_.published;
      Heartbeat();
    }
    Check();
  }

 private:
  std::string Incarnation() const { return "l" + std::to_string(incarnation_); }

  void Heartbeat() {
    world_.core.OnPublished(PolicyVersion(world_.published), Incarnation());
    world_.Collect();
  }

  void Lease() {
    const uint64_t id = leased_++;
    const bool evaluate = rng_.Below(6) == 0;
    GroupLease lease = FakeWorld::Lease(id, 1 + static_cast<int>(rng_.Below(5)),
                                        1 + static_cast<int>(rng_.Below(40)));
    lease.sampling.temperature = 1;
    if (evaluate) {
      lease.purpose = GroupPurpose::kEvaluate;
    } else {
      lease.min_version = static_cast<int64_t>(rng_.Below(world_.published + 1));
    }
    min_version_[GroupId(id)] = lease.min_version;
    samples_[GroupId(id)] = lease.samples;
    limit_[GroupId(id)] = lease.context_tokens;
    train_[GroupId(id)] = !evaluate;
    world_.core.OnLeases({FakeWorld::Leased(lease)});
    world_.Collect();
  }

  // A learner that is killed comes back with what a checkpoint would hold: some groups are whole,
  // of others it knows a prefix or nothing, and the newest version may be gone.
  void KillLearner() {
    ++incarnation_;
    if (rng_.Below(2) == 0 && world_.published > 0) --world_.published;
    for (auto it = world_.held.begin(); it != world_.held.end();) {
      bool lost = !it->second.complete() && rng_.Below(2) == 0;
      for (auto& [index, sample] : it->second.samples) {
        for (const VersionRun& run : sample.versions) {
          lost = lost || (!it->second.complete() && run.version.value() > world_.published);
        }
      }
      it = lost ? world_.held.erase(it) : std::next(it);
    }
    world_.chunks.clear();
    world_.ResetLearner();
  }

  void OneEvent() {
    switch (rng_.Below(20)) {
      case 0:
        if (world_.core.stats().groups < 12) Lease();
        break;
      case 1:
        if (rng_.Below(8) == 0) peak_ = std::max(peak_, ++world_.published);
        Heartbeat();
        break;
      case 2:
        if (rng_.Below(12) == 0) KillLearner();
        break;
      case 3:  // the stream breaks, the learner lives
        if (rng_.Below(6) == 0) {
          world_.chunks.clear();
          world_.ResetLearner();
        }
        break;
      case 4:
        if (rng_.Below(4) == 0) {
          world_.grades.clear();
          world_.core.OnRewardReset();
          world_.Collect();
        }
        break;
      default:
        Answer();
    }
  }

  void Answer() {
    switch (rng_.Below(8)) {
      case 0:
        world_.TakeChunk();
        world_.TakeChunk();
        break;
      case 1:
        world_.TakeGrade();
        break;
      case 2:
        world_.TakeResume();
        break;
      case 3:
        world_.TakeCompletion();
        break;
      case 4:
        world_.TakePull(Incarnation());
        break;
      default:
        world_.Step();
    }
  }

  void Check() {
    CHECK(world_.error.empty());
    INFO(world_.error);
    CHECK(world_.abandoned.empty());
    REQUIRE(world_.done.size() == leased_);
    for (const auto& [id, completion] : world_.done) {
      if (train_[id]) {
        CheckTokens(id);
      } else {
        CHECK(static_cast<int>(completion.results.size()) == samples_[id]);
      }
      CHECK(completion.version_min.value() >= min_version_[id]);
    }
    const RolloutStats stats = world_.core.stats();
    CHECK(stats.groups == 0);
    CHECK(stats.blocks_used == 0);
    CHECK(stats.grading == 0);
    CHECK(stats.running + stats.waiting == 0);
  }

  void CheckTokens(GroupId id) {
    REQUIRE(world_.held.count(id) == 1);
    const FakeGroup& group = world_.held[id];
    REQUIRE(group.complete());
    for (const auto& [index, sample] : group.samples) {
      std::vector<int32_t> expected;
      while (static_cast<int>(expected.size()) < limit_[id]) {
        expected.push_back(ScriptedModel::TokenAt(Model(), 17, id.value(), index,
                                                  static_cast<uint32_t>(expected.size()), 0));
        if (expected.back() == 1) break;
      }
      REQUIRE(sample.tokens == expected);
      uint32_t runs = 0;
      for (const VersionRun& run : sample.versions) {
        runs += run.tokens;
        CHECK(run.version.value() >= min_version_[id]);
      }
      CHECK(runs == expected.size());
      CHECK(sample.close->verdict == FakeWorld::VerdictOf(expected));
    }
  }

  CounterRng rng_;
  FakeWorld world_;
  int64_t peak_ = 0;
  int incarnation_ = 0;
  uint64_t leased_ = 0;
  std::map<GroupId, int64_t> min_version_;
  std::map<GroupId, int> samples_;
  std::map<GroupId, int> limit_;
  std::map<GroupId, bool> train_;
};

TEST_CASE("Through random faults the learner gets every token of every group exactly once") {
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    INFO("seed " << seed);
    Faults faults(seed);
    faults.Run();
  }
}

}  // namespace
}  // namespace crescendo
