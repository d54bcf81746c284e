// The four services as processes of a SimWorld: each holds a real core and does, over the simulated
// network, what the service's adapter does over gRPC. What must survive a crash lies in Disks.
#ifndef CRESCENDO_TESTS_SIM_SIM_SERVICES_H_
#define CRESCENDO_TESTS_SIM_SIM_SERVICES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "services/coordinator/coordinator_state.h"
#include "services/learner/learner_state.h"
#include "services/rollout/rollout_core.h"
#include "tests/sim/sim_world.h"
#include "tests/support/scripted_model.h"

namespace crescendo::sim {

// A rule broken on purpose, to see that the simulation notices.
enum class BrokenRule {
  kNone,
  kLeasesNeverExpire,   // a lost worker's groups are never granted again
  kReplyBeforeDurable,  // the coordinator answers before its journal has the records
  kStampsWrongVersion,  // a worker says of its tokens that a later version made them
  kForgetsMinVersion,   // a lease does not say which version its tokens need
};

// What one step was trained on.
struct TrainedBatch {
  std::vector<GroupId> groups;
  uint64_t content = 0;  // hash of all that trains: tokens, log-probabilities, versions, rewards
  bool operator==(const TrainedBatch&) const = default;
};

// A learner's checkpoint.
struct SimCheckpoint {
  LearnerRestore restore;
  std::map<int64_t, TrainedBatch> batches;  // by step: the time line that led here
};

// What survives crashes.
struct Disks {
  JournalImage journal;
  SimCheckpoint checkpoint;
};

struct Knobs {
  CoordinatorOptions coordinator;
  ScriptedModelOptions model;
  int checkpoint_every = 1;
  BrokenRule broken = BrokenRule::kNone;
  double crash_before_durable = 0;   // probability for one event of the coordinator
  std::vector<double> worker_speed;  // decode steps per step of a healthy worker
};

struct Live;

// Everything that the processes share: not state of the system, but of the experiment.
struct Experiment {
  SimWorld* world = nullptr;
  Live* live = nullptr;
  Knobs knobs;
  Disks disks;
  std::string violation;  // the first broken invariant
  ProcessId coordinator = -1;
  ProcessId learner = -1;
  ProcessId reward = -1;
  std::vector<ProcessId> workers;
  bool finished = false;       // the coordinator said so to the learner
  uint64_t second_leases = 0;  // granted, over all lives of the coordinator
  uint64_t quarantines = 0;
  std::map<int64_t, TrainedBatch> final_batches;  // of the learner that finished

  void Violate(const std::string& what) {
    if (violation.empty()) violation = what;
  }
};

Verdict TrueVerdict(uint64_t run_seed, const std::vector<int32_t>& tokens);

class SimCoordinator {
 public:
  explicit SimCoordinator(Experiment* experiment);

  template <typename Reply>
  using Answer = std::function<void(absl::StatusOr<Reply>)>;

  void Join(const JoinEvent& event, Answer<JoinReply> answer);
  void Lease(const std::string& worker, const std::string& incarnation, int groups_max,
             Answer<std::vector<GroupLease>> answer);
  void Heartbeat(const HeartbeatEvent& event, Answer<HeartbeatReply> answer);
  void Complete(const GroupCompletion& completion, Answer<bool> answer);
  void Abandon(const std::string& worker, LeaseId lease, const std::string& reason);
  void Attach(const AttachLearnerEvent& event, Answer<LeaseSecret> answer);
  void NextStep(StepId step, const std::string& incarnation, Answer<NextStepReply> answer);
  void Report(const ReportStepEvent& event, Answer<bool> answer);
  std::string Awaiting() const { return state_->View(Now()).awaiting; }

 private:
  struct Parked {
    std::function<bool()> retry;  // true: answered
  };
  absl::Time Now() const { return experiment_->world->LocalNow(experiment_->coordinator); }
  // Makes the event's records durable; false when the process died before.
  bool Commit();
  void ServeParked();
  void TickLater();
  void CountUp();

