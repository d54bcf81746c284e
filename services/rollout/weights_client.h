// Policy versions, pulled in verified chunks from whoever holds them. The manifest is the learner's
// (of another source only when the learner has none); the chunks come from the sources in turn, the
// learner last, each into the relay as soon as its CRC-32C is that of the manifest. A source whose
// chunk is wrong, missing or late is left for the next one; what has arrived stays. A version is
// handed on whole or not at all.
//
// Who holds the version before asks for deltas. A source that has none is kept for the end: the
// others, the learner at last, are asked first. A delta that does not fit, in what it is or in what
// it makes, is refused like a wrong chunk, and that chunk asked for as it is.
//
// A chunk is late when its source gave no sign for longer than a slow link needs, or, once chunks
// have come from it, for eight times the longest gap between two of them. A source that itself
// waits says so, and is given the time of a slow link.
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
#include "services/rollout/weight_relay.h"
#include "services/rollout/worker_context.h"

namespace crescendo {

// Checks a manifest against itself and `bytes_max`: the tensors follow each other without gaps, the
// chunks cover them, deltas are smaller. INVALID_ARGUMENT names the field, expected and found.
absl::Status CheckManifest(const v1::WeightManifest& manifest, PolicyVersion version,
                           uint64_t bytes_max);

class WeightsClient {
 public:
  // `stage` takes a whole version; it is called before OnWeightsReady is posted. `bytes_max` bounds
  // a version. What is pulled lies in `relay`, which outlives the client.
  WeightsClient(const WorkerContext& context, uint64_t bytes_max, WeightRelay* relay,
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
  absl::StatusOr<v1::WeightManifest> GetManifest(PolicyVersion version);
  absl::StatusOr<v1::WeightManifest> ManifestOf(const std::string& address, PolicyVersion version);
  absl::Status PullVersion(PolicyVersion version);
  absl::Status PullFromAll(RelayedVersion* weights);
  absl::Status PullFrom(const std::string& address, RelayedVersion* weights);
  absl::Status PullRun(v1::WeightsService::Stub* stub, const std::string& address,
                       RelayedVersion* weights);
  void Take(const v1::WeightChunk& chunk, const std::string& address, RelayedVersion* weights);
  void HandOn(const RelayedVersion& weights);

  const WorkerContext context_;
  const uint64_t bytes_max_;
  WeightRelay* const relay_;
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
