// What the coordinator's core has to know of a run. The adapter makes it from the configuration
// (options_from_config.h); a test writes it down.
#ifndef CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_OPTIONS_H_
#define CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/domain.h"
#include "common/base/lease_key.h"
#include "services/coordinator/cost_meter.h"
#include "services/coordinator/curriculum.h"

namespace crescendo {

struct Problem {
  std::string id;
  std::string text;
  RewardSpec reward;
  std::optional<double> level = std::nullopt;  // difficulty, where it is known
  // Of an evaluation set: the place among evaluation_problems of the problem that this one is with
  // other numbers; -1: of none.
  int64_t variant_of = -1;
};

struct StageOptions {
  int context_tokens = 0;    // > 0
  int group_samples = 8;     // > 0
  int groups_per_step = 32;  // > 0
  SamplingParams sampling;
  double learning_rate = 0;
  std::vector<int>
      level_mix;  // weight of each difficulty class, easiest first; empty: as they come
};

// A set to evaluate: the next `problems` of CoordinatorOptions::evaluation_problems.
struct EvaluationOptions {
  std::string set;  // a name for reports
  int problems = 0;
  int samples = 1;  // a problem
  SamplingParams sampling;
  int context_tokens = 0;  // > 0
  int every = 0;           // steps; 0: only before the first and after the last
};

struct CoordinatorOptions {
  std::string run_id;
  uint64_t seed = 1;
  std::string config_digest;  // of coordinator and learner alike
  std::string config;         // as text, kept in the journal
  LeaseSecret lease_secret;   // of a new run; a run that goes on has its own
  int64_t steps = 0;          // of the whole run
  int max_staleness = 0;
  std::vector<StageOptions> stages;  // not empty
  CurriculumOptions curriculum;
  double settled_weight = 1;  // (0, 1]: chance of a problem that was always or never solved so far
                              // to be in an epoch
  std::vector<EvaluationOptions> evaluations;  // at most limits::kEvaluationSetsMax
  std::vector<Problem> problems;               // of training; not empty unless steps = 0
  std::vector<Problem> evaluation_problems;    // those of all sets, set by set
  CostPrices prices;
  // Services that do not introduce themselves, for the cost meter: what one process holds.
  Resources reward;
  int reward_processes = 0;
  Resources coordinator;
  absl::Duration heartbeat = absl::Milliseconds(500);
  absl::Duration lease = absl::Seconds(10);
  absl::Duration awaited_after = absl::Seconds(15);
  bool second_leases = true;  // of groups that a worker is slow with, near the end of a step
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_OPTIONS_H_
