// What the engine asks of a model: run one batch of tokens through a paged KV cache and draw. The
// real one is torch_model_runner.h; tests and the simulation use tests/support/scripted_model.h.
//
// Thread rule: the thread that owns the engine calls everything here.
#ifndef CRESCENDO_SERVICES_ROLLOUT_MODEL_RUNNER_H_
#define CRESCENDO_SERVICES_ROLLOUT_MODEL_RUNNER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/domain.h"
#include "common/base/ids.h"
#include "common/base/top_token.h"

namespace crescendo {

// One draw from the distribution behind a sequence's last new token.
struct TokenDraw {
  GroupId group;
  uint32_t sample = 0;
  uint32_t position = 0;  // of the token drawn, from the sample's first drawn token
  uint64_t seed = 0;
  double uniform = 0.5;                      // TokenUniform(seed, group, sample, position)
  const SamplingParams* sampling = nullptr;  // lives as long as the plan
  int32_t top_tokens = 0;                    // of the most probable ones, given with the draw
};

// One sequence's share of a step.
struct StepSequence {
  absl::Span<const int32_t> new_tokens;  // at positions context_before...; at least 1
  int32_t context_before = 0;            // tokens that the cache holds already
  absl::Span<const int32_t> blocks;      // block i holds tokens [i, i + 1) x block_tokens
  int32_t first_draw = 0;                // its draws stand at plan.draws[first_draw...]
  int32_t draws =
      0;  // all from the last new token: 0 inside a prompt, G where a group's prompt ends
};

// Copies a whole block, before the step's sequences run.
struct BlockCopy {
  int32_t from = 0;
  int32_t to = 0;
};

struct BatchPlan {
  std::vector<BlockCopy> copies;
  std::vector<StepSequence> sequences;
  std::vector<TokenDraw> draws;
  int64_t new_tokens = 0;  // over all sequences

  void Clear() {
    copies.clear();
    sequences.clear();
    draws.clear();
    new_tokens = 0;
  }
};

struct DrawnToken {
  int32_t token = 0;
  float log_prob = 0;  // natural log, under softmax(logits / temperature) before top-k and top-p
  std::vector<TopToken> top = {};  // as many as the draw asked for (the vocabulary's size at most)
};

// Bytes that a model holds, by what they are for.
struct ModelMemory {
  int64_t weights = 0;
  int64_t cache = 0;    // the KV pool
  int64_t scratch = 0;  // activations and logits of the largest step so far
  int64_t staged = 0;   // a version that waits for its swap
  int64_t total() const { return weights + cache + scratch + staged; }
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  // One result for each of plan.draws, in order; `results` has that size. An error ends the engine:
  // the state of the cache is then not known.
  virtual absl::Status Run(const BatchPlan& plan, absl::Span<DrawnToken> results) = 0;
  // Makes the weights of `version`, which were announced as ready, the current ones. The cache
  // stays as it is.
  virtual absl::Status SwapWeights(PolicyVersion version) = 0;
  virtual ModelMemory Memory() const { return {}; }
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_MODEL_RUNNER_H_
