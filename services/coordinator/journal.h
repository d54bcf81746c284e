// What the coordinator never forgets: rows, and the interface of the store that keeps them.
//
// CoordinatorState emits JournalRecords with every event; the adapter writes those of one batch of
// events in one transaction before any reply of the batch leaves. Loading gives back the rows as
// a JournalImage, from which CoordinatorState::Create builds the same state again.
//
// Invariants:
//  1. A batch is written whole or not at all.
//  2. A training group has exactly one row: a GroupRow until its step is trained, then an
//     OutcomeRow. Ids of consumed groups are 0, 1, 2, ... without a gap.
//  3. Every row that training made carries the step it belongs to, so a roll-back is a batch of
//     truncations and puts: one transaction as any other.
//
// Plain values; the Journal itself is used from one thread at a time.
#ifndef CRESCENDO_SERVICES_COORDINATOR_JOURNAL_H_
#define CRESCENDO_SERVICES_COORDINATOR_JOURNAL_H_

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/domain.h"
#include "common/base/ids.h"
#include "common/base/lease_key.h"
#include "common/base/limits.h"

namespace crescendo {

// Which run this is; written once. `config` is the effective configuration as text, to name what
// differs when another one is given.
struct RunRow {
  std::string run_id;
  uint64_t seed = 0;
  std::string config_digest;
  std::string config;
  LeaseSecret lease_secret;
};

// The single values of a run.
struct ScalarsRow {
  int64_t trained = 0;  // steps
  std::string learner_address;
  std::string learner_incarnation;  // empty: none has attached yet
  uint64_t next_lease = 1;
  uint64_t groups_ever = 0;  // training groups planned at any time, those rolled back included
  double elapsed_seconds = 0;
  double train_elapsed_seconds = 0;
  double evaluation_seconds = 0;  // of the round under way
  bool hold = false;
  std::string cost;  // CostMeter::Save
};

// The batch of a step: the groups first_group, first_group + 1, ...
struct PlanRow {
  int64_t step = 0;
  int stage = 0;
  uint64_t first_group = 0;
  int groups = 0;
  int64_t planned_at = 0;  // steps trained when it was planned
  // Where the order of problems stands behind this batch (ProblemPosition).
  int64_t epoch = 0;
  int64_t epoch_started_at = 0;
  std::string cursors;  // "12,7"
};

// (GroupState is the rollout core's; the simulation links both.)
enum class GroupRowState : uint8_t { kPending = 0, kLeased = 1, kComplete = 2 };

// A group that is not consumed yet.
struct GroupRow {
  GroupId group;
  int64_t step = 0;      // of its plan; for evaluation the version evaluated
  uint32_t problem = 0;  // index in the data set, or in the evaluation set
  GroupRowState state = GroupRowState::kPending;
  int attempts = 0;  // leases granted so far
  LeaseId lease;     // these three when leased
  std::string worker;
  std::string incarnation;
};

// A training group that was consumed by `step`.
struct OutcomeRow {
  GroupId group;
  int64_t step = 0;
  uint32_t problem = 0;
  int correct = 0;
  int incorrect = 0;
  int undecided = 0;
  int truncated = 0;
  uint64_t tokens = 0;
  double reward = 0;
};

// A trained step. reported is false while only the learner's checkpoint says that it was trained.
struct StepRow {
  int64_t step = 0;
  int stage = 0;
  bool reported = false;
  StepMetrics metrics;
  double elapsed_seconds = 0;
  double train_elapsed_seconds = 0;
  uint64_t train_generated_tokens = 0;
  double gpu_hours = 0;  // these three: of the run so far
  double core_hours = 0;
  double money = 0;
};

// The run enters `stage` with step first_step; reason is why the stage before ended.
struct StageRow {
  int64_t entry = 0;  // 0, 1, 2, ...
  int stage = 0;
  int64_t first_step = 0;
  int64_t decided_at = 0;  // steps trained at the decision
  std::string rule;        // that ended the stage before; "operator"; empty for the first
  std::string reason;
};

// An evaluation round under way. Results of leases below lease_floor belong to a round that was
// rolled back.
struct RoundRow {
  int64_t step = 0;
  LeaseId lease_floor;
};

// An evaluation group that has ended.
struct EvaluationOutcomeRow {
  GroupId group;
  uint32_t problem = 0;
  int samples = 0;
  int correct = 0;
  int undecided = 0;
  int truncated = 0;
  uint64_t tokens = 0;
  double majority = 0;  // 1: the most frequent answer is right; a part of 1 when others tie with it
};

struct EvaluationRow {
  int64_t entry = 0;  // EvaluationEntry(step, place of the set)
  int64_t step = 0;
  std::string set;
  int problems = 0;
  int samples = 0;  // a problem
  double pass_at_1 = 0;
  double ci95_low = 0;
  double ci95_high = 0;
  double mean_tokens = 0;
  double truncation_ratio = 0;
  uint64_t generated_tokens = 0;
  double seconds = 0;  // of the round, the set's share by tokens
  double train_elapsed_seconds = 0;
  uint64_t train_generated_tokens = 0;
  double undecided_ratio = 0;  // of the samples
  double majority = 0;         // majority@samples
  std::string pass_at_k;       // "1:0.5,2:0.625": k and the value, for k = 1, 2, 4, ... and samples
  int originals = 0;           // problems that have variants
  int variants = 0;
  double original_pass_at_1 = 0;
  double variant_pass_at_1 = 0;  // mean over an original's variants, then over originals
  double drop_low = 0;           // 95% interval of the difference
  double drop_high = 0;
};

enum class JournalTable : uint8_t {
  kPlan,               // key: step
  kGroup,              // key: group id
  kOutcome,            // key: group id
  kStep,               // key: step
  kStage,              // key: entry
  kRound,              // key: step
  kEvaluationOutcome,  // key: group id
  kEvaluation,         // key: entry
};

// Removes the rows of `table` whose key is >= from_key (kGroup: training groups only when from_key
// has no top bit; an evaluation group's key has it).
struct TruncateOp {
  JournalTable table = JournalTable::kPlan;
  uint64_t from_key = 0;
};
struct EraseGroupOp {
  GroupId group;
};

// A put of a row (replacing the one of its key), or a removal.
using JournalRecord =
    std::variant<RunRow, ScalarsRow, PlanRow, GroupRow, OutcomeRow, StepRow, StageRow, RoundRow,
                 EvaluationOutcomeRow, EvaluationRow, TruncateOp, EraseGroupOp>;

// All rows. started() is false for a journal that nothing was written to.
struct JournalImage {
  RunRow run;
  ScalarsRow scalars;
  std::map<int64_t, PlanRow> plans;
  std::map<uint64_t, GroupRow> groups;
  std::map<uint64_t, OutcomeRow> outcomes;
  std::map<int64_t, StepRow> steps;
  std::map<int64_t, StageRow> stages;
  std::map<int64_t, RoundRow> rounds;
  std::map<uint64_t, EvaluationOutcomeRow> evaluation_outcomes;
  std::map<int64_t, EvaluationRow> evaluations;

