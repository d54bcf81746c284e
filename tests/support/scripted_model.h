// A model whose tokens are a pure function of (seed, group, sample, position): for tests and the
// simulation. It also checks the engine's promises about the cache as it goes: a context that is
// read must have been written by the same tokens, block for block.
#ifndef CRESCENDO_TESTS_SUPPORT_SCRIPTED_MODEL_H_
#define CRESCENDO_TESTS_SUPPORT_SCRIPTED_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "services/rollout/model_runner.h"

namespace crescendo {

struct ScriptedModelOptions {
  int vocabulary = 40;         // ordinary tokens are in [2, vocabulary)
  int32_t stop_token = 1;      // ends a completion
  int mean_tokens = 24;        // a sample's length is geometric-like about this, at least 1
  int block_tokens = 16;       // of the engine
  bool version_moves = false;  // tokens depend on the loaded version too, as a real policy's do
  bool check_cache = true;     // costs time linear in the context, at every step
};

// The token at a place; `length` of a sample is fixed by (seed, group, sample).
class ScriptedModel : public ModelRunner {
 public:
  explicit ScriptedModel(const ScriptedModelOptions& options) : options_(options) {}

  static int LengthOf(const ScriptedModelOptions& options, uint64_t seed, uint64_t group,
                      uint32_t sample) {
    CounterRng rng(MixSeed(seed, group), 1000 + sample);
    // The smaller of two would be short-tailed: a product gives a few that are long.
    const double skew = 0.25 + 1.5 * rng.Uniform() * rng.Uniform() * 2;
    return 1 + static_cast<int>(options.mean_tokens * skew);
  }
  static int32_t TokenAt(const ScriptedModelOptions& options, uint64_t seed, uint64_t group,
                         uint32_t sample, uint32_t position, int64_t version) {
    if (static_cast<int>(position) + 1 >= LengthOf(options, seed, group, sample)) {
      return options.stop_token;
    }
    const uint64_t mixed = MixSeed(MixSeed(seed, group * 1024 + sample),
                                   position + (options.version_moves ? version << 32 : 0));
    return 2 + static_cast<int32_t>(mixed % static_cast<uint64_t>(options.vocabulary - 2));
  }
  static float LogProbAt(int32_t token, uint32_t position) {
    return -0.125f * static_cast<float>(1 + (token + position) % 7);
  }

  absl::Status Run(const BatchPlan& plan, absl::Span<DrawnToken> results) override {
    if (!failure_.ok()) return failure_;
    ++steps_;
    if (options_.check_cache) {
      for (const BlockCopy& copy : plan.copies) Copy(copy);
    }
    int64_t new_tokens = 0;
    for (const StepSequence& sequence : plan.sequences) {
      new_tokens += sequence.new_tokens.size();
      if (options_.check_cache) Write(sequence);
      for (int i = 0; i < sequence.draws; ++i) {
        const int at = sequence.first_draw + i;
        const TokenDraw& draw = plan.draws[at];
        if (draw.uniform != TokenUniform(draw.seed, draw.group.value(), draw.sample, draw.position))
          Fail("a draw that is not TokenUniform's");
        results[at].token =
            TokenAt(options_, draw.seed, draw.group.value(), draw.sample, draw.position, version_);
        results[at].log_prob = LogProbAt(results[at].token, draw.position);
      }
    }
    if (new_tokens != plan.new_tokens) Fail("new_tokens does not add up");
    computed_tokens_ += new_tokens;
    if (!violation_.empty()) return absl::InternalError(violation_);
    return absl::OkStatus();
  }

  absl::Status SwapWeights(PolicyVersion version) override {
    version_ = version.value();
    ++swaps_;
    return absl::OkStatus();
  }

  // Every later Run fails with this.
  void FailWith(absl::Status status) { failure_ = std::move(status); }
  int64_t steps() const { return steps_; }
  int64_t swaps() const { return swaps_; }
  int64_t version() const { return version_; }
  // Tokens that passed through the model, prompts and recomputed ones included.
  int64_t computed_tokens() const { return computed_tokens_; }

 private:
  // A cache cell holds what a key would depend on: a hash of all tokens up to there.
  uint64_t& Cell(int32_t block, int64_t place) {
    std::vector<uint64_t>& cells = cache_[block];
    cells.resize(options_.block_tokens);
    return cells[place];
  }
  void Copy(const BlockCopy& copy) {
    cache_[copy.from].resize(options_.block_tokens);
    const std::vector<uint64_t> from = cache_[copy.from];
    cache_[copy.to] = from;
  }
  void Write(const StepSequence& sequence) {
    const int64_t end = sequence.context_before + static_cast<int64_t>(sequence.new_tokens.size());
    if (sequence.new_tokens.empty()) Fail("a sequence without new tokens");
    if (static_cast<int64_t>(sequence.blocks.size()) * options_.block_tokens < end) {
      Fail("a block table that is too short");
      return;
    }
    uint64_t hash = 0x9e37;
    for (int64_t i = 0; i < end; ++i) {
      uint64_t& cell = Cell(sequence.blocks[i / options_.block_tokens], i % options_.block_tokens);
      if (i < sequence.context_before) {
        // A key must follow from the one before it: cells of another sequence would not.
        if (i > 0 && (cell >> 40) != (MixSeed(hash, 7) >> 40 & 0xffffff)) {
          Fail(absl::StrCat("position ", i, " of the context is another sequence's"));
        }
        hash = cell;
      } else {
        const uint64_t token = sequence.new_tokens[i - sequence.context_before];
        cell = (MixSeed(hash, 7) >> 40 << 40) | (MixSeed(hash, token) & 0xffffffffff);
        hash = cell;
      }
    }
  }
  void Fail(const std::string& what) {
    if (violation_.empty()) violation_ = absl::StrCat("scripted model: ", what);
  }

  ScriptedModelOptions options_;
  absl::flat_hash_map<int32_t, std::vector<uint64_t>> cache_;
  absl::Status failure_;
  std::string violation_;
  int64_t version_ = 0;
  int64_t steps_ = 0;
  int64_t swaps_ = 0;
  int64_t computed_tokens_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_SCRIPTED_MODEL_H_
