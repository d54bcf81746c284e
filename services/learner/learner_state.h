// The learner's core: a state machine over the experience buffer. Events and the time in, actions
// out; an adapter (learner_host) or a simulation performs the actions and reports how they went.
//
//   publish ─► attach ─► report (again, if there is one) ─► next step ─► collect ─► train
//                ▲                                             ▲                       │
//                └── FAILED_PRECONDITION from the coordinator  └─ report ◄─ publish ◄─ checkpoint
//                (when due)
//
// While groups are collected the plan is asked for again now and then: a coordinator that was
// restarted answers FAILED_PRECONDITION, and the learner attaches again.
//
//   FINISHED ─► checkpoint ─► save policy ─► serve until asked to stop; RequestStop ─► checkpoint
//   ─► stop
//
// Invariants:
// 1. At most one action is under way: NextAction gives the next one only after the event that ends
//    the last. Chunks and resumes are taken at any time.
// 2. Step k is trained from exactly the plan's groups, in its order, with version k; then version
//    k + 1 is published. A checkpoint is begun before its version is published and may become
//    durable while the run goes on, one at a time; a run that stops or ends waits for it.
// 3. After each attach the last step's report is sent again: the coordinator takes it once.
// 4. A group whose tokens are too old for its step is dropped and generated anew, by attaching as a
//    new incarnation; it never trains.
//
// Retries are spaced by a doubling delay and bounded by `unreachable_max`; then the learner fails
// with a Status that says who was awaited, for what and for how long. Not thread-safe: one thread,
// or the owner's lock. No clock: `now` comes with each event.
#ifndef CRESCENDO_SERVICES_LEARNER_LEARNER_STATE_H_
#define CRESCENDO_SERVICES_LEARNER_LEARNER_STATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/domain.h"
#include "common/base/ids.h"
#include "common/base/lease_key.h"
#include "services/learner/experience.h"
#include "services/learner/experience_buffer.h"
#include "services/learner/ledger.h"

namespace crescendo {

struct StepReport {
  StepId step;
  StepMetrics metrics;
  std::vector<GroupOutcome> groups;
  bool checkpointed = false;
};

struct LearnerOptions {
  ExperienceOptions experience;
  int checkpoint_every = 1;
  int64_t steps_total = 0;  // of the run; 0: known from FINISHED only
  int nonfinite_steps_max = 3;
  absl::Duration retry_first = absl::Milliseconds(100);
  absl::Duration retry_max = absl::Seconds(1);
  absl::Duration connect_max = absl::Seconds(30);  // for the first attach
  absl::Duration unreachable_max = absl::Minutes(10);
  absl::Duration ask_again = absl::Seconds(1);         // while collecting or serving
  absl::Duration wait_again = absl::Milliseconds(50);  // when told to wait: the call itself waits
  int checkpoint_failures_max = 3;                     // in a row
};

// Where the run goes on: from a checkpoint, or {} for the base.
struct LearnerRestore {
  int64_t steps_trained = 0;
  Ledger ledger;
  std::optional<StepReport> last_report;  // of step steps_trained - 1
};

struct LearnerAction {
  enum class Kind {
    kPublish,     // make version `version` pullable, then OnPublished
    kAttach,      // AttachLearner(steps_trained), then OnAttached or OnCallFailed
    kNextStep,    // NextStep(step) long poll, then OnNextStep or OnCallFailed
    kTrain,       // train `plan` with `groups`, then OnTrained or OnTrainFailed
    kCheckpoint,  // write a checkpoint of `steps_trained` steps: OnCheckpointed or -Failed when it
                  // is done; OnCheckpointBegun before, if the run may go on meanwhile
    kReport,      // ReportStep(report), then OnReported or OnCallFailed
    kSavePolicy,  // write the policy's folder, then OnPolicySaved
    kStop,        // leave with success; the last action
    kFail,        // leave with `status`; the last action
  };
  Kind kind = Kind::kStop;
  int64_t steps_trained = 0;
  PolicyVersion version;    // kPublish
  int64_t incarnation = 0;  // kAttach: rises when the learner wants to be seen as a new one
  StepId step;              // kNextStep, kTrain
  StepPlan plan;            // kTrain
  std::vector<GroupExperience> groups;  // kTrain
  StepReport report;                    // kReport
  absl::Status status;                  // kFail
};

enum class LearnerPhase {
  kPublish,
  kAttach,
  kNextStep,
  kCollect,
  kTrain,
  kCheckpoint,
  kReport,
  kSavePolicy,
  kServe,  // finished: weights are served until a stop; asks now and then whether it still is
  kStop,
  kFail,
};
const char* LearnerPhaseName(LearnerPhase phase);

class LearnerState {
 public:
  LearnerState(const LearnerOptions& options, LearnerRestore restore, absl::Time now);

