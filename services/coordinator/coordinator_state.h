// The coordinator's core: what is to be generated, by whom, and what has become of it. A state
// machine: events and the time in, replies and journal records out.
//
//   plan(k) ─► pending ─► leased ─► complete ─► consumed by step k
//                 ▲          │          │           │
//                 └── expired, abandoned, worker    │
//                 └──────── the learner came back at a step <= k
//
// After every event (or batch of events) the owner takes the records, appends them to the journal
// in one transaction, and only then lets the replies leave. When that fails nothing may leave and
// the state is of no use any more: stop, and start anew from the journal.
//
// Invariants:
// 1. Each training group ends exactly once: consumed by the step of its plan, in the plan's order.
// 2. Step k is planned only when k <= trained + max_staleness, so no more than
//    groups_per_step x (1 + max_staleness) groups are in flight or buffered.
// 3. A group has one live lease, and near the end of a step perhaps an older one that goes on
// beside
//    it (coordinator_second.cc); a new lease has a larger id and attempt.
// 4. While an evaluation round is under way no training group is planned or leased, and the learner
//    waits: every result is of exactly one version.
// 5. The stage of a step is fixed when it is planned; the problem of a group is a function of the
//    seed and the group's id.
// 6. A roll-back to step k gives the state that the run had at k, whatever happened since; group
// ids
//    are reused, lease ids and attempts are not.
//
// Errors of the events: FAILED_PRECONDITION the caller is unknown and must introduce itself
// (again); INVALID_ARGUMENT a field is out of bounds (named); RESOURCE_EXHAUSTED too many workers.
// After an error nothing has changed.
//
// Not thread-safe; one thread owns it. No clock: `now` comes with each event; a step back of the
// clock counts as no time. Does not block.
#ifndef CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_STATE_H_
#define CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_STATE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/base/domain.h"
#include "common/base/ids.h"
#include "services/coordinator/coordinator_options.h"
#include "services/coordinator/cost_meter.h"
#include "services/coordinator/curriculum.h"
#include "services/coordinator/journal.h"
#include "services/coordinator/membership.h"
#include "services/coordinator/problem_order.h"
#include "services/coordinator/run_view.h"

namespace crescendo {

// Events and their replies; the contract of each field stands in coordinator.proto.
struct JoinEvent {
  std::string worker_id;
  std::string address;
  std::string incarnation;
  int slots = 0;
  Resources resources = {};
};
struct JoinReply {
  absl::Duration heartbeat;
  absl::Duration lease;
  int64_t policy_version = -1;
};
struct LeaseProgressEvent {
  LeaseId lease;
  uint64_t tokens = 0;
  int unfinished = 0;  // samples that are still decoded
};
struct HeartbeatEvent {
  std::string worker_id;
  std::string incarnation;
  std::vector<LeaseProgressEvent> leases;
  int64_t policy_version = -1;
  double tokens_per_second = 0;
  uint64_t generated_tokens = 0;
};
struct HeartbeatReply {
  int64_t policy_version = -1;
  std::vector<std::string> weight_sources;
  std::string learner_address;
  std::string learner_incarnation;
  std::vector<LeaseId> revoked;
  bool finished = false;
};
struct AttachLearnerEvent {
  std::string address;
  std::string incarnation;
  int64_t step = 0;
  std::string config_digest;
  Resources resources = {};
};
struct NextStepReply {
  LearnerDirective directive = LearnerDirective::kWait;
  StepPlan plan;
};
struct ReportStepEvent {
  StepId step;
  std::string incarnation;
  StepMetrics metrics;
  std::vector<GroupOutcome> groups;
};
enum class StageAction : uint8_t { kHold, kRelease, kAdvance, kGoTo };

// What a group is about.
struct GroupDescription {
  const Problem* problem = nullptr;
  int64_t step = 0;  // of its plan; for evaluation the version evaluated
};

// Something that a person wants to read in the log: a stage change, a roll-back, a quarantine.
// What a note is about.
struct NoteOf {
  std::string worker = {};
  std::optional<uint64_t> group = {};
  std::optional<int64_t> step = {};
};
struct CoordinatorNote {
  bool warning = false;
  std::string text;
  NoteOf of;
};

// What happened in this process so far, for the metrics.
struct CoordinatorCounters {
  uint64_t leases_granted = 0;
  uint64_t leases_expired = 0;
  uint64_t leases_abandoned = 0;
  uint64_t second_leases = 0;
  uint64_t quarantines = 0;
  uint64_t groups_completed = 0;
  uint64_t late_completions = 0;
  uint64_t heartbeats = 0;
  uint64_t steps = 0;
  uint64_t steps_rolled_back = 0;
  uint64_t stage_changes = 0;
  uint64_t evaluations = 0;
  uint64_t generated_tokens = 0;  // of trained steps and evaluations
  uint64_t trained_tokens = 0;
};

class CoordinatorState {
 public:
  // From a journal's image; a new run (of options.run_id) when nothing was written to it. Leases of
  // the image run for a whole lease time from `now`: nobody could renew them while the coordinator
  // was away. FAILED_PRECONDITION: the image is of another run (seed or configuration); DATA_LOSS:
  // its rows contradict each other; INVALID_ARGUMENT: `options` is out of bounds.
  static absl::StatusOr<std::unique_ptr<CoordinatorState>> Create(CoordinatorOptions options,
                                                                  const JournalImage& image,
                                                                  absl::Time now);
  ~CoordinatorState();

