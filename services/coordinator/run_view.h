// The run for people and programs, as plain values: what GetStatus and GetHistory say. The contract
// of each field stands in coordinator.proto.
#ifndef CRESCENDO_SERVICES_COORDINATOR_RUN_VIEW_H_
#define CRESCENDO_SERVICES_COORDINATOR_RUN_VIEW_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/domain.h"
#include "services/coordinator/cost_meter.h"
#include "services/coordinator/curriculum.h"
#include "services/coordinator/journal.h"

namespace crescendo {

struct WorkerView {
  std::string worker_id;
  std::string state;
  std::string reason;  // why it is slow, lost or quarantined; else empty
  double tokens_per_second = 0;
  int64_t policy_version = -1;
  int leases = 0;
  double heartbeat_age_seconds = 0;
  std::string address;
  int second_leases = 0;           // of `leases`: groups that another worker is slow with
  std::string incident;            // the last one, of a quarantined worker
  double quarantined_seconds = 0;  // for another so long
};

struct StageView {
  int index = 0;
  int context_tokens = 0;
  int64_t first_step = 0;
  int64_t last_step = -1;
  std::string reason;
  std::string rule;  // that ended it: a rule's name or "operator"; empty while it runs
};

struct RunView {
  std::string run_id;
  std::string state;  // waiting, training, evaluating, finished
  int64_t step = 0;
  int64_t steps_total = 0;
  int stage = 0;
  bool held = false;
  std::vector<StageView> stages;
  std::vector<WorkerView> workers;
  std::string awaiting;
  std::vector<std::string> awaited_from;  // worker ids, "learner", "anyone"
  std::vector<RuleReading> rules;         // of the current stage; none in the last one
  std::optional<StepMetrics> last;
  double elapsed_seconds = 0;
  double train_elapsed_seconds = 0;
  double eta_seconds = -1;
  uint64_t generated_tokens = 0;
  uint64_t trained_tokens = 0;
  int groups_pending = 0;
  int groups_leased = 0;
  int groups_buffered = 0;
  double tokens_per_second = 0;
  CostView cost;
  std::optional<EvaluationRow> last_evaluation;  // of the first set
  std::vector<EvaluationRow> last_evaluations;   // of each set
};

struct HistoryView {
  std::vector<StepRow> steps;
  std::vector<EvaluationRow> evaluations;
  std::vector<StageView> stages;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_RUN_VIEW_H_
