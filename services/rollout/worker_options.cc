#include "services/rollout/worker_options.h"

#include <algorithm>
#include <filesystem>

#include "services/rollout/completion_text.h"

namespace crescendo {
namespace {

// Requests from outside may wait, up to so many samples for each slot.
constexpr int kServedSamplesPerSlot = 4;

}  // namespace

RolloutOptions CoreOptions(const RunConfig& config, const ModelRunnerParts& parts,
                           const Tokenizer& tokenizer) {
  RolloutOptions options;
  options.engine.slots = config.rollout.slots;
  options.engine.step_tokens = std::max(config.rollout.prefill_tokens, config.rollout.slots);
  options.engine.blocks = parts.blocks;
  options.engine.block_tokens = config.rollout.block_tokens;
  options.engine.stop_tokens = parts.stop_tokens;
  options.chunk_tokens = config.rollout.chunk_tokens;
  if (config.coordinator.samples_kept > 0) {
    options.shown_samples = config.coordinator.samples_per_group;
  }
  // Deterministic: what a resume would compute again must be what the cache holds.
  options.recompute_cache = config.rollout.recompute_cache || config.policy.deterministic;
  options.watch_stops = WatchStopsWith(&tokenizer);
  return options;
}

CompletionFrontOptions FrontOptions(const RunConfig& config, const ModelRunnerParts& parts) {
  CompletionFrontOptions options;
  options.address = config.rollout.http;
  options.insecure = config.network.insecure;
  const std::filesystem::path path(config.policy.path);
  options.model = path.has_filename() ? path.stem().string() : path.parent_path().stem().string();
  options.tokens_max = (parts.blocks - 1) * config.rollout.block_tokens;
  options.samples_max = kServedSamplesPerSlot * config.rollout.slots;
  options.seed = config.run.seed;
  return options;
}

}  // namespace crescendo
