#include "services/rollout/group_state.h"

#include <algorithm>

namespace crescendo {

void SampleState::Append(int32_t token, float log_prob, PolicyVersion version) {
  tokens.push_back(token);
  log_probs.push_back(log_prob);
  if (versions.empty() || versions.back().version != version) {
    versions.push_back(VersionRun{version, 0});
  }
  ++versions.back().tokens;
}

void SampleState::Truncate(uint32_t count) {
  tokens.resize(count);
  log_probs.resize(count);
  versions = VersionsOf(0, count);
  finish = FinishReason::kUnspecified;
  sent = std::min(sent, count);
  acked = std::min(acked, count);
  close_sent = false;
  closed = false;
  grade_id = 0;
  verdict = Verdict::kUnspecified;
  reward = 0;
  extracted.clear();
}

std::vector<VersionRun> SampleState::VersionsOf(uint32_t from, uint32_t count) const {
  std::vector<VersionRun> runs;
  uint32_t start = 0;
  for (const VersionRun& run : versions) {
    const uint32_t first = std::max(start, from);
    const uint32_t end = std::min(start + run.tokens, from + count);
    if (first < end) runs.push_back(VersionRun{run.version, end - first});
    start += run.tokens;
  }
  return runs;
}

uint32_t SampleState::TokensUpTo(PolicyVersion version) const {
  uint32_t count = 0;
  for (const VersionRun& run : versions) {
    if (run.version > version) break;
    count += run.tokens;
  }
  return count;
}

bool GroupState::decoded() const {
  return std::all_of(samples.begin(), samples.end(),
                     [](const SampleState& sample) { return sample.finished() || sample.closed; });
}

uint64_t GroupState::tokens() const {
  uint64_t sum = 0;
  for (const SampleState& sample : samples) sum += sample.tokens.size();
  return sum;
}

}  // namespace crescendo
