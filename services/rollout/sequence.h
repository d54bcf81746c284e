// What the scheduler schedules: the samples of groups, and each group's prompt, whose cache its
// samples share. Plain values, owned by the engine.
#ifndef CRESCENDO_SERVICES_ROLLOUT_SEQUENCE_H_
#define CRESCENDO_SERVICES_ROLLOUT_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "common/base/domain.h"
#include "common/base/ids.h"

namespace crescendo {

struct SequenceGroup;

// One completion in the making.
struct Sequence {
  enum class State : uint8_t {
    kFirst,     // holds no token: the group's prompt gives it its first draw
    kWaiting,   // holds tokens, not in a slot
    kRunning,   // in a slot
    kFinished,  // stopped or at its limit; holds no blocks
  };
  SequenceGroup* group = nullptr;
  uint32_t sample = 0;
  State state = State::kFirst;
  bool paused = false;          // by flow control: keeps its slot and blocks, is not scheduled
  std::vector<int32_t> tokens;  // prompt, then what was drawn
  int computed = 0;             // tokens in the cache
  std::vector<int32_t> blocks;
  bool live() const { return state != State::kFinished; }
};

// The samples of one prompt. The prompt is prefilled once, in the group's own table; a sample that
// starts shares the full blocks and copies the last, partly filled one.
struct SequenceGroup {
  GroupId id;
  GroupId draw_id;  // whose draws these are: `id` but for requests that share a seed
  uint64_t seed = 0;
  SamplingParams sampling;
  int limit = 0;  // completion tokens
  int32_t top_tokens = 0;
  std::vector<int32_t> prompt;
  bool runnable = true;  // false: none of its samples may be decoded (waits for weights)

  // Of the prompt. The full ones stay as long as a sample lives (unless memory is short), the
  // partly filled last one until the last sample has started and taken it.
  std::vector<int32_t> blocks;
  int computed = 0;    // prompt tokens in the cache while it is being prefilled
  bool ready = false;  // the prompt is computed, its first tokens drawn: samples may start
  bool in_prompt_queue = false;
  uint64_t order = 0;  // of arrival

  std::vector<std::unique_ptr<Sequence>> samples;
  int live = 0;     // samples that are not finished
  int first = 0;    // of these, in state kFirst
  int waiting = 0;  // of these, in state kWaiting
  int running = 0;  // of these, in a slot
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_SEQUENCE_H_
