// The one thread that owns the coordinator's core, and the journal behind it.
//
// Calls are queued (bounded); the thread takes all that are there, handles them, appends what they
// made durable in one transaction, and only then answers them: one sync of the disk for a whole
// batch. A call that has nothing to answer yet (a long poll) is parked without a thread and tried
// again when something may have changed for it, until its wait is over.
//
// When the journal fails, the calls of that batch and all later ones are answered UNAVAILABLE, and
// failure() says why: nothing that is not durable was told to anybody. The process then ends; a new
// one goes on from the journal.
//
// Thread-safe.
#ifndef CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_HOST_H_
#define CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_HOST_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/bounded_queue.h"
#include "common/base/clock.h"
#include "common/metrics/coordinator_metrics.h"
#include "common/os/log.h"
#include "services/coordinator/coordinator_state.h"
#include "services/coordinator/journal.h"

namespace crescendo {

class CoordinatorHost {
 public:
  // What a call waits for, when it has nothing to answer yet.
  enum class Wait : uint8_t { kNothing, kWork, kEvent };
  struct Call {
    // Runs on the core's thread. nullopt: nothing yet, park it (not when `last`).
    std::function<std::optional<absl::Status>(CoordinatorState& state, absl::Time now, bool last)>
        attempt;
    // Runs once, on the core's thread or, when the call is refused, on the caller's.
    std::function<void(const absl::Status&)> done;
    // Whether nobody waits for the answer any more; then a parked call is dropped.
    std::function<bool()> cancelled;
    Wait wait = Wait::kNothing;
    absl::Duration wait_max;
  };

  // `state` holds what `journal` holds. Metrics (may be null), clock and logger's sink outlive it.
  CoordinatorHost(std::unique_ptr<CoordinatorState> state, std::unique_ptr<Journal> journal,
                  CoordinatorMetrics* metrics, Clock* clock, Logger log);
  ~CoordinatorHost();  // Stop
  CoordinatorHost(const CoordinatorHost&) = delete;
  CoordinatorHost& operator=(const CoordinatorHost&) = delete;

  // Refused calls are answered at once: UNAVAILABLE when stopping or failed, RESOURCE_EXHAUSTED
  // when the queue is full. Does not block.
  void Submit(Call call);

  // Handles what is queued, answers parked calls with UNAVAILABLE, closes the journal and ends the
  // thread. Idempotent. Blocks for as long as a transaction takes.
  void Stop();

  // Why the host has stopped by itself; OK while it has not.
  absl::Status failure() const;

 private:
  struct Parked {
    Call call;
    absl::Time give_up;
  };
  struct Reply {
    std::function<void(const absl::Status&)> done;
    absl::Status status;
  };

  void Run();
  absl::Duration TimeToNextDue(absl::Time now) const;
  void Handle(Call call, absl::Time now);
  void ServeParked(absl::Time now, bool ticked);
  bool TryParked(Parked& parked, absl::Time now);
  bool Commit();
  void Answer();
  void ExportMetrics(absl::Time now);

  std::unique_ptr<CoordinatorState> state_;
  std::unique_ptr<Journal> journal_;
  CoordinatorMetrics* metrics_;
  Clock* clock_;
  Logger log_;

  BoundedQueue<Call> queue_;
  // Of the core's thread.
  std::list<Parked> parked_;
  std::vector<Reply> replies_;
  absl::Time next_tick_ = absl::InfinitePast();
  uint64_t work_version_served_ = 0;
  CoordinatorCounters exported_;
  absl::Time awaiting_since_;
  bool awaiting_told_ = false;

  mutable absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex stop_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(stop_mutex_);
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_HOST_H_