  // Workers.
  absl::StatusOr<JoinReply> Join(const JoinEvent& event, absl::Time now);
  // At most groups_max leases, none when there is no work for this worker now: the adapter then
  // asks again when HasLeasableWork(), or gives up after the request's wait.
  absl::StatusOr<std::vector<GroupLease>> Lease(const std::string& worker_id,
                                                const std::string& incarnation, int groups_max,
                                                absl::Time now);
  absl::StatusOr<HeartbeatReply> Heartbeat(const HeartbeatEvent& event, absl::Time now);
  // Whether the group ends with this call.
  absl::StatusOr<bool> CompleteGroup(const GroupCompletion& completion, absl::Time now);
  absl::Status Abandon(const std::string& worker_id, absl::Span<const LeaseId> leases,
                       absl::string_view reason, absl::Time now);
  absl::Status Leave(const std::string& worker_id, const std::string& incarnation,
                     absl::string_view reason, absl::Time now);

  // The learner. AttachLearner returns the number of steps rolled back; DATA_LOSS when the
  // checkpoint holds steps whose plans the journal does not know.
  absl::StatusOr<int64_t> AttachLearner(const AttachLearnerEvent& event, absl::Time now);
  // kWait: ask again when it changes (an evaluation is under way).
  absl::StatusOr<NextStepReply> NextStep(StepId step, const std::string& incarnation,
                                         absl::Time now);
  absl::Status ReportStep(const ReportStepEvent& event, absl::Time now);

  // An operator. `stage` is read for kGoTo only.
  absl::Status SetStage(StageAction action, int stage, absl::Time now);

  // The passing of time: leases run out, workers are lost. Call it at least every quarter of a
  // lease time.
  void Tick(absl::Time now);

  // What became durable-to-be since the last call, in order.
  std::vector<JournalRecord> TakeRecords();
  std::vector<CoordinatorNote> TakeNotes();

  // Whether some group waits to be leased and may be leased now.
  bool HasLeasableWork() const;
  // Rises when a worker that got nothing before may get something now.
  uint64_t work_version() const { return work_version_; }
  // Whether the run has come to its end: everything trained and evaluated.
  bool finished() const;
  bool evaluating() const { return round_.has_value(); }
  int64_t trained() const { return scalars_.trained; }
  const std::string& run_id() const { return run_.run_id; }
  uint64_t seed() const { return options_.seed; }
  // For the learner and nobody else.
  const LeaseSecret& lease_secret() const { return run_.lease_secret; }
  const CoordinatorCounters& counters() const { return counters_; }

  // A group that has not ended; nullopt for any other. The problem lives as long as the state.
  std::optional<GroupDescription> Describe(GroupId group) const;
  RunView View(absl::Time now) const;
  HistoryView History(int64_t from_step, size_t max) const;

