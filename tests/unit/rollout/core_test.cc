// The rollout core's flow, one rule a test.
#include <vector>

#include "catch2/catch.hpp"
#include "services/rollout/rollout_core.h"
#include "tests/unit/rollout/fake_world.h"

namespace crescendo {
namespace {

RolloutOptions Options() {
  RolloutOptions options;
  options.engine.slots = 16;
  options.engine.step_tokens = 64;
  options.engine.blocks = 256;
  options.engine.block_tokens = 4;
  options.engine.stop_tokens = {1};
  options.chunk_tokens = 8;
  options.unacked_tokens_max = 64;
  return options;
}

ScriptedModelOptions Model() {
  ScriptedModelOptions options;
  options.block_tokens = 4;
  return options;
}

std::vector<int32_t> Expected(uint64_t group, uint32_t sample, int limit) {
  std::vector<int32_t> tokens;
  while (static_cast<int>(tokens.size()) < limit) {
    tokens.push_back(ScriptedModel::TokenAt(Model(), 17, group, sample,
                                            static_cast<uint32_t>(tokens.size()), 0));
    if (tokens.back() == 1) break;
  }
  return tokens;
}

void CheckHeld(const FakeWorld& world, uint64_t group, int samples, int limit) {
  const auto it = world.held.find(GroupId(group));
  REQUIRE(it != world.held.end());
  REQUIRE(it->second.complete());
  for (int i = 0; i < samples; ++i) {
    const FakeSample& sample = it->second.samples.at(i);
    const auto expected = Expected(group, i, limit);
    CHECK(sample.tokens == expected);
    REQUIRE(sample.log_probs.size() == expected.size());
    for (size_t at = 0; at < expected.size(); ++at) {
      CHECK(sample.log_probs[at] == ScriptedModel::LogProbAt(expected[at], at));
    }
    CHECK(sample.close->verdict == FakeWorld::VerdictOf(expected));
    CHECK(sample.close->finish ==
          (expected.back() == 1 ? FinishReason::kStop : FinishReason::kTruncated));
  }
}

TEST_CASE("A training group goes from lease to completion") {
  FakeWorld world(Options(), Model());
  world.Step();
  // 16 slots, a quarter at a time, G not known yet.
  CHECK(world.asked == 4);
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(3, 4, 20))});
  world.Settle();
  CHECK(world.error.empty());
  CheckHeld(world, 3, 4, 20);
  REQUIRE(world.done.count(GroupId(3)) == 1);
  const GroupCompletion& completion = world.done[GroupId(3)];
  CHECK(completion.lease == LeaseId(1003));
  CHECK(completion.results.size() == 4);
  CHECK(completion.version_max == PolicyVersion(0));
  CHECK(world.core.stats().groups == 0);
  CHECK(world.core.stats().blocks_used == 0);
  CHECK(world.core.stats().generated_tokens > 0);
}

TEST_CASE("A closing chunk waits for the verdict") {
  FakeWorld world(Options(), Model());
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(1, 1, 12))});
  for (int i = 0; i < 30; ++i) {
    world.Step();
    while (world.TakeChunk()) {
    }
  }
  REQUIRE(world.grades.size() == 1);
  CHECK(!world.held[GroupId(1)].samples[0].close.has_value());
  CHECK(world.grades.front().tokens == Expected(1, 0, 12));
  CHECK(world.TakeGrade());
  CHECK(world.TakeChunk());
  CHECK(world.held[GroupId(1)].samples[0].close.has_value());
  CHECK(world.completions.size() == 1);
  // It is renewed until the coordinator has it.
  CHECK(world.core.Leases().size() == 1);
  CHECK(world.TakeCompletion());
  CHECK(world.core.Leases().empty());
}

TEST_CASE("An evaluation group sends no chunk and brings its results") {
  FakeWorld world(Options(), Model());
  GroupLease lease = FakeWorld::Lease(9, 2, 10);
  lease.purpose = GroupPurpose::kEvaluate;
  lease.pinned_version = 0;
  world.core.OnLeases({FakeWorld::Leased(lease)});
  world.Settle();
  CHECK(world.chunks_accepted == 0);
  REQUIRE(world.done.count(GroupId(9)) == 1);
  const GroupCompletion& completion = world.done[GroupId(9)];
  REQUIRE(completion.results.size() == 2);
  for (uint32_t i = 0; i < 2; ++i) {
    const auto expected = Expected(9, i, 10);
    CHECK(completion.results[i].tokens == expected.size());
    CHECK(completion.results[i].truncated == (expected.back() != 1));
    CHECK(completion.results[i].verdict == FakeWorld::VerdictOf(expected));
  }
}