  // The next thing to do, if it is due and none is under way.
  std::optional<LearnerAction> NextAction(absl::Time now);
  // When NextAction may have something without another event (a retry); InfiniteFuture when only an
  // event can.
  absl::Time NextDue() const;

  // How the action under way went.
  void OnPublished(absl::Duration took, absl::Time now);
  // `leases`: the secret of the coordinator's run.
  void OnAttached(const LeaseSecret& leases, absl::Time now);
  void OnNextStep(LearnerDirective directive, const StepPlan& plan, absl::Time now);
  void OnReported(absl::Time now);
  // A call to the coordinator (attach, next step, report) failed. FAILED_PRECONDITION attaches
  // again, UNAVAILABLE, DEADLINE_EXCEEDED, ABORTED and RESOURCE_EXHAUSTED try again, others end the
  // run.
  void OnCallFailed(const absl::Status& status, absl::Time now);
  // `metrics` and `outcomes` as the step's report shall say them (wait_seconds is filled in here).
  void OnTrained(const StepMetrics& metrics, std::vector<GroupOutcome> outcomes, absl::Time now);
  // CANCELLED after RequestStop: the step was given up before it changed anything.
  void OnTrainFailed(const absl::Status& status, absl::Time now);
  // What the checkpoint holds was copied, which took `pause`; it is written in the background.
  void OnCheckpointBegun(absl::Duration pause, absl::Time now);
  // It is durable; without OnCheckpointBegun the run waited for it, for `took`.
  void OnCheckpointed(absl::Duration took, absl::Time now);
  void OnCheckpointFailed(const absl::Status& status, absl::Time now);
  void OnPolicySaved(const absl::Status& status, absl::Time now);

  // From the workers, at any time.
  ChunkAck Accept(SampleChunk chunk, absl::Time now);
  // False: it must wait. Until the first attach nobody can tell which leases were granted.
  bool HasRoomFor(const SampleChunk& chunk) const {
    return ever_attached_ && buffer_.HasRoomFor(chunk);
  }
  ResumeReply Resume(GroupId group) const { return buffer_.Resume(group); }

  // Finish what is under way, write a checkpoint if there is something new, and stop.
  void RequestStop(absl::Time now);
  // A checkpoint of what has been trained and is not kept yet: now if the learner only waits, else
  // after the step that is under way.
  void RequestCheckpoint(absl::Time now);

  LearnerPhase phase() const { return phase_; }
  int64_t steps_trained() const { return steps_trained_; }
  int64_t steps_checkpointed() const { return steps_checkpointed_; }
  uint64_t stale_groups() const { return stale_groups_; }
  // What a checkpoint of steps_trained() holds; while a step trains, that step is not in it.
  Ledger LedgerForCheckpoint() const;
  const std::optional<StepReport>& last_report() const { return last_report_; }
  const ExperienceBuffer& buffer() const { return buffer_; }
  // In words what is waited for and since when; empty when nothing is.
  std::string Awaiting(absl::Time now) const;
  absl::Duration WaitingFor(absl::Time now) const;

 private:
  void Enter(LearnerPhase phase, absl::Time now);
  void EnterNext(absl::Time now);
  void EnterCollect(const StepPlan& plan, absl::Time now);
  void CollectOrTrain(absl::Time now);
  void AttachAnew(absl::Time now);
  void Reached();
  void Fail(const absl::Status& status, absl::Time now);
  absl::Status CheckPlan(const StepPlan& plan) const;
  std::string AwaitedGroups() const;

  LearnerOptions options_;
  ExperienceBuffer buffer_;
  LearnerPhase phase_ = LearnerPhase::kPublish;
  bool under_way_ = false;
  bool attached_ = false;
  bool ever_attached_ = false;
  bool reported_ = true;  // last_report_ has reached the coordinator since the last attach
  bool stopping_ = false;
  bool finished_ = false;
  bool policy_saved_ = false;
  int64_t steps_trained_ = 0;
  int64_t steps_checkpointed_ = 0;
  bool checkpoint_due_ = false;
  int64_t checkpoint_begun_ = -1;  // of so many steps, in the background; -1: none
  int64_t published_ = -1;
  int64_t incarnation_ = 0;
  int nonfinite_in_a_row_ = 0;
  int checkpoint_failures_in_a_row_ = 0;
  uint64_t stale_groups_ = 0;
  absl::Time phase_since_;
  absl::Time not_before_ = absl::InfinitePast();
  absl::Time failing_since_ = absl::InfiniteFuture();
  absl::Duration retry_delay_;
  absl::Status last_error_;       // of the call under way or of why the run failed
  absl::Status pending_failure_;  // ends the run when the action under way has ended
  StepPlan plan_;
  absl::flat_hash_set<GroupId> missing_;  // groups of plan_ that are not complete
  std::vector<GroupExperience> batch_;
  absl::Duration waited_;
  std::optional<StepReport> last_report_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_LEARNER_STATE_H_
