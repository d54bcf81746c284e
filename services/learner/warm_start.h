// Supervised fine-tuning on JSON lines: what gives reinforcement learning a policy to begin with. A
// run is a list of phases; each goes through its file in order and has its own schedule.
//
// A line is {"prompt", "response"} and, when the response was cut, "ends": false: no end token
// follows then. The loss is the mean over the response's tokens (end token included) of a batch;
// the prompt's are not trained. Deterministic: the same files, policy, seed and thread count give
// the same bytes.
//
// Thread rule: one thread; computes on the compute threads.
#ifndef CRESCENDO_SERVICES_LEARNER_WARM_START_H_
#define CRESCENDO_SERVICES_LEARNER_WARM_START_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/os/env.h"
#include "services/learner/adamw_kernel.h"
#include "services/learner/lr_schedule.h"

namespace crescendo {

struct WarmStartPhase {
  std::string data;  // JSON lines
  int64_t steps = 0;
  int64_t batch = 0;    // rows of a step; a file that is too short starts again from its top
  LrSchedule schedule;  // of the phase's own steps
  bool fresh_optimizer = true;  // moments 0 at its begin
};

struct WarmStartOptions {
  // Either a folder with a checkpoint (and its tokenizer), or one with config.json and
  // tokenizer.json alone, from which random weights of `seed` are made.
  std::string from;
  bool random_weights = false;
  uint64_t seed = 1;
  std::vector<WarmStartPhase> phases;
  AdamWOptions adamw{.beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-8, .weight_decay = 0.01};
  double grad_clip = 1.0;
  int microbatch_tokens = 4096;
  int threads = 1;
  std::string out;  // Hugging Face folder that is written at the end
};

struct WarmStartProgress {
  int phase = 0;     // from 0
  int64_t step = 0;  // done in the phase
  int64_t steps = 0;
  double loss = 0;  // mean over a token
  double grad_norm = 0;
  double learning_rate = 0;
  int64_t tokens = 0;  // trained so far, prompts included
};

// Text to ids, and the ids that frame a row. Given by the caller, so that the learner does not
// depend on a tokenizer library.
class WarmStartTokenizer {
 public:
  virtual ~WarmStartTokenizer() = default;
  // The prompt as the rollout would feed it (begin token included).
  virtual absl::StatusOr<std::vector<int32_t>> EncodePrompt(absl::string_view text) = 0;
  virtual absl::StatusOr<std::vector<int32_t>> EncodeResponse(absl::string_view text) = 0;
  virtual int32_t end_token() const = 0;
};

// Runs all phases and writes `options.out`. `progress` is called after every step. INVALID_ARGUMENT
// names file and line of a row that is not as above, or a token outside the vocabulary; ABORTED
// names the step whose loss or gradient is not finite.
absl::Status RunWarmStart(FileSystem& files, WarmStartTokenizer& tokenizer,
                          const WarmStartOptions& options,
                          const std::function<void(const WarmStartProgress&)>& progress);

// "data=A.jsonl,steps=350,batch=128,lr=2e-3,warmup=50,decay=linear,decay_from=0,final=0.05,fresh=1":
// a phase from the command line. decay runs from decay_from (0) to the phase's last step. Paths
// hold no comma. INVALID_ARGUMENT names the key.
absl::StatusOr<WarmStartPhase> ParseWarmStartPhase(absl::string_view text);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_WARM_START_H_
