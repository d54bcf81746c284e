// A worker as far as weights go, for tests of how they travel: its client, relay and server, each
// version staged here instead of in a model.
#ifndef CRESCENDO_TESTS_UNIT_ROLLOUT_WEIGHT_WORKER_H_
#define CRESCENDO_TESTS_UNIT_ROLLOUT_WEIGHT_WORKER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "catch2/catch.hpp"
#include "common/os/posix_env.h"
#include "common/rpc/server.h"
#include "prometheus/registry.h"
#include "services/rollout/relay_service.h"
#include "services/rollout/weight_relay.h"
#include "services/rollout/weights_client.h"

namespace crescendo {

inline constexpr absl::Duration kLong = absl::Seconds(30);

inline std::unique_ptr<RpcServer> Serve(grpc::Service* service) {
  auto server = RpcServer::Start({"127.0.0.1:0", "test"}, {service});
  REQUIRE(server.ok());
  return *std::move(server);
}

class WeightWorker {
 public:
  WeightWorker(const std::string& learner, std::vector<std::string> sources,
               absl::Duration rpc_timeout = absl::Seconds(5)) {
    server_ = Serve(&service_);
    PeerAddresses peers;
    peers.learner = learner;
    peers.rpc_timeout = rpc_timeout;
    const WorkerContext context = {.identity = {"w", server_->address(), "i", 1},
                                   .peers = peers,
                                   .post = [](CoreEvent) {},
                                   .clock = clock_.get(),
                                   .metrics = &metrics,
                                   .stop = &stop_,
                                   .log = NullLogger()};
    client_ = std::make_unique<WeightsClient>(context, 1 << 24, &relay,
                                              [this](std::unique_ptr<StagedWeights> weights) {
                                                absl::MutexLock lock(&mutex_);
                                                staged_ = std::move(weights);
                                              });
    client_->SetSources(std::move(sources));
    client_->Start();
  }
  ~WeightWorker() { Die(); }
  void Pull(int64_t version) { client_->Pull({PolicyVersion(version)}); }
  void SetSources(std::vector<std::string> sources) { client_->SetSources(std::move(sources)); }
  // As a process that is killed: its connections break.
  void Die() {
    stop_.Set();
    if (server_ != nullptr) server_->Stop(absl::ZeroDuration());
    server_ = nullptr;
    client_ = nullptr;
  }
  std::string address() const { return server_->address(); }
  bool Has(int64_t version, uint32_t chunk) {
    const auto kept = relay.Await(PolicyVersion(version), "", kLong);
    RelayedVersion::Chunk held;
    return kept != nullptr &&
           kept->AwaitChunk(chunk, false, kLong, &held) == RelayedVersion::Found::kReady;
  }
  // The version, once it is whole; it is not staged any more then, as after a swap.
  std::unique_ptr<StagedWeights> Take(int64_t version) {
    const auto is_there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return staged_ != nullptr && staged_->version == PolicyVersion(version);
    };
    absl::MutexLock lock(&mutex_);
    REQUIRE(mutex_.AwaitWithTimeout(absl::Condition(&is_there), kLong));
    return std::move(staged_);
  }
  void CheckWhole(int64_t version, const std::string& bytes) {
    const std::unique_ptr<StagedWeights> staged = Take(version);
    const bool same = *staged->bytes == bytes;
    CHECK(same);
  }

  prometheus::Registry registry;
  RolloutMetrics metrics{registry};
  WeightRelay relay;

 private:
  std::unique_ptr<Clock> clock_ = MakeRealClock();
  RelayServiceImpl service_{&relay, &metrics.relayed_weight_bytes_total};
  StopFlag stop_;
  absl::Mutex mutex_;
  std::unique_ptr<StagedWeights> staged_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<WeightsClient> client_;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_ROLLOUT_WEIGHT_WORKER_H_
