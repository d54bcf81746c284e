// The engine's model as the configuration describes it, behind an interface that shows no LibTorch:
// main and the adapter stay free of it.
#ifndef CRESCENDO_SERVICES_ROLLOUT_MAKE_RUNNER_H_
#define CRESCENDO_SERVICES_ROLLOUT_MAKE_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/config/run_config.h"
#include "common/os/env.h"
#include "services/rollout/model_runner.h"
#include "services/rollout/staged_weights.h"

namespace crescendo {

class Tokenizer;

struct ModelRunnerParts {
  std::unique_ptr<ModelRunner> runner;
  // Hands the runner a verified version; any thread. Valid while the runner lives.
  std::function<void(std::unique_ptr<StagedWeights>)> stage;
  std::vector<int32_t> stop_tokens;  // the model's and the tokenizer's
  int blocks = 0;
  int64_t cache_bytes = 0;
  uint64_t weight_bytes_max = 0;  // that a published version can have
  std::string description;        // architecture, parameters, dtype
};

// Loads the policy and makes its KV cache of rollout.kv_tokens. Errors name the file, tensor or
// field; INVALID_ARGUMENT when tokenizer and model do not go together or no token ends a
// completion.
absl::StatusOr<ModelRunnerParts> MakeModelRunner(FileSystem& files, const RunConfig& config,
                                                 const Tokenizer& tokenizer);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_MAKE_RUNNER_H_
