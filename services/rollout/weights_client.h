// Policy versions, pulled in verified chunks from whoever holds them: a manifest, then its chunks,
// the CRC-32C of each checked against the manifest; what is wrong, late or missing is asked for
// again, at the next source. A version is handed on whole or not at all.
//
// Thread-safe. Results go to the core as events.
#ifndef CRESCENDO_SERVICES_ROLLOUT_WEIGHTS_CLIENT_H_
#define CRESCENDO_SERVICES_ROLLOUT_WEIGHTS_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/bounded_queue.h"
#include "crescendo/v1/weights.grpc.pb.h"
#include "services/rollout/peer_watch.h"
#include "services/rollout/rollout_actions.h"
#include "services/rollout/staged_weights.h"
#include "services/rollout/worker_context.h"

namespace crescendo {

// Checks a manifest against itself and `bytes_max`: the tensors follow each other without gaps, the
// chunks cover them. INVALID_ARGUMENT names the field, expected and found.
absl::Status CheckManifest(const v1::WeightManifest& manifest, PolicyVersion version,
                           uint64_t bytes_max);

class WeightsClient {
 public:
  // `stage` takes a whole version; it is called before OnWeightsReady is posted. `bytes_max` bounds
  // a version.
  WeightsClient(const WorkerContext& context, uint64_t bytes_max,
                std::function<void(std::unique_ptr<StagedWeights>)> stage);
  ~WeightsClient();
  void Start();
  // Addresses that hold versions, best first; the learner of the configuration is always the last.
  void SetSources(std::vector<std::string> sources);
  // Supersedes what is being pulled. Never blocks.
  void Pull(const PullWeights& pull);
  // Ends the thread. The stop flag must be set.
  void Stop();
  std::string Awaiting() const { return watch_.Awaiting(); }

 private:
  void Loop();
  void PullUntilDone(PolicyVersion version);
  bool Superseded(PolicyVersion version) const;
  std::vector<std::string> Sources() const;
  absl::StatusOr<v1::WeightsService::Stub*> StubOf(const std::string& address);
  absl::StatusOr<std::unique_ptr<StagedWeights>> PullFrom(const std::string& address,
                                                          PolicyVersion version);
  absl::Status PullMissing(v1::WeightsService::Stub* stub, const std::string& address,
                           const v1::WeightManifest& manifest, std::vector<bool>* have,
                           StagedWeights* weights);

  const WorkerContext context_;
  const uint64_t bytes_max_;
  const std::function<void(std::unique_ptr<StagedWeights>)> stage_;
  PeerWatch watch_;
  mutable absl::Mutex mutex_;
  std::vector<std::string> sources_ ABSL_GUARDED_BY(mutex_);
  PolicyVersion target_ ABSL_GUARDED_BY(mutex_);
  uint64_t asked_ ABSL_GUARDED_BY(mutex_) = 0;  // counts calls of Pull
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<std::string, std::unique_ptr<v1::WeightsService::Stub>> stubs_;
  std::thread thread_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_WEIGHTS_CLIENT_H_
