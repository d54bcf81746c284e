// A request from outside the run, and its tokens as they are drawn. Plain values.
#ifndef CRESCENDO_SERVICES_ROLLOUT_SERVED_REQUEST_H_
#define CRESCENDO_SERVICES_ROLLOUT_SERVED_REQUEST_H_

#include <cstdint>
#include <vector>

#include "common/base/domain.h"
#include "common/base/ids.h"
#include "common/base/top_token.h"

namespace crescendo {

struct ServedRequest {
  uint64_t id = 0;  // below 2^62, unique in the worker's life
  std::vector<int32_t> prompt;
  SamplingParams sampling;  // checked by the caller
  int samples = 1;          // at least 1
  int limit = 0;            // completion tokens
  int32_t top_tokens = 0;   // given with each token, up to kTopTokensMax
  uint64_t seed = 0;        // the same seed and prompt draw the same tokens
};

// One token of a request's sample.
struct ServedToken {
  uint64_t request = 0;
  uint32_t sample = 0;
  int32_t token = 0;
  float log_prob = 0;  // at the request's temperature, before top-k, top-p and min-p
  FinishReason finish = FinishReason::kUnspecified;
  PolicyVersion version;
  std::vector<TopToken> top = {};  // the most probable first
};

// In the engine a request is a group of an id that no group of the run has: bit 62 is set (bit 63
// is the evaluation's).
inline constexpr uint64_t kServedBit = uint64_t{1} << 62;
inline GroupId ServedGroup(uint64_t request) { return GroupId(kServedBit | request); }
inline bool IsServed(GroupId group) {
  return (group.value() & (uint64_t{1} << 63)) == 0 && (group.value() & kServedBit) != 0;
}

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_SERVED_REQUEST_H_
