// The experience buffer takes each token once, whatever order, repetition or contradiction chunks
// come in.
#include "services/learner/experience_buffer.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "tests/unit/learner/experience_builder.h"

namespace crescendo {
namespace {

using Outcome = ChunkOutcome;

ExperienceBuffer MakeBuffer(int64_t published = 3, int64_t bytes_max = 1 << 20) {
  ExperienceOptions options;
  options.vocabulary_size = kTestVocabulary;
  options.bytes_max = bytes_max;
  return ExperienceBuffer(options, Ledger(), PolicyVersion(published));
}

StepPlan PlanOf(std::vector<uint64_t> groups, int samples, int64_t step = 0) {
  StepPlan plan;
  plan.step = StepId(step);
  for (uint64_t group : groups) plan.groups.emplace_back(group);
  plan.group_samples = samples;
  plan.context_tokens = 64;
  return plan;
}

void FillGroup(ExperienceBuffer& buffer, uint64_t group, int samples, int64_t version = 0) {
  for (int i = 0; i < samples; ++i) {
    const ChunkAck ack = buffer.Accept(WithHeader(
        TestChunk(group, static_cast<uint32_t>(i), 0, 8, true, 1, version), TestHeader(samples)));
    REQUIRE(ack.outcome == Outcome::kAccepted);
    REQUIRE(ack.group_complete == (i + 1 == samples));
  }
}

TEST_CASE("A group's life: header, chunks, close, complete, taken, ended") {
  ExperienceBuffer buffer = MakeBuffer();
  CHECK(buffer.Accept(TestChunk(5, 0, 0, 4)).outcome == Outcome::kNeedHeader);
  CHECK(buffer.Resume(GroupId(5)).state == ResumeState::kUnknown);
  ChunkAck ack = buffer.Accept(WithHeader(TestChunk(5, 0, 0, 4), TestHeader(2)));
  CHECK(ack.outcome == Outcome::kAccepted);
  CHECK(ack.next_offset == 4);
  ack = buffer.Accept(TestChunk(5, 0, 4, 3, true));
  CHECK(ack.outcome == Outcome::kAccepted);
  CHECK(ack.next_offset == 7);
  CHECK(ack.sample_closed);
  CHECK_FALSE(ack.group_complete);
  CHECK_FALSE(buffer.Complete(GroupId(5)));
  CHECK(buffer.Take(PlanOf({5}, 2)).status().code() == absl::StatusCode::kFailedPrecondition);
  ack = buffer.Accept(TestChunk(5, 1, 0, 2, true));
  CHECK(ack.group_complete);
  CHECK(buffer.Complete(GroupId(5)));
  // What comes now is told to stop, by tokens or by Resume.
  ack = buffer.Accept(TestChunk(5, 1, 0, 2, true));
  CHECK(ack.outcome == Outcome::kGroupEnded);
  CHECK(ack.group_complete);
  CHECK(buffer.Resume(GroupId(5)).state == ResumeState::kEnded);
  const std::vector<GroupExperience> groups = buffer.Take(PlanOf({5}, 2)).value();
  REQUIRE(groups.size() == 1);
  CHECK(groups[0].samples[0].tokens.size() == 7);
  CHECK(groups[0].samples[0].log_probs.size() == 7);
  CHECK(groups[0].samples[0].versions == std::vector<VersionRun>{{PolicyVersion(0), 7}});
  CHECK(groups[0].samples[0].reward == 1);
  CHECK(buffer.Accept(TestChunk(5, 1, 0, 2, true)).outcome == Outcome::kGroupEnded);
  CHECK(buffer.Resume(GroupId(5)).state == ResumeState::kEnded);
  CHECK(buffer.ledger().StepOf(GroupId(5)) == StepId(0));
  CHECK(buffer.bytes() == 0);
  CHECK(buffer.tokens() == 0);
  CHECK(buffer.groups() == 0);
}

TEST_CASE("Duplicates, overlaps and gaps") {
  ExperienceBuffer buffer = MakeBuffer();
  REQUIRE(buffer.Accept(WithHeader(TestChunk(1, 0, 0, 8), TestHeader(1))).outcome ==
          Outcome::kAccepted);
  ChunkAck ack = buffer.Accept(TestChunk(1, 0, 2, 4));
  CHECK(ack.outcome == Outcome::kDuplicate);
  CHECK(ack.next_offset == 8);
  ack = buffer.Accept(TestChunk(1, 0, 9, 4));
  CHECK(ack.outcome == Outcome::kGap);
  CHECK(ack.next_offset == 8);
  ack = buffer.Accept(TestChunk(1, 0, 6, 6, true, 1, 2));
  CHECK(ack.outcome == Outcome::kAccepted);
  CHECK(ack.next_offset == 12);
  const GroupExperience group = buffer
                                    .Take([] {
                                      StepPlan plan = PlanOf({1}, 1, 2);
                                      plan.max_staleness = 2;
                                      return plan;
                                    }())
                                    .value()[0];
  CHECK(group.samples[0].versions ==
        std::vector<VersionRun>{{PolicyVersion(0), 8}, {PolicyVersion(2), 4}});
  for (uint32_t i = 0; i < 12; ++i) CHECK(group.samples[0].tokens[i] == TestToken(1, 0, i));
  CHECK(buffer.counters().chunks_duplicate == 1);
  CHECK(buffer.counters().chunks_gap == 1);
  CHECK(buffer.counters().tokens_accepted == 12);
}

TEST_CASE("A first chunk that does not begin at the beginning is a gap") {
  ExperienceBuffer buffer = MakeBuffer();
  const ChunkAck ack = buffer.Accept(WithHeader(TestChunk(1, 0, 5, 2), TestHeader(1)));
  CHECK(ack.outcome == Outcome::kGap);
  CHECK(ack.next_offset == 0);
  CHECK(buffer.groups() == 0);
}

TEST_CASE("Every malformed chunk is refused, names its field, and changes nothing") {
  ExperienceBuffer buffer = MakeBuffer();
  REQUIRE(buffer.Accept(WithHeader(TestChunk(1, 0, 0, 4), TestHeader(2))).outcome ==
          Outcome::kAccepted);
  const int64_t bytes = buffer.bytes();
  const auto refused = [&](SampleChunk chunk, const std::string& field) {
    const ChunkAck ack = buffer.Accept(std::move(chunk));
    INFO("expected " << field << ", found: " << ack.message);
    CHECK(ack.outcome == Outcome::kRefused);
    CHECK(absl::StartsWith(ack.message, field + ":"));
    CHECK(buffer.bytes() == bytes);
  };
  const auto with = [&](auto change) {
    SampleChunk chunk = TestChunk(1, 0, 4, 4, true);
    change(chunk);
    return chunk;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  refused(with([](SampleChunk& c) { c.tokens[2] = kTestVocabulary; }), "tokens[2]");
  refused(with([](SampleChunk& c) { c.tokens[0] = -1; }), "tokens[0]");
  refused(with([](SampleChunk& c) { c.log_probs.pop_back(); }), "log_probs");
  refused(with([&](SampleChunk& c) { c.log_probs[1] = nan; }), "log_probs[1]");
  refused(with([&](SampleChunk& c) { c.log_probs[1] = -inf; }), "log_probs[1]");
  refused(with([](SampleChunk& c) { c.log_probs[3] = 0.1f; }), "log_probs[3]");
  refused(with([](SampleChunk& c) { c.versions[0].version = PolicyVersion(4); }), "versions[0]");
  refused(with([](SampleChunk& c) { c.versions[0].version = PolicyVersion(-1); }), "versions[0]");
  refused(with([](SampleChunk& c) { c.versions[0].tokens = 3; }), "versions");
  refused(with([](SampleChunk& c) { c.versions.push_back({PolicyVersion(0), 0}); }), "versions[1]");
  refused(with([](SampleChunk& c) { c.sample = 2; }), "sample");
  refused(with([](SampleChunk& c) { c.close.total_tokens = 9; }), "close.total_tokens");
  refused(with([](SampleChunk& c) { c.close.total_tokens = 0; }), "close.total_tokens");
  refused(with([](SampleChunk& c) { c.close.verdict = Verdict::kUnspecified; }), "close.verdict");
  refused(with([](SampleChunk& c) { c.close.finish = FinishReason::kUnspecified; }),
          "close.finish");
  refused(with([](SampleChunk& c) { c.close.reward = std::nan(""); }), "close.reward");
  refused(with([](SampleChunk& c) { c.group = GroupId((uint64_t{1} << 63) | 1); }), "group_id");
  refused(with([](SampleChunk& c) { c.lease = LeaseId(); }), "lease_id");
  refused(TestChunk(1, 0, 4, 61), "offset");
  refused(TestChunk(1, 0, 4, limits::kChunkTokensMax + 1), "tokens");
  const auto header = [&](auto change) {
    GroupHeader h = TestHeader(2);
    change(h);
    return WithHeader(TestChunk(2, 0, 0, 4), h);
  };
  refused(header([](GroupHeader& h) { h.samples = 0; }), "header.samples");
  refused(header([](GroupHeader& h) { h.samples = limits::kGroupSamplesMax + 1; }),
          "header.samples");
  refused(header([](GroupHeader& h) { h.context_tokens = 0; }), "header.context_tokens");
  refused(header([](GroupHeader& h) { h.prompt_tokens.clear(); }), "header.prompt_tokens");
  refused(header([](GroupHeader& h) { h.prompt_tokens[1] = 99; }), "header.prompt_tokens[1]");
  refused(header([](GroupHeader& h) { h.temperature = 0; }), "header.temperature");
  SampleChunk other = WithHeader(TestChunk(1, 0, 4, 1), TestHeader(3));
  refused(other, "header");
  CHECK(buffer.counters().chunks_refused == 27);
  CHECK(buffer.Accept(TestChunk(1, 0, 4, 4, true)).outcome == Outcome::kAccepted);
}

TEST_CASE("A group far beyond what can have been leased is refused, once a plan is known") {
  ExperienceOptions options;
  options.vocabulary_size = kTestVocabulary;
  options.groups_ahead_max = 8;
  ExperienceBuffer buffer(options, Ledger(), PolicyVersion(3));
  const auto accept = [&](uint64_t group) {
    return buffer.Accept(WithHeader(TestChunk(group, 0, 0, 4), TestHeader(2)));
  };
  CHECK(accept(1000).outcome == Outcome::kAccepted);  // nothing is known yet
  buffer.SetWanted({GroupId(4), GroupId(5)});
  CHECK(accept(13).outcome == Outcome::kAccepted);
  const ChunkAck ack = accept(14);
  CHECK(ack.outcome == Outcome::kRefused);
  CHECK(absl::StartsWith(ack.message, "group_id:"));
  buffer.SetWanted({});  // between two plans the last one's bound holds
  CHECK(accept(14).outcome == Outcome::kRefused);
  buffer.SetWanted({GroupId(6), GroupId(7)});
  CHECK(accept(14).outcome == Outcome::kAccepted);
  CHECK(buffer.groups() == 3);
}

TEST_CASE("A closed sample stays as it is") {
  ExperienceBuffer buffer = MakeBuffer();
  REQUIRE(buffer.Accept(WithHeader(TestChunk(1, 0, 0, 6, true), TestHeader(2))).sample_closed);
  CHECK(buffer.Accept(TestChunk(1, 0, 0, 6, true)).outcome == Outcome::kDuplicate);
  CHECK(buffer.Accept(TestChunk(1, 0, 2, 2)).outcome == Outcome::kDuplicate);
  ChunkAck ack = buffer.Accept(TestChunk(1, 0, 6, 2));
  CHECK(ack.outcome == Outcome::kRefused);
  CHECK(ack.next_offset == 6);
  SampleChunk other_verdict = TestChunk(1, 0, 0, 6, true);
  other_verdict.close.verdict = Verdict::kIncorrect;
  CHECK(buffer.Accept(other_verdict).outcome == Outcome::kRefused);
  // A newer lease that drew something else only learns that the sample is done.
  ack = buffer.Accept(TestChunk(1, 0, 0, 9, true, 2, 0, /*variant=*/1));
  CHECK(ack.outcome == Outcome::kDuplicate);
  CHECK(ack.sample_closed);
  CHECK(ack.next_offset == 6);
  CHECK(buffer.counters().conflicts == 3);
}

TEST_CASE("Where two leases differ the newer one wins, and the older one cannot go on") {
  ExperienceBuffer buffer = MakeBuffer();
  REQUIRE(buffer.Accept(WithHeader(TestChunk(1, 0, 0, 10), TestHeader(1))).outcome ==
          Outcome::kAccepted);
  // The same lease may not contradict itself.
  ChunkAck ack = buffer.Accept(TestChunk(1, 0, 8, 4, false, 1, 0, 1));
  CHECK(ack.outcome == Outcome::kRefused);
  CHECK(ack.next_offset == 10);
  // A newer one replaces what differs.
  ack = buffer.Accept(TestChunk(1, 0, 8, 4, false, 2, 1, 1));
  CHECK(ack.outcome == Outcome::kAccepted);
  CHECK(ack.next_offset == 12);
  CHECK(buffer.counters().tokens_replaced >= 1);
  const ResumeReply held = buffer.Resume(GroupId(1));
  REQUIRE(held.state == ResumeState::kPartial);
  REQUIRE(held.samples.size() == 1);
  for (uint32_t i = 0; i < 12; ++i) {
    CHECK(held.samples[0].tokens[i] == TestToken(1, 0, i, i < 8 ? 0 : 1));
  }
  // The old worker goes on from where it believes to be: equal or not, it adds nothing.
  CHECK(buffer.Accept(TestChunk(1, 0, 12, 4, true)).outcome == Outcome::kRefused);
  CHECK(buffer.Accept(TestChunk(1, 0, 10, 4)).outcome == Outcome::kRefused);
  CHECK(buffer.Accept(TestChunk(1, 0, 0, 4)).outcome == Outcome::kDuplicate);
  // After the coordinator was replaced, lease ids begin anew.
  buffer.BeginLeases({});
  CHECK(buffer.Accept(TestChunk(1, 0, 12, 4, true, 1, 0, 1)).group_complete);
}

TEST_CASE("Only a lease that was granted for the group counts: its key says so") {
  ExperienceBuffer buffer = MakeBuffer();
  const LeaseSecret secret{3, 4};
  buffer.BeginLeases(secret);
  const auto send = [&](uint32_t offset, uint64_t lease, uint64_t key) {
    SampleChunk chunk = WithHeader(TestChunk(1, 0, offset, 4, false, lease), TestHeader(1));
    chunk.lease_key = key;
    return buffer.Accept(chunk);
  };
  const auto key = [&](uint64_t lease, uint64_t group = 1) {
    return LeaseKey(secret, LeaseId(lease), GroupId(group));
  };
  const auto refused = [&](const ChunkAck& ack, const std::string& field) {
    INFO(ack.message);
    CHECK(ack.outcome == Outcome::kRefused);
    CHECK(ack.message.rfind(field + ": ", 0) == 0);
  };
  refused(send(0, 1, 0), "lease_key");
  refused(send(0, 1, key(1, 2)), "lease_key");                                 // of another group
  refused(send(0, 1, LeaseKey({3, 5}, LeaseId(1), GroupId(1))), "lease_key");  // of another run
  CHECK(buffer.Resume(GroupId(1)).state == ResumeState::kUnknown);
  CHECK(send(0, 1, key(1)).outcome == Outcome::kAccepted);
  // An id above all that were granted would win over them.
  refused(send(4, 1'000'000, key(1)), "lease_key");
  CHECK(send(4, 2, key(2)).outcome == Outcome::kAccepted);
  // The first lease's key makes no second lease, and replayed as it was it adds nothing.
  refused(send(8, 2, key(1)), "lease_key");
  refused(send(8, 1, key(1)), "lease_id");
  CHECK(buffer.Resume(GroupId(1)).samples.at(0).tokens.size() == 8);
  CHECK(buffer.counters().chunks_refused == 6);
  CHECK(buffer.counters().chunks_accepted == 2);
}

TEST_CASE("A newer lease may end a sample earlier than an older one went") {
  ExperienceBuffer buffer = MakeBuffer();
  REQUIRE(buffer.Accept(WithHeader(TestChunk(1, 0, 0, 10), TestHeader(1))).outcome ==
          Outcome::kAccepted);
  CHECK(buffer.Accept(TestChunk(1, 0, 0, 6, true, 1)).outcome == Outcome::kRefused);
  const ChunkAck ack = buffer.Accept(TestChunk(1, 0, 0, 6, true, 2));
  CHECK(ack.outcome == Outcome::kAccepted);
  CHECK(ack.next_offset == 6);
  CHECK(ack.group_complete);
}

TEST_CASE("A newer lease with another header starts the group anew") {
  ExperienceBuffer buffer = MakeBuffer();
  REQUIRE(buffer.Accept(WithHeader(TestChunk(1, 0, 0, 10), TestHeader(1))).outcome ==
          Outcome::kAccepted);
  const ChunkAck ack =
      buffer.Accept(WithHeader(TestChunk(1, 0, 0, 3, false, 2), TestHeader(1, 32)));
  CHECK(ack.outcome == Outcome::kAccepted);
  CHECK(ack.next_offset == 3);
  CHECK(buffer.tokens() == 3);
}

TEST_CASE("Take: stale or misshapen groups are named and stay") {
  ExperienceBuffer buffer = MakeBuffer(9);
  FillGroup(buffer, 1, 2, 7);
  FillGroup(buffer, 2, 2, 9);
  StepPlan plan = PlanOf({1, 2}, 2, 9);
  plan.max_staleness = 1;
  const absl::Status stale = buffer.Take(plan).status();
  CHECK(stale.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(stale.message() ==
        "step 9: group 1, sample 0 holds a token of version 7; expected 8 or newer");
  CHECK(buffer.Unfit(plan) == std::vector<GroupId>{GroupId(1)});
  CHECK(buffer.groups() == 2);
  plan.max_staleness = 2;
  CHECK(buffer.Unfit(plan).empty());
  plan.group_samples = 3;
  CHECK(buffer.Unfit(plan).size() == 2);
  plan.group_samples = 2;
  CHECK(buffer.Take(plan).value()[1].group == GroupId(2));
  CHECK(buffer.Take(plan).status().code() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("A full buffer holds back what no plan wants, and never the plan that empties it") {
  ExperienceBuffer buffer = MakeBuffer(0, 4000);
  uint64_t group = 0;
  while (buffer.HasRoomFor(TestChunk(group, 0, 0, 8))) {
    REQUIRE(group < 1000);
    FillGroup(buffer, group, 1);
    ++group;
  }
  CHECK(group > 2);
  const SampleChunk next = WithHeader(TestChunk(group, 0, 0, 8, true), TestHeader(1));
  CHECK_FALSE(buffer.HasRoomFor(next));
  CHECK(buffer.HasRoomFor(TestChunk(0, 0, 0, 8)));  // ended: costs nothing
  buffer.SetWanted({GroupId(group)});
  CHECK(buffer.HasRoomFor(next));
  CHECK_FALSE(buffer.HasRoomFor(TestChunk(group + 1, 0, 0, 8)));
  REQUIRE(buffer.Accept(next).group_complete);
  REQUIRE(buffer.Take(PlanOf({0, 1, group}, 1)).ok());
  CHECK(buffer.HasRoomFor(TestChunk(group + 1, 0, 0, 8)));
}

// A worker as the rollout core behaves: sends in order, goes back to next_offset on a gap.
struct Sender {
  uint64_t group;
  uint32_t sample;
  uint64_t lease;
  uint32_t length;
  uint32_t next = 0;
  bool done = false;
};

TEST_CASE("Random orders, repeats and two workers per sample: each token is held once") {
  const uint64_t seed = GENERATE(range(1, 21));
  INFO("seed " << seed);
  CounterRng rng(seed);
  constexpr int kGroups = 6;
  constexpr int kSamples = 4;
  ExperienceBuffer buffer = MakeBuffer();
  std::vector<Sender> senders;
  for (uint64_t g = 0; g < kGroups; ++g) {
    for (uint32_t s = 0; s < kSamples; ++s) {
      const uint32_t length = 1 + static_cast<uint32_t>(rng.Below(60));
      senders.push_back({g, s, 1, length});
      // Half of the groups were leased again; draws are equal, for they depend on the place only.
      if (g % 2 == 0) senders.push_back({g, s, 2, length});
    }
  }
  uint64_t completions = 0;
  uint64_t accepted = 0;
  for (int round = 0; round < 100000; ++round) {
    std::vector<Sender*> open;
    for (Sender& sender : senders) {
      if (!sender.done) open.push_back(&sender);
    }
    if (open.empty()) break;
    Sender& sender = *open[rng.Below(open.size())];
    uint32_t offset = sender.next;
    if (rng.Below(4) == 0) offset = static_cast<uint32_t>(rng.Below(sender.length + 1));
    const uint32_t count =
        std::min<uint32_t>(sender.length - offset, static_cast<uint32_t>(rng.Below(12)));
    const bool close = offset + count == sender.length;
    SampleChunk chunk = TestChunk(sender.group, sender.sample, offset, count, close, sender.lease,
                                  static_cast<int64_t>(rng.Below(4)));
    if (rng.Below(2) == 0) chunk = WithHeader(chunk, TestHeader(kSamples));
    const bool had_header = chunk.has_header;
    const ChunkAck ack = buffer.Accept(std::move(chunk));
    switch (ack.outcome) {
      case Outcome::kAccepted:
        ++accepted;
        completions += ack.group_complete;
        sender.next = ack.next_offset;
        break;
      case Outcome::kDuplicate:
        sender.next = ack.next_offset;
        break;
      case Outcome::kGap:
        REQUIRE(offset > ack.next_offset);
        sender.next = ack.next_offset;
        break;
      case Outcome::kNeedHeader:
        REQUIRE_FALSE(had_header);
        break;
      case Outcome::kGroupEnded:
        sender.done = true;
        break;
      case Outcome::kRefused:
        // Only a worker whose lease was granted again.
        REQUIRE(sender.lease == 1);
        REQUIRE(absl::StartsWith(ack.message, "lease_id:"));
        sender.done = true;
        break;
      default:
        FAIL("no outcome");
    }
    if (ack.sample_closed) sender.done = true;
  }
  CHECK(completions == kGroups);
  CHECK(accepted == buffer.counters().chunks_accepted);
  CHECK(buffer.counters().conflicts == 0);
  CHECK(buffer.counters().tokens_replaced == 0);
  StepPlan plan = PlanOf({0, 1, 2, 3, 4, 5}, kSamples);
  const std::vector<GroupExperience> groups = buffer.Take(plan).value();
  uint64_t tokens = 0;
  for (const GroupExperience& group : groups) {
    for (uint32_t s = 0; s < kSamples; ++s) {
      const SampleExperience& sample = group.samples[s];
      CHECK(sample.closed);
      uint64_t in_runs = 0;
      for (const VersionRun& run : sample.versions) in_runs += run.tokens;
      CHECK(in_runs == sample.tokens.size());
      CHECK(sample.log_probs.size() == sample.tokens.size());
      for (uint32_t i = 0; i < sample.tokens.size(); ++i) {
        CHECK(sample.tokens[i] == TestToken(group.group.value(), s, i));
      }
      tokens += sample.tokens.size();
    }
  }
  CHECK(tokens == buffer.counters().tokens_accepted);
  CHECK(buffer.bytes() == 0);
}

TEST_CASE("A diverged worker never mixes its tokens into a newer lease's sample") {
  const uint64_t seed = GENERATE(range(1, 21));
  INFO("seed " << seed);
  CounterRng rng(seed);
  ExperienceBuffer buffer = MakeBuffer();
  constexpr uint32_t kLength = 40;
  REQUIRE(buffer.Accept(WithHeader(TestChunk(1, 0, 0, 5), TestHeader(1))).outcome ==
          Outcome::kAccepted);
  // The worker of lease 2 draws variant 0; the old one drew variant 1 from place 5 on, and sends at
  // any time, from wherever it is told to go on.
  uint32_t next = 5;
  uint32_t stale_next = 5;
  bool closed = false;
  while (!closed) {
    if (rng.Below(2) == 0) {
      const uint32_t count =
          std::min<uint32_t>(kLength - stale_next, 1 + static_cast<uint32_t>(rng.Below(6)));
      stale_next = buffer.Accept(TestChunk(1, 0, stale_next, count, false, 1, 0, 1)).next_offset;
    } else {
      const uint32_t count =
          std::min<uint32_t>(kLength - next, 1 + static_cast<uint32_t>(rng.Below(6)));
      const ChunkAck ack = buffer.Accept(TestChunk(1, 0, next, count, next + count == kLength, 2));
      REQUIRE(ack.outcome == Outcome::kAccepted);
      REQUIRE(ack.next_offset == next + count);
      next += count;
      closed = ack.sample_closed;
    }
  }
  const GroupExperience group = buffer.Take(PlanOf({1}, 1)).value()[0];
  REQUIRE(group.samples[0].tokens.size() == kLength);
  for (uint32_t i = 0; i < kLength; ++i) CHECK(group.samples[0].tokens[i] == TestToken(1, 0, i));
}

}  // namespace
}  // namespace crescendo
