// A run of `crescendo train` by a test: started, followed line by line, its report and metrics read
// back.
#ifndef CRESCENDO_TESTS_SUPPORT_TRAIN_RUN_H_
#define CRESCENDO_TESTS_SUPPORT_TRAIN_RUN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tests/support/subprocess.h"

namespace crescendo {

// The demo's recipe with overrides ("--section.key=value"), into `out`. 2 workers.
std::unique_ptr<Subprocess> StartDemo(const std::string& out,
                                      const std::vector<std::string>& overrides);
// One stage of `context_tokens` throughout, `groups` x 8 a step.
std::vector<std::string> FixedStage(int context_tokens, int groups);
// The recipe's three stages at `groups` x 8 a step, with the given caps on the first two.
std::vector<std::string> ThreeStages(int groups, int cap_1, int cap_2);

struct TrainRun {
  nlohmann::json report;
  std::vector<nlohmann::json> steps;        // of metrics.jsonl, in order
  std::vector<nlohmann::json> evaluations;  // likewise

  // Of the evaluation after so many steps; a test fails when there is none.
  double PassAt(int64_t steps) const;
  double BestPass() const;
  // Completion tokens generated for training in the first `count` steps.
  uint64_t TokensOfFirst(size_t count) const;
  // Training tokens when pass@1 first reached `level`, straight between evaluations; -1 when it
  // never did.
  double TokensTo(double level) const;
  double MismatchMax() const;
};
TrainRun ReadRun(const std::string& out);

// Runs the demo to its end; a test fails when it does not end well.
TrainRun RunDemo(const std::string& out, const std::vector<std::string>& overrides,
                 absl::Duration timeout);

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_TRAIN_RUN_H_