TEST_CASE("A taken-over group asks first, skips what is closed and continues the rest") {
  FakeWorld world(Options(), Model());
  FakeGroup& held = world.held[GroupId(2)];
  held.header.samples = 3;
  const auto whole = Expected(2, 0, 20);
  const auto half = Expected(2, 1, 20);
  REQUIRE(half.size() > 4);
  held.samples[0] = {whole, std::vector<float>(whole.size(), -1), {{PolicyVersion(0), 20}}, {}};
  held.samples[0].close = SampleClose{FinishReason::kStop, Verdict::kCorrect, 1, 20};
  held.samples[1].tokens.assign(half.begin(), half.begin() + 4);
  held.samples[1].log_probs.assign(4, -0.5f);
  held.samples[1].versions = {{PolicyVersion(0), 4}};
  GroupLease lease = FakeWorld::Lease(2, 3, 20);
  lease.attempt = 1;
  world.core.OnLeases({FakeWorld::Leased(lease)});
  world.Step();
  CHECK(world.resumes.size() == 1);
  CHECK(world.core.stats().generated_tokens == 0);
  world.Settle();
  CHECK(world.error.empty());
  CHECK(held.complete());
  CHECK(held.samples[1].tokens == half);
  CHECK(held.samples[1].log_probs[3] == -0.5f);
  CHECK(held.samples[2].tokens == Expected(2, 2, 20));
  CHECK(world.core.stats().generated_tokens == half.size() - 4 + Expected(2, 2, 20).size());
}

TEST_CASE("A group that has ended at the learner is completed at once") {
  FakeWorld world(Options(), Model());
  world.ended.insert(GroupId(5));
  GroupLease lease = FakeWorld::Lease(5, 2, 10);
  lease.attempt = 2;
  world.core.OnLeases({FakeWorld::Leased(lease)});
  world.Settle();
  CHECK(world.done.count(GroupId(5)) == 1);
  CHECK(world.core.stats().generated_tokens == 0);
}

TEST_CASE("A group waits for the version that it needs, and the pull begins with the lease") {
  FakeWorld world(Options(), Model());
  world.core.OnPublished(PolicyVersion(0), "l0");
  GroupLease lease = FakeWorld::Lease(1, 2, 10);
  lease.min_version = 1;
  world.published = 1;
  world.core.OnLeases({FakeWorld::Leased(lease)});
  for (int i = 0; i < 3; ++i) CHECK(!world.Step());
  REQUIRE(world.pulls.size() == 1);
  CHECK(world.pulls.front() == PolicyVersion(1));
  world.Settle();
  CHECK(world.done[GroupId(1)].version_min == PolicyVersion(1));
  CHECK(world.model.version() == 1);
}

TEST_CASE("A swap drops nothing: each token keeps its version") {
  FakeWorld world(Options(), Model());
  world.core.OnPublished(PolicyVersion(0), "l0");
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(6, 4, 16))});
  for (int i = 0; i < 3; ++i) world.Step();
  world.published = 1;
  world.core.OnPublished(PolicyVersion(1), "l0");
  world.Settle();
  CheckHeld(world, 6, 4, 16);
  CHECK(world.done[GroupId(6)].version_min == PolicyVersion(0));
  CHECK(world.done[GroupId(6)].version_max == PolicyVersion(1));
}

TEST_CASE("A pinned group holds its version; a later one is swapped in when it is done") {
  FakeWorld world(Options(), Model());
  world.core.OnPublished(PolicyVersion(0), "l0");
  GroupLease lease = FakeWorld::Lease(7, 4, 12);
  lease.purpose = GroupPurpose::kEvaluate;
  lease.pinned_version = 0;
  world.core.OnLeases({FakeWorld::Leased(lease)});
  world.Step();
  world.published = 1;
  world.core.OnPublished(PolicyVersion(1), "l0");
  world.Settle();
  CHECK(world.done[GroupId(7)].version_max == PolicyVersion(0));
  for (int i = 0; i < 3; ++i) {
    world.Step();
    world.TakePull("l0");
  }
  CHECK(world.core.loaded() == PolicyVersion(1));
  // And back, for a group pinned to an older version that is still held by somebody.
  lease = FakeWorld::Lease(8, 1, 12);
  lease.purpose = GroupPurpose::kEvaluate;
  lease.pinned_version = 0;
  world.core.OnLeases({FakeWorld::Leased(lease)});
  world.Settle();
  CHECK(world.done[GroupId(8)].version_max == PolicyVersion(0));
}

TEST_CASE("A group pinned to a version that nobody holds is handed back") {
  FakeWorld world(Options(), Model());
  GroupLease lease = FakeWorld::Lease(7, 1, 12);
  lease.purpose = GroupPurpose::kEvaluate;
  lease.pinned_version = 4;
  world.core.OnLeases({FakeWorld::Leased(lease)});
  world.Settle("l0", 10);
  REQUIRE(world.abandoned.size() == 1);
  CHECK(world.abandoned[0].lease == LeaseId(1007));
  CHECK(world.core.stats().groups == 0);
}

