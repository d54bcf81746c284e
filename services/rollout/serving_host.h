// A core that serves requests alone, without a run around it: no coordinator, no learner.
//
// Thread rule: Start, Stop from one thread; Post from any.
#ifndef CRESCENDO_SERVICES_ROLLOUT_SERVING_HOST_H_
#define CRESCENDO_SERVICES_ROLLOUT_SERVING_HOST_H_

#include <functional>
#include <thread>

#include "absl/status/status.h"
#include "common/base/bounded_queue.h"
#include "common/base/clock.h"
#include "common/metrics/rollout_metrics.h"
#include "services/rollout/rollout_core.h"
#include "services/rollout/worker_context.h"

namespace crescendo {

class ServingHost {
 public:
  // What is pointed to outlives the host. `on_token` is called on the core's thread.
  ServingHost(const RolloutOptions& options, ModelRunner* runner, Clock* clock,
              RolloutMetrics* metrics, std::function<void(const ServedToken&)> on_token);
  ~ServingHost();
  // `on_failure` is called on the core's thread when the engine cannot go on.
  void Start(std::function<void()> on_failure);
  void Post(CoreEvent event);
  // Ends the thread; the engine's error, if it had one.
  absl::Status Stop();

 private:
  void Loop();
  void Publish();

  ModelRunner* const runner_;
  Clock* const clock_;
  RolloutMetrics* const metrics_;
  const std::function<void(const ServedToken&)> on_token_;
  std::function<void()> on_failure_;
  BoundedQueue<CoreEvent> events_;
  RolloutCore core_;  // of the thread
  RolloutStats published_;
  absl::Status status_;  // of the thread, until it is joined
  std::thread thread_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_SERVING_HOST_H_
