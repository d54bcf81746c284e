// The learner's adapter: performs the core's actions (train, checkpoint, publish, call the
// coordinator) on the thread that calls Run, and lets the gRPC handlers reach the core under one
// lock. gRPC and LibTorch stay behind CoordinatorLink and Trainer.
//
// Thread rule: Run on one thread, which alone uses the trainer and the link's calls; a checkpoint
// is written by a thread of its own, one at a time; everything else from any thread. The lock is
// never held over training, disk or network. All that is handed in outlives the host.
#ifndef CRESCENDO_SERVICES_LEARNER_LEARNER_HOST_H_
#define CRESCENDO_SERVICES_LEARNER_LEARNER_HOST_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/domain.h"
#include "common/metrics/learner_metrics.h"
#include "common/metrics/life_trace.h"
#include "common/os/log.h"
#include "services/learner/checkpoint.h"
#include "services/learner/coordinator_link.h"
#include "services/learner/learner_state.h"
#include "services/learner/train_step.h"
#include "services/learner/trainer.h"
#include "services/learner/weight_store.h"

namespace crescendo {

struct LearnerHostOptions {
  LearnerOptions learner;
  TrainStepOptions step;
  std::string incarnation;    // random per process
  std::string policy_folder;  // where the trained policy is written at the end of the run
  std::string config_toml;    // kept in every checkpoint
  absl::Duration long_poll = absl::Seconds(5);
  absl::Duration awaited_after = absl::Seconds(15);  // then what is awaited is logged
  absl::Duration room_wait_max = absl::Minutes(10);  // a stream held back for so long is ended
};

struct LearnerHostDeps {
  Trainer* trainer;
  CheckpointStore* checkpoints;
  WeightStore* weights;
  LearnerMetrics* metrics;
  Clock* clock;
  LifeTrace* trace = nullptr;  // null: nothing is noted
};

class LearnerHost {
 public:
  // `checkpoint`: where to go on; its trainer state was imported already.
  LearnerHost(const LearnerHostOptions& options, const LearnerHostDeps& deps, const Logger& log,
              LearnerRestore restore);

  ~LearnerHost();
  // Blocks until the run is stopped (OK) or fails. `coordinator` outlives the host. Once only.
  absl::Status Run(CoordinatorLink* coordinator);
  // Finish or give up the step under way, write a checkpoint, and let Run return.
  void RequestStop();
  struct Progress {
    int64_t steps_trained = 0;
    int64_t steps_checkpointed = 0;
  };
  // As LearnerState::RequestCheckpoint; how far the learner and its newest checkpoint are.
  Progress RequestCheckpoint();

  // Takes a chunk. Blocks while the buffer has no room for it: the stream's flow control then holds
  // the worker back. CANCELLED when the learner stops or `cancelled` says true, RESOURCE_EXHAUSTED
  // after room_wait_max.
  absl::StatusOr<ChunkAck> Accept(SampleChunk chunk, const std::function<bool()>& cancelled);
  ResumeReply Resume(GroupId group);
  // A chunk that was malformed on the wire.
  void CountMalformed() { deps_.metrics->refused_chunks_total.Increment(); }

  const WeightStore& weights() const { return *deps_.weights; }
  std::string incarnation() const;
  LearnerMetrics& metrics() { return *deps_.metrics; }

 private:
  std::string IncarnationLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<LearnerAction> AwaitAction();
  void LogAwaiting(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Perform(LearnerAction action);
  void Publish(const LearnerAction& action);
  void Attach(const LearnerAction& action);
  void NextStep(const LearnerAction& action);
  void Train(LearnerAction action);
  void Checkpoint(const LearnerAction& action);
  absl::StatusOr<TrainerState> CheckpointState(int64_t steps);
  void WriteCheckpoint(const crescendo::Checkpoint& checkpoint);
  void Report(const LearnerAction& action);
  void CallFailed(const LearnerAction& action, const absl::Status& status);
  void ShowStep(const StepMetrics& metrics, StepId step);
  void ShowDistributions(const BatchSummary& summary);
  void ShowBuffer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ActionDue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const LearnerHostOptions options_;
  void Note(LifeMoment moment) const {
    if (deps_.trace != nullptr) deps_.trace->Note(std::move(moment));
  }

  const LearnerHostDeps deps_;
  const Logger log_;
  std::atomic<bool> stopping_{false};
  int stage_ = 0;                                      // of the last step; Run's thread
  absl::Time awaiting_logged_ = absl::InfinitePast();  // Run's thread
  CoordinatorLink* link_ = nullptr;                    // Run's thread
  std::thread writer_;                                 // Run's thread starts and joins it
  mutable absl::Mutex mutex_;
  absl::Time checkpointed_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  CoordinatorLink* link_to_cancel_ ABSL_GUARDED_BY(mutex_) = nullptr;
  LearnerState state_ ABSL_GUARDED_BY(mutex_);
  int64_t incarnation_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_LEARNER_HOST_H_
