// What the parts of the rollout adapter share: who this worker is, where its peers are, how they
// report to the core's thread.
#ifndef CRESCENDO_SERVICES_ROLLOUT_WORKER_CONTEXT_H_
#define CRESCENDO_SERVICES_ROLLOUT_WORKER_CONTEXT_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/metrics/life_trace.h"
#include "common/metrics/rollout_metrics.h"
#include "common/os/log.h"
#include "common/rpc/transport.h"
#include "services/rollout/peer_watch.h"
#include "services/rollout/rollout_core.h"

namespace crescendo {

struct WorkerIdentity {
  std::string worker_id;
  std::string address;      // of this worker's gRPC server
  std::string incarnation;  // random per process
  int slots = 0;
  Resources resources = {};  // that the process holds, for the cost meter
};

struct PeerAddresses {
  std::string coordinator;
  std::string learner;
  std::string reward;
  Transport transport = {};
  absl::Duration connect_timeout = absl::Seconds(30);
  absl::Duration rpc_timeout = absl::Seconds(10);
  absl::Duration heartbeat = absl::Milliseconds(500);
};

// Runs on the core's thread, in the order of posting. Post blocks while the queue is full, and
// drops the event when the worker stops.
using CoreEvent = std::function<void(RolloutCore&)>;
using PostEvent = std::function<void(CoreEvent)>;

// All pointers outlive what is made from the context. Copies are cheap.
struct WorkerContext {
  WorkerIdentity identity;
  PeerAddresses peers;
  PostEvent post;
  Clock* clock = nullptr;
  RolloutMetrics* metrics = nullptr;
  LifeTrace* trace = nullptr;  // null: nothing is noted
  const StopFlag* stop = nullptr;
  Logger log;

  void Note(LifeMoment moment) const {
    if (trace != nullptr) trace->Note(std::move(moment));
  }
};

// What the model holds now, as metrics.
void PublishMemory(const ModelRunner& runner, RolloutMetrics& metrics);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_WORKER_CONTEXT_H_