  bool started() const { return !run.run_id.empty(); }
  void Apply(const JournalRecord& record);
};

// Two images are equal exactly when their texts are: for tests and for bug reports.
std::string DebugString(const JournalImage& image);

class Journal {
 public:
  virtual ~Journal() = default;
  // Everything that was appended. DATA_LOSS: corrupt, or rows that contradict each other.
  virtual absl::StatusOr<JournalImage> Load() = 0;
  // Writes all records in one transaction; when it returns OK they survive a crash. After an error
  // nothing of the batch was written: RESOURCE_EXHAUSTED disk full, PERMISSION_DENIED read-only,
  // DATA_LOSS corrupt, UNAVAILABLE any other I/O error.
  virtual absl::Status Append(absl::Span<const JournalRecord> records) = 0;
};

// Evaluation groups have the top bit set, then the version, then the place in the set.
inline constexpr uint64_t kEvaluationGroupBit = uint64_t{1} << 63;
inline constexpr int kEvaluationIndexBits = 24;
inline GroupId EvaluationGroup(int64_t version, uint32_t index) {
  return GroupId(kEvaluationGroupBit | (static_cast<uint64_t>(version) << kEvaluationIndexBits) |
                 index);
}
inline constexpr int kEvaluationSetBits = 6;
static_assert(limits::kEvaluationSetsMax <= 1 << kEvaluationSetBits);
// The key of a set's result: by step, then by the set's place.
inline int64_t EvaluationEntry(int64_t step, size_t set) {
  return (step << kEvaluationSetBits) | static_cast<int64_t>(set);
}
inline size_t SetOfEntry(int64_t entry) { return entry & ((1 << kEvaluationSetBits) - 1); }
inline bool IsEvaluationGroup(GroupId group) { return (group.value() & kEvaluationGroupBit) != 0; }

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_JOURNAL_H_
