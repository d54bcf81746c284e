// The decode loop in three verbs over plain data: schedule, run, postprocess. Groups in, drawn
// tokens out.
//
// Invariants: the token at (group, sample, position) is drawn with TokenUniform(seed, group,
// sample, position), whatever the batch (group: GroupRequest::draw_id, if it has one); a sample
// never holds more than its limit, and nothing behind a stop token; when the engine holds no group,
// all blocks are free.
//
// Not thread-safe: one thread owns it. `runner` outlives it.
#ifndef CRESCENDO_SERVICES_ROLLOUT_ENGINE_H_
#define CRESCENDO_SERVICES_ROLLOUT_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/domain.h"
#include "common/base/ids.h"
#include "services/rollout/block_manager.h"
#include "services/rollout/model_runner.h"
#include "services/rollout/scheduler.h"
#include "services/rollout/sequence.h"

namespace crescendo {

struct EngineOptions {
  int slots = 256;         // samples decoded at once
  int step_tokens = 2048;  // new tokens of a step; at least slots
  int blocks = 4096;       // of the KV pool
  int block_tokens = 16;
  std::vector<int32_t> stop_tokens;  // each ends a completion and is its last token
};

struct SampleStart {
  uint32_t sample = 0;
  std::vector<int32_t> drawn;  // what it holds already (resumed); must not be finished
};

struct GroupRequest {
  GroupId id;
  std::optional<GroupId> draw_id;
  uint64_t seed = 0;
  SamplingParams sampling;
  int limit = 0;                // completion tokens, > 0
  int32_t top_tokens = 0;       // to be given with each draw, up to kTopTokensMax
  std::vector<int32_t> prompt;  // at least one token
  std::vector<SampleStart> samples;
  bool runnable = true;
};

struct EngineOutput {
  GroupId group;
  uint32_t sample = 0;
  int32_t token = 0;
  float log_prob = 0;
  FinishReason finish = FinishReason::kUnspecified;  // kUnspecified: goes on
  std::vector<TopToken> top = {};                    // as the group asked for
};

class Engine {
 public:
  Engine(const EngineOptions& options, ModelRunner* runner);

  // Whether a sample of this size can ever be decoded here: RESOURCE_EXHAUSTED says how many tokens
  // fit, INVALID_ARGUMENT names an empty prompt or a limit out of range.
  absl::Status CheckFits(int64_t prompt_tokens, int64_t limit) const;

  // Requires CheckFits, and an id that is not held.
  void AddGroup(GroupRequest request);
  // Drops a group and frees all it holds; does nothing when it is not held.
  void RemoveGroup(GroupId group);
  // Ends one sample; does nothing when it is not held.
  void RemoveSample(GroupId group, uint32_t sample);
  // Flow control: a paused sample keeps its slot and blocks and draws nothing (but its first token,
  // which comes with the prompt).
  void SetPaused(GroupId group, uint32_t sample, bool paused);
  // A group that is not runnable draws nothing and holds no slot.
  void SetRunnable(GroupId group, bool runnable);
  // Forgets all that the cache holds: prompts and prefixes are computed anew. For a swap of
  // weights.
  void DropCache() { scheduler_.DropCache(); }
  // Whether it still decodes a sample of the group, and how many.
  bool holds(GroupId group) const { return groups_.contains(group); }
  int live_samples(GroupId group) const {
    const auto it = groups_.find(group);
    return it == groups_.end() ? 0 : it->second->live;
  }

  // One step: what was drawn, in a deterministic order; empty when there was nothing to compute or
  // a part of a prompt only (worked() tells). The span is valid until the next call. An error is
  // the runner's; the engine cannot go on after it.
  absl::StatusOr<absl::Span<const EngineOutput>> Step();
  // Whether the last step computed anything.
  bool worked() const { return worked_; }

  // Samples in slots, and those that wait for one.
  int running() const { return scheduler_.running(); }
  int waiting() const { return scheduler_.waiting(); }
  uint64_t preemptions() const { return scheduler_.preemptions(); }
  uint64_t prefilled_tokens() const { return scheduler_.prefilled_tokens(); }
  uint64_t drawn_tokens() const { return drawn_tokens_; }
  const BlockManager& blocks() const { return blocks_; }

 private:
  Sequence* Find(GroupId group, uint32_t sample);
  // Takes the draw's top tokens.
  void Append(Sequence* sample, DrawnToken* drawn);

  EngineOptions options_;
  ModelRunner* runner_;
  BlockManager blocks_;
  Scheduler scheduler_;
  absl::flat_hash_set<int32_t> stop_tokens_;
  absl::flat_hash_map<GroupId, std::unique_ptr<SequenceGroup>> groups_;
  BatchPlan plan_;
  std::vector<PlannedSequence> planned_;
  std::vector<DrawnToken> results_;
  std::vector<EngineOutput> outputs_;
  std::vector<SequenceGroup*> touched_;
  uint64_t drawn_tokens_ = 0;
  bool worked_ = false;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_ENGINE_H_
