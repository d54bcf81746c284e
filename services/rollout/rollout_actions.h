// What the rollout core asks of its adapter. Plain values.
#ifndef CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_ACTIONS_H_
#define CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_ACTIONS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/domain.h"
#include "common/base/ids.h"
#include "services/rollout/served_request.h"

namespace crescendo {

// Ask the coordinator for at most so many groups. Answer with OnLeases, empty when there were none
// or the call failed; until then none is asked again.
struct AskLeases {
  int groups_max = 0;
};

// Send to the learner on stream number `stream`. Streams are counted by the core: a higher number
// means a new stream, and what belongs to a lower one is void. Answer each with OnChunkAck, or the
// stream's end with OnLearnerReset.
struct SendChunk {
  uint64_t stream = 0;
  SampleChunk chunk;
};

// Ask the learner what it holds of a group; answer with OnResume and the same `stream`. Retry until
// answered or until a higher stream number makes it void.
struct RequestResume {
  uint64_t stream = 0;
  GroupId group;
};

// Have a finished sample graded; answer with OnVerdict, or the stream's end with OnRewardReset
// (then all that have no verdict are requested again, with new ids).
struct RequestGrade {
  uint64_t id = 0;  // unique in the worker's life
  GroupId group;
  uint32_t sample = 0;
  RewardSpec reward;
  std::string problem;
  std::vector<int32_t> tokens;  // the completion, stop token included
  uint32_t context_tokens = 0;
  bool truncated = false;
};

// Tell the coordinator; answer with OnCompleted. Retry until answered. worker_id is the adapter's.
struct CompleteGroup {
  GroupCompletion completion;
  // Completions whose text is to go along for people: those of results[first] of the pairs.
  std::vector<std::pair<size_t, std::vector<int32_t>>> shown;
};

// Hand leases back. No answer is awaited; a lease that is not renewed runs out anyway.
struct AbandonLease {
  LeaseId lease;
  GroupId group;
  std::string reason;
};

// Get the weights of this version (and stop getting any other); answer with OnWeightsReady or
// OnWeightsUnavailable.
struct PullWeights {
  PolicyVersion version;
};

using RolloutAction = std::variant<AskLeases, SendChunk, RequestResume, RequestGrade, CompleteGroup,
                                   AbandonLease, PullWeights, ServedToken>;

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_ACTIONS_H_