  // What the journal holds after the records so far, but for the clocks in ScalarsRow. For tests.
  JournalImage DurableImage() const;

 private:
  // How fast a lease gets on.
  struct Pace {
    absl::Time at = absl::InfinitePast();  // of the last report
    uint64_t tokens = 0;
    int unfinished = 0;  // samples
    double rate = 0;     // tokens/s of one sample, smoothed
    int readings = 0;
  };
  // The older of two live leases.
  struct Overtaken {
    LeaseId lease;
    std::string worker;
    absl::Time deadline;
    uint64_t tokens = 0;
  };
  struct Group {
    GroupRow row;
    absl::Time deadline;      // of the lease
    absl::Time changed;       // when it became pending or leased, or its tokens grew
    uint64_t tokens = 0;      // of the lease, as the worker told
    std::string handed_back;  // by whom and why last; empty: by nobody
    Pace pace;                // of the lease
    std::optional<Overtaken> overtaken;
  };
  // The evaluation round under way.
  struct Round {
    RoundRow row;
    std::map<uint64_t, EvaluationOutcomeRow> outcomes;
  };

  CoordinatorState(CoordinatorOptions options, absl::Time now);
  void StartRun();
  absl::Status LoadRun(const JournalImage& image, absl::Time now);
  absl::Status LoadGroups(const JournalImage& image, absl::Time now);

  void Advance(absl::Time now);
  // Counts what is held for the time since it was last counted.
  void CountCost();
  void Record(JournalRecord record) { records_.push_back(std::move(record)); }
  void Note(bool warning, std::string text, NoteOf of = {});

  // Groups. A group is in one of pending_train_, pending_evaluate_ (pending), lease_group_ and its
  // worker's leases (leased), or in none (complete).
  Group& AddGroup(GroupRow row, absl::Time now);
  void EraseGroup(uint64_t id);
  void Detach(Group& group);
  void Release(Group& group, absl::Time now);  // back to pending
  int ReleaseAllOf(const Worker& worker, absl::Time now);
  Group* FindLease(LeaseId lease, const std::string& worker_id);
  absl::btree_set<uint64_t>& PendingOf(uint64_t group) {
    return IsEvaluationGroup(GroupId(group)) ? pending_evaluate_ : pending_train_;
  }
  int MayTake(const Worker& worker, int groups_max, absl::Time now);
  int FairShare(int unfinished);
  void CapacitiesChanged() {
    capacities_dirty_ = true;
    ++work_version_;
  }
  GroupLease GrantLease(Group& group, Worker& worker, absl::Time now);
  absl::StatusOr<Worker*> KnownWorker(const std::string& worker_id, absl::string_view operation);
  absl::StatusOr<Worker*> KnownWorker(const std::string& worker_id, const std::string& incarnation,
                                      absl::string_view operation);
  absl::StatusOr<bool> CompleteTraining(Worker& worker, const GroupCompletion& completion,
                                        absl::Time now);
  absl::StatusOr<bool> CompleteEvaluation(Worker& worker, const GroupCompletion& completion,
                                          absl::Time now);
  void ExpireLeases(absl::Time now);

  // Second leases.
  bool HasPendingWork() const {
    return round_ ? !pending_evaluate_.empty() : !pending_train_.empty();
  }
  void MeasurePace(Group& group, Worker& worker, const LeaseProgressEvent& progress,
                   absl::Time now);
  int SamplesOf(const GroupRow& row) const;
  std::optional<double> SecondLeaseGain(const Group& group, double rate, absl::Time now) const;
  Group* SecondLeaseFor(const Worker& worker, absl::Time now);
  void Overtake(Group& group);
  void Ended(const Group& group);  // a lease of it did: how many tokens a group has
  void DropOvertaken(Group& group);
  Group* FindOvertaken(LeaseId lease, const Worker& worker);
  bool RenewOvertaken(const Worker& worker, const LeaseProgressEvent& progress, absl::Time now);
  void RefreshSecondLeases(absl::Time now);
  // Brings the workers' health up to date, and tells who was lost or quarantined.
  void RefreshMembers(absl::Time now);