  Experiment* experiment_;
  std::unique_ptr<CoordinatorState> state_;
  CoordinatorCounters counted_;
  std::vector<Parked> parked_;
  bool dying_ = false;  // crashes at once; nothing more is written or answered
};

class SimLearner {
 public:
  explicit SimLearner(Experiment* experiment);

  // From workers.
  using Stream = SimWorld::Stream;
  void OnChunk(const SampleChunk& chunk, const std::shared_ptr<Stream>& stream,
               std::function<void(ChunkAck)> ack);
  ResumeReply Resume(GroupId group) const {
    ResumeReply reply = state_->Resume(group);
    reply.learner_incarnation = IncarnationText();
    return reply;
  }
  // The incarnation whose weights these are; NOT_FOUND when the version is not held.
  absl::StatusOr<std::string> Pull(PolicyVersion version) const;
  std::string Awaiting() const { return state_->Awaiting(Now()); }

 private:
  absl::Time Now() const { return experiment_->world->LocalNow(experiment_->learner); }
  std::string IncarnationText() const;
  void Pump();
  void Perform(LearnerAction action);
  void Train(LearnerAction action);
  TrainedBatch CheckBatch(const LearnerAction& action, StepMetrics& metrics,
                          std::vector<GroupOutcome>& outcomes);
  void CheckSample(const LearnerAction& action, const GroupExperience& group, uint32_t sample);

  Experiment* experiment_;
  std::unique_ptr<LearnerState> state_;
  int64_t incarnation_ = 0;
  std::vector<int64_t> versions_;  // held for the workers
  std::map<int64_t, TrainedBatch> batches_;
  bool pumping_ = false;
  bool pump_planned_ = false;
};

class SimWorker {
 public:
  SimWorker(Experiment* experiment, int index);

 private:
  absl::Time Now() const { return experiment_->world->LocalNow(self_); }
  std::string Id() const { return experiment_->world->Name(self_); }
  std::string IncarnationText() const;
  void JoinLater(absl::Duration delay);
  void BeatLater();
  void OnBeat(const absl::StatusOr<HeartbeatReply>& reply);
  void StepLater(absl::Duration delay);
  void Perform(RolloutAction action);
  void Do(const AskLeases& action);
  void Do(const SendChunk& action);
  void Do(const RequestResume& action);
  void Do(const RequestGrade& action);
  void Do(const CompleteGroup& action);
  void Do(const AbandonLease& action);
  void Do(const PullWeights& action);
  void Do(const ServedToken&) {}  // nothing is served here
  // A higher stream number makes void what belongs to lower ones; false for a lower one.
  bool AdvanceTo(uint64_t number);
  bool EnsureLearnerStream();

  Experiment* experiment_;
  int index_;
  ProcessId self_;
  std::unique_ptr<ScriptedModel> model_;
  std::unique_ptr<RolloutCore> core_;
  bool joined_ = false;
  uint64_t stream_number_ = 0;
  uint64_t told_tokens_ = 0;
  std::shared_ptr<SimWorld::Stream> learner_stream_;
  std::shared_ptr<SimWorld::Stream> reward_stream_;
  bool reward_reset_pending_ = false;
};

// Grades; it has no state.
class SimReward {
 public:
  explicit SimReward(Experiment* experiment) : experiment_(experiment) {}
  Verdict Grade(const std::vector<int32_t>& tokens) const;

 private:
  Experiment* experiment_;
};

// The processes' live objects, null while they are down.
struct Live {
  std::unique_ptr<SimCoordinator> coordinator;
  std::unique_ptr<SimLearner> learner;
  std::unique_ptr<SimReward> reward;
  std::vector<std::unique_ptr<SimWorker>> workers;
};

}  // namespace crescendo::sim

#endif  // CRESCENDO_TESTS_SIM_SIM_SERVICES_H_
