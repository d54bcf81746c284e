// RolloutService on the wire (proto/crescendo/v1/rollout.proto), for operators. Thread-safe; `host`
// outlives the service.
#ifndef CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_SERVICE_H_
#define CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_SERVICE_H_

#include <string>
#include <utility>

#include "crescendo/v1/rollout.grpc.pb.h"
#include "services/rollout/rollout_host.h"

namespace crescendo {

class RolloutServiceImpl final : public v1::RolloutService::Service {
 public:
  explicit RolloutServiceImpl(std::string worker_id) : worker_id_(std::move(worker_id)) {}
  // The server listens before there is a host (its port stands in the worker's Join). Until then,
  // and after SetHost(nullptr), calls answer UNAVAILABLE.
  void SetHost(RolloutHost* host);

  grpc::Status GetWorker(grpc::ServerContext* context, const v1::GetWorkerRequest* request,
                         v1::WorkerState* response) override;
  grpc::Status Drain(grpc::ServerContext* context, const v1::DrainRequest* request,
                     v1::DrainResponse* response) override;

 private:
  const std::string worker_id_;
  absl::Mutex mutex_;
  RolloutHost* host_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_SERVICE_H_