  // Steps.
  int64_t PublishedVersion() const {
    return scalars_.learner_incarnation.empty() ? -1 : scalars_.trained;
  }
  absl::Status CheckLearner(const std::string& incarnation, absl::string_view operation) const;
  absl::Status CheckOutcomes(const PlanRow& plan, const std::vector<GroupOutcome>& outcomes) const;
  // Brings the order of problems to where it stands behind the last plan; false when the plan's
  // position cannot be one of this data set.
  bool RestoreOrder();
  int64_t NextUnplannedStep() const { return static_cast<int64_t>(plans_.size()); }
  std::vector<StageStep> StageTrace() const;
  void EnterStage(int stage, std::string rule, std::string reason);
  void PlanSteps(absl::Time now);
  void PlanStep(absl::Time now);
  void Consume(const PlanRow& plan, const std::vector<GroupOutcome>& outcomes,
               const StepMetrics* metrics);
  void FillIn(const ReportStepEvent& event);
  void RollBack(int64_t step, absl::Time now);
  void UnplanFrom(int64_t step);
  void AddStatistics(const OutcomeRow& outcome, int sign);
  // Starts what is due: an evaluation round, or the plans of more steps.
  bool AwaitsReport() const;
  void MoveOn(absl::Time now);
  bool SetDue(size_t set) const;
  bool RoundDue() const;
  size_t SetOfProblem(uint32_t problem) const;  // of an evaluation problem
  const EvaluationOptions& EvaluationOf(uint32_t problem) const {
    return options_.evaluations[SetOfProblem(problem)];
  }
  // The samples of the group that is next to be leased, else of a group of the stage.
  int SamplesOfNextGroup() const;
  void StartRound(absl::Time now);
  void FinishRound();
  void DropRound();

  // Words.
  // `from` gets whom it waits for.
  std::string Awaiting(absl::Time now, std::vector<std::string>* from) const;
  std::string AwaitedGroups(absl::string_view what, uint64_t first, uint64_t last, int total,
                            absl::Time now, std::vector<std::string>* from) const;
  double EtaSeconds() const;
  double EvaluationSecondsLeft() const;
  CostView Cost() const;
  // The newest result of each set.
  std::map<size_t, const EvaluationRow*> LastEvaluations() const;
  std::vector<StageView> StageViews() const;

  const CoordinatorOptions options_;
  ProblemOrder order_;
  Membership members_;
  absl::Time now_;
  absl::Time written_;       // when the scalars were last recorded
  absl::Time step_changed_;  // when the step to train next was planned, or its last group completed
  bool learner_attached_ = false;  // in this process

  RunRow run_;
  ScalarsRow scalars_;
  bool scalars_dirty_ = false;
  std::vector<PlanRow> plans_;                    // [step]
  std::vector<OutcomeRow> outcomes_;              // [group id]
  std::vector<StepRow> steps_;                    // [step]
  std::vector<StageRow> stages_;                  // [entry], never empty
  std::map<int64_t, EvaluationRow> evaluations_;  // by entry
  std::optional<Round> round_;
  std::map<uint64_t, Group> groups_;  // those of plans >= trained, and the round's
  absl::btree_set<uint64_t> pending_train_;
  absl::btree_set<uint64_t> pending_evaluate_;
  absl::flat_hash_map<uint64_t, uint64_t> lease_group_;
  int leased_evaluate_ = 0;              // of lease_group_
  absl::btree_set<uint64_t> overtaken_;  // groups with two live leases
  bool second_due_ = false;
  double typical_tokens_[2] = {0, 0};          // of a group that has ended: training, evaluation
  std::vector<ProblemStatistics> statistics_;  // [problem]

  // Groups that each worker which may lease can decode at once, ascending, and their running sums.
  bool capacities_dirty_ = true;  // set by CapacitiesChanged
  std::vector<int> capacities_;
  std::vector<int64_t> capacity_sums_;

  CostMeter cost_;
  absl::Time cost_counted_;
  Resources learner_resources_;

  uint64_t work_version_ = 0;
  CoordinatorCounters counters_;
  std::vector<JournalRecord> records_;
  std::vector<CoordinatorNote> notes_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_STATE_H_