TEST_CASE("Another learner voids newer tokens, weights and the stream") {
  FakeWorld world(Options(), Model());
  world.core.OnPublished(PolicyVersion(0), "l0");
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(6, 4, 16))});
  for (int i = 0; i < 3; ++i) world.Step();
  world.published = 1;
  world.core.OnPublished(PolicyVersion(1), "l0");
  for (int i = 0; i < 3; ++i) {
    world.Step();
    world.TakePull("l0");
  }
  CHECK(world.core.loaded() == PolicyVersion(1));
  const uint64_t tokens = world.core.Leases()[0].tokens;
  // It comes back at 0 and holds nothing.
  world.published = 0;
  world.held.clear();
  world.core.OnPublished(PolicyVersion(0), "l1");
  world.Collect();
  CHECK(world.core.Leases()[0].tokens < tokens);
  CHECK(!world.core.weights_valid());
  CHECK(!world.Step());
  world.Settle("l1");
  CHECK(world.error.empty());
  CheckHeld(world, 6, 4, 16);
  CHECK(world.done[GroupId(6)].version_max == PolicyVersion(0));
}

TEST_CASE("A group that can never fit is handed back, with the reason") {
  FakeWorld world(Options(), Model());
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(6, 4, 5000))});
  world.Collect();
  REQUIRE(world.abandoned.size() == 1);
  CHECK(world.abandoned[0].reason.find("rollout.kv_tokens") != std::string::npos);
  CHECK(world.core.stats().groups == 0);
}

TEST_CASE("A sample pauses when the learner acknowledges nothing") {
  RolloutOptions options = Options();
  options.unacked_tokens_max = 10;
  ScriptedModelOptions model = Model();
  model.mean_tokens = 1000;
  FakeWorld world(options, model);
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(6, 2, 100))});
  for (int i = 0; i < 200; ++i) world.Step();
  CHECK(world.core.Leases()[0].tokens == 2 * 11);
  while (world.TakeChunk()) {
  }
  CHECK(world.Step());
}

TEST_CASE("The window of chunks is a bound, and opens with acknowledgements") {
  RolloutOptions options = Options();
  options.chunk_tokens = 1;
  options.chunks_in_flight_max = 5;
  FakeWorld world(options, Model());
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(6, 4, 16))});
  for (int i = 0; i < 50; ++i) world.Step();
  CHECK(world.chunks.size() == 5);
  CHECK(world.core.stats().chunks_in_flight == 5);
  world.Settle();
  CheckHeld(world, 6, 4, 16);
}

TEST_CASE("Drain finishes what it can, then hands the rest back with its tokens") {
  ScriptedModelOptions model = Model();
  model.mean_tokens = 1000;
  FakeWorld world(Options(), model);
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(6, 2, 100)),
                       FakeWorld::Leased(FakeWorld::Lease(7, 2, 5))});
  world.Step();
  world.asked = 0;
  world.core.Drain(world.now + absl::Milliseconds(200));
  for (int i = 0; i < 60 && !world.core.drained(); ++i) {
    world.Step();
    while (world.TakeChunk() || world.TakeGrade() || world.TakeCompletion()) {
    }
  }
  CHECK(world.core.drained());
  CHECK(world.asked == 0);
  CHECK(world.done.count(GroupId(7)) == 1);
  REQUIRE(world.abandoned.size() == 1);
  CHECK(world.abandoned[0].group == GroupId(6));
  // What was decoded is with the learner, the last part of a chunk too.
  CHECK(world.held[GroupId(6)].samples[0].tokens.size() > 30);
}

TEST_CASE("A revoked lease is dropped with all it holds") {
  FakeWorld world(Options(), Model());
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(6, 4, 16))});
  for (int i = 0; i < 4; ++i) world.Step();
  world.core.OnRevoked(LeaseId(1006));
  CHECK(world.core.stats().groups == 0);
  CHECK(world.core.stats().blocks_used == 0);
  CHECK(!world.Step());
}

TEST_CASE("The same group leased again keeps its tokens under the new lease") {
  FakeWorld world(Options(), Model());
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(6, 4, 16))});
  for (int i = 0; i < 6; ++i) world.Step();
  GroupLease again = FakeWorld::Lease(6, 4, 16);
  again.lease = LeaseId(2006);
  again.attempt = 1;
  world.core.OnLeases({FakeWorld::Leased(again)});
  world.Settle();
  CheckHeld(world, 6, 4, 16);
  CHECK(world.done[GroupId(6)].lease == LeaseId(2006));
}

TEST_CASE("A failing model ends the step with its error") {
  FakeWorld world(Options(), Model());
  world.core.OnLeases({FakeWorld::Leased(FakeWorld::Lease(6, 4, 16))});
  world.model.FailWith(absl::InternalError("no memory"));
  CHECK(world.core.Step(world.now).status().code() == absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace crescendo
