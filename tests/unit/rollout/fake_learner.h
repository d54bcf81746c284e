// A learner that accepts exactly once and checks every chunk: for tests of the rollout worker.
#ifndef CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_LEARNER_H_
#define CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_LEARNER_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/domain.h"

namespace crescendo {

struct FakeSample {
  std::vector<int32_t> tokens;
  std::vector<float> log_probs;
  std::vector<VersionRun> versions;
  std::optional<SampleClose> close;
};

struct FakeGroup {
  GroupHeader header;
  std::map<uint32_t, FakeSample> samples;
  bool complete() const {
    if (static_cast<int>(samples.size()) < header.samples) return false;
    for (const auto& [index, sample] : samples) {
      if (!sample.close.has_value()) return false;
    }
    return true;
  }
};

// Not thread-safe.
class FakeLearner {
 public:
  // `stream` tells streams apart: a group's header must come once on each.
  ChunkAck Accept(uint64_t stream, const SampleChunk& chunk) {
    ++chunks_accepted;
    ChunkAck ack;
    ack.group = chunk.group;
    ack.sample = chunk.sample;
    if (ended.count(chunk.group) > 0) {
      ack.outcome = ChunkOutcome::kGroupEnded;
      return ack;
    }
    if (chunk.has_header) {
      held[chunk.group].header = chunk.header;
      headers.insert({stream, chunk.group});
    }
    if (headers.count({stream, chunk.group}) == 0) {
      ack.outcome = ChunkOutcome::kNeedHeader;
      return ack;
    }
    FakeGroup& group = held[chunk.group];
    FakeSample& sample = group.samples[chunk.sample];
    const size_t have = sample.tokens.size();
    ack.next_offset = static_cast<uint32_t>(have);
    uint32_t runs = 0;
    for (const VersionRun& run : chunk.versions) {
      runs += run.tokens;
      if (run.version.value() > published) {
        ack.outcome = ChunkOutcome::kRefused;
        ack.message = "a version that is not published";
        return ack;
      }
    }
    if (runs != chunk.tokens.size() || chunk.tokens.size() != chunk.log_probs.size()) {
      error = "lengths of a chunk disagree";
    }
    if (chunk.offset > have) {
      ack.outcome = ChunkOutcome::kGap;
      return ack;
    }
    size_t added = 0;
    for (size_t i = 0; i < chunk.tokens.size(); ++i) {
      const size_t at = chunk.offset + i;
      if (at < sample.tokens.size()) {
        if (sample.tokens[at] == chunk.tokens[i]) continue;
        ack.outcome = ChunkOutcome::kRefused;
        ack.message = absl::StrCat("a different token at ", at);
        return ack;
      }
      if (sample.close.has_value()) error = "tokens behind the close";
      sample.tokens.push_back(chunk.tokens[i]);
      sample.log_probs.push_back(chunk.log_probs[i]);
      ++added;
    }
    AddVersions(chunk, added, &sample);
    if (chunk.has_close) {
      if (chunk.close.total_tokens != sample.tokens.size()) error = "total_tokens is wrong";
      if (chunk.close.verdict == Verdict::kUnspecified) error = "a close without verdict";
      sample.close = chunk.close;
    }
    ack.outcome = added > 0 || chunk.has_close ? ChunkOutcome::kAccepted : ChunkOutcome::kDuplicate;
    ack.next_offset = static_cast<uint32_t>(sample.tokens.size());
    ack.sample_closed = sample.close.has_value();
    ack.group_complete = group.complete();
    return ack;
  }
  static void AddVersions(const SampleChunk& chunk, size_t added, FakeSample* sample) {
    size_t skip = chunk.tokens.size() - added;
    for (const VersionRun& run : chunk.versions) {
      const uint32_t use = run.tokens > skip ? run.tokens - static_cast<uint32_t>(skip) : 0;
      skip -= run.tokens - use;
      if (use > 0) sample->versions.push_back({run.version, use});
    }
  }
  ResumeReply Resume(GroupId group) const {
    ResumeReply reply;
    const auto it = held.find(group);
    if (ended.count(group) > 0 || (it != held.end() && it->second.complete())) {
      reply.state = ResumeState::kEnded;
    } else if (it == held.end()) {
      reply.state = ResumeState::kUnknown;
    } else {
      reply.state = ResumeState::kPartial;
      for (const auto& [index, sample] : it->second.samples) {
        if (sample.tokens.empty()) continue;
        reply.samples.push_back(PartialSample{index, sample.tokens, sample.log_probs,
                                              sample.versions, sample.close.has_value()});
      }
    }
    return reply;
  }

  std::string error;  // what a worker must never do
  int64_t published = 0;
  int chunks_accepted = 0;
  std::map<GroupId, FakeGroup> held;
  std::set<GroupId> ended;
  std::set<std::pair<uint64_t, GroupId>> headers;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_LEARNER_H_
