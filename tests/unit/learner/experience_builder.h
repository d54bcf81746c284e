// Chunks and groups for the learner's tests.
#ifndef CRESCENDO_TESTS_UNIT_LEARNER_EXPERIENCE_BUILDER_H_
#define CRESCENDO_TESTS_UNIT_LEARNER_EXPERIENCE_BUILDER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "common/base/domain.h"
#include "common/base/rng.h"
#include "services/learner/experience.h"

namespace crescendo {

inline constexpr int kTestVocabulary = 50;

inline GroupHeader TestHeader(int samples, int context_tokens = 64) {
  GroupHeader header;
  header.problem_id = "p";
  header.prompt_tokens = {1, 2, 3};
  header.samples = samples;
  header.context_tokens = context_tokens;
  return header;
}

// The token that a worker draws at a place; with another `variant`, what a diverged worker draws.
inline int32_t TestToken(uint64_t group, uint32_t sample, uint32_t place, uint64_t variant = 0) {
  return static_cast<int32_t>(TokenUniform(MixSeed(11, variant), group, sample, place) *
                              kTestVocabulary);
}

// Tokens [offset, offset + count) of a sample; `close_at` > 0: with a close of so many tokens.
inline SampleChunk TestChunk(uint64_t group, uint32_t sample, uint32_t offset, uint32_t count,
                             bool close = false, uint64_t lease = 1, int64_t version = 0,
                             uint64_t variant = 0) {
  SampleChunk chunk;
  chunk.group = GroupId(group);
  chunk.lease = LeaseId(lease);
  chunk.sample = sample;
  chunk.offset = offset;
  for (uint32_t i = 0; i < count; ++i) {
    chunk.tokens.push_back(TestToken(group, sample, offset + i, variant));
    chunk.log_probs.push_back(-0.25f * static_cast<float>(1 + i % 4));
  }
  if (count > 0) chunk.versions.push_back({PolicyVersion(version), count});
  if (close) {
    chunk.has_close = true;
    chunk.close.finish = FinishReason::kStop;
    chunk.close.verdict = sample % 2 == 0 ? Verdict::kCorrect : Verdict::kIncorrect;
    chunk.close.reward = sample % 2 == 0 ? 1 : 0;
    chunk.close.total_tokens = offset + count;
  }
  return chunk;
}

inline SampleChunk WithHeader(SampleChunk chunk, GroupHeader header) {
  chunk.has_header = true;
  chunk.header = std::move(header);
  return chunk;
}

// A closed group: sample i has lengths[i] tokens and is correct when i is even.
inline GroupExperience TestGroup(uint64_t id, const std::vector<uint32_t>& lengths,
                                 int64_t version = 0) {
  GroupExperience group;
  group.group = GroupId(id);
  group.header = TestHeader(static_cast<int>(lengths.size()));
  for (uint32_t i = 0; i < lengths.size(); ++i) {
    const SampleChunk chunk = TestChunk(id, i, 0, lengths[i], true, 1, version);
    SampleExperience sample;
    sample.tokens = chunk.tokens;
    sample.log_probs = chunk.log_probs;
    sample.versions = chunk.versions;
    sample.closed = true;
    sample.finish = chunk.close.finish;
    sample.verdict = chunk.close.verdict;
    sample.reward = chunk.close.reward;
    group.samples.push_back(std::move(sample));
  }
  return group;
}

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_LEARNER_EXPERIENCE_BUILDER_H_
