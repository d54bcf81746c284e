// One peer's outages in words: who is away, where, for how long, and that it is back. Bounded
// back-off between tries.
//
// Thread-safe.
#ifndef CRESCENDO_SERVICES_ROLLOUT_PEER_WATCH_H_
#define CRESCENDO_SERVICES_ROLLOUT_PEER_WATCH_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/os/log.h"

namespace prometheus {
class Counter;
}

namespace crescendo {

class PeerWatch {
 public:
  // `failures` counts failed calls; it and `clock` outlive the watch.
  PeerWatch(std::string who, Clock* clock, const Logger& log, prometheus::Counter* failures);

  // A call for `what` failed. Logs the first failure of an outage, then one every few seconds.
  // Returns how long to wait before the next try: doubles from 20 ms to 1 s.
  absl::Duration Failed(absl::string_view what, const absl::Status& status);
  // A call went through: ends the outage, if there was one.
  void Ok();
  // What is awaited of it and since when, for people; empty when it answers.
  std::string Awaiting() const;
  const std::string& who() const { return who_; }

 private:
  const std::string who_;
  Clock* const clock_;
  const Logger log_;
  prometheus::Counter* const failures_;
  mutable absl::Mutex mutex_;
  int failed_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time since_ ABSL_GUARDED_BY(mutex_);
  absl::Time logged_ ABSL_GUARDED_BY(mutex_);
  std::string what_ ABSL_GUARDED_BY(mutex_);
};

// A flag that many threads wait on: the worker stops.
class StopFlag {
 public:
  void Set();
  bool IsSet() const;
  // Waits for the flag at most so long; whether it is set.
  bool WaitFor(absl::Duration duration) const;

 private:
  mutable absl::Mutex mutex_;
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_PEER_WATCH_H_
