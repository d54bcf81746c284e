// The rollout worker put together: the core on a thread of its own, the clients around it, bounded
// queues between. Start, then Run until the worker has left.
//
// Thread rule: Start, Run from one thread; RequestDrain, Status from any.
#ifndef CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_HOST_H_
#define CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_HOST_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/bounded_queue.h"
#include "common/metrics/rollout_metrics.h"
#include "services/rollout/coordinator_client.h"
#include "services/rollout/experience_client.h"
#include "services/rollout/prompt_codec.h"
#include "services/rollout/reward_client.h"
#include "services/rollout/rollout_core.h"
#include "services/rollout/weight_relay.h"
#include "services/rollout/weights_client.h"
#include "services/rollout/worker_context.h"

namespace crescendo {

struct HostStatus {
  RolloutStats stats;
  PolicyVersion loaded;
  double tokens_per_second = 0;
  bool draining = false;
};

class RolloutHost {
 public:
  struct Parts {
    ModelRunner* runner = nullptr;
    const PromptCodec* codec = nullptr;
    std::function<void(std::unique_ptr<StagedWeights>)> stage;
    uint64_t weight_bytes_max = 0;
    WeightRelay* relay = nullptr;  // where pulled weights lie for other workers; null: nowhere
    Clock* clock = nullptr;
    RolloutMetrics* metrics = nullptr;
    LifeTrace* trace = nullptr;  // may be null
    Logger log = NullLogger();
  };
  // What `parts` points to outlives the host.
  RolloutHost(const RolloutOptions& options, const WorkerIdentity& identity,
              const PeerAddresses& peers, const Parts& parts);
  ~RolloutHost();

  // Reaches all peers and joins. UNAVAILABLE names the one that could not be reached within
  // connect_timeout; CANCELLED when `stopped` said so. FAILED_PRECONDITION: another protocol.
  absl::Status Start(const std::function<bool()>& stopped);
  // Blocks until the worker is drained and has left, or the engine failed (its error).
  absl::Status Run();
  // Takes no more groups; hands back after `finish_within` what is not finished.
  void RequestDrain(absl::Duration finish_within);
  // Where the tokens of served requests go, on the core's thread.
  void SetServedSink(std::function<void(const ServedToken&)> sink);
  // Runs on the core's thread; dropped once the worker has ended.
  void Post(CoreEvent event);
  HostStatus Status() const;

 private:
  void EngineLoop();
  bool Dispatch(RolloutAction& action);
  void NoteAction(const RolloutAction& action) const;
  void DispatchAll();
  void Publish(absl::Time now, bool force);
  void OnHeartbeat(const v1::HeartbeatResponse& response);

  const RolloutOptions options_;
  WorkerContext context_;
  const Parts parts_;
  WeightRelay own_relay_;  // where parts_ has none
  StopFlag stop_;
  BoundedQueue<CoreEvent> events_;
  RolloutCore core_;  // of the engine's thread
  std::vector<RolloutAction> deferred_;
  std::function<void(const ServedToken&)> served_sink_;  // of the engine's thread
  absl::Status engine_status_;

  std::unique_ptr<CoordinatorClient> coordinator_;
  std::unique_ptr<ExperienceClient> experience_;
  std::unique_ptr<RewardClient> reward_;
  std::unique_ptr<WeightsClient> weights_;

  mutable absl::Mutex mutex_;
  WorkerProgress progress_ ABSL_GUARDED_BY(mutex_);
  HostStatus status_ ABSL_GUARDED_BY(mutex_);
  RolloutStats last_stats_;  // as of the last Publish
  absl::Time published_ = absl::InfinitePast();
  std::thread engine_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_HOST_H_
