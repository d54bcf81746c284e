// Rollout without services, for tests of learning: a batch of prompts decoded to its end on the
// real model with the real cache, attention and sampler, and the demo's problems with their
// grading.
#ifndef CRESCENDO_TESTS_UNIT_LEARNER_LOCAL_ROLLOUT_H_
#define CRESCENDO_TESTS_UNIT_LEARNER_LOCAL_ROLLOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/policy_model.h"
#include "common/os/env.h"
#include "common/text/tokenizer.h"

namespace crescendo {

struct DemoProblem {
  std::vector<int32_t> prompt;
  std::string answer;
};

absl::StatusOr<std::vector<DemoProblem>> ReadDemoProblems(FileSystem& files,
                                                          const Tokenizer& tokenizer,
                                                          const std::string& path);

struct Completion {
  std::vector<int32_t> tokens;
  std::vector<float> log_probs;
  bool truncated = false;
};

struct RolloutOptions {
  int context_tokens = 144;  // of a completion, end token included
  double temperature = 1;    // 0: greedy
  uint64_t seed = 1;  // completion i draws from (seed, first_group + i / samples, i % samples)
  uint64_t first_group = 0;
  int samples = 1;  // of each prompt, one behind the other in the result
};

absl::StatusOr<std::vector<Completion>> Rollout(PolicyModel& model,
                                                const std::vector<std::vector<int32_t>>& prompts,
                                                const RolloutOptions& options);

// Whether the last \boxed{} of the completion holds exactly the answer.
bool IsCorrect(const Tokenizer& tokenizer, const Completion& completion, const std::string& answer);

struct Evaluation {
  double pass = 0;
  double tokens = 0;
  double tokens_right = 0;
  double tokens_wrong = 0;
  double truncated = 0;
};
absl::StatusOr<Evaluation> Evaluate(PolicyModel& model, const Tokenizer& tokenizer,
                                    const std::vector<DemoProblem>& problems,
                                    const RolloutOptions& options);

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_LEARNER_LOCAL_ROLLOUT_H_
