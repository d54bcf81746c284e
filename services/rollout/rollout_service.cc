#include "services/rollout/rollout_service.h"

namespace crescendo {

void RolloutServiceImpl::SetHost(RolloutHost* host) {
  absl::MutexLock lock(&mutex_);
  host_ = host;
}

grpc::Status RolloutServiceImpl::GetWorker(grpc::ServerContext*, const v1::GetWorkerRequest*,
                                           v1::WorkerState* response) {
  absl::MutexLock lock(&mutex_);
  if (host_ == nullptr) return {grpc::StatusCode::UNAVAILABLE, "the worker does not run"};
  const HostStatus status = host_->Status();
  response->set_worker_id(worker_id_);
  response->set_policy_version(status.loaded.value());
  response->set_groups(static_cast<uint32_t>(status.stats.groups));
  response->set_samples_running(static_cast<uint32_t>(status.stats.running));
  response->set_samples_waiting(static_cast<uint32_t>(status.stats.waiting));
  response->set_tokens_per_second(status.tokens_per_second);
  response->set_kv_usage(status.stats.blocks_total == 0
                             ? 0.0
                             : static_cast<double>(status.stats.blocks_used) /
                                   status.stats.blocks_total);
  response->set_draining(status.draining);
  response->set_generated_tokens(status.stats.generated_tokens);
  return grpc::Status::OK;
}

grpc::Status RolloutServiceImpl::Drain(grpc::ServerContext*, const v1::DrainRequest* request,
                                       v1::DrainResponse*) {
  absl::MutexLock lock(&mutex_);
  if (host_ == nullptr) return {grpc::StatusCode::UNAVAILABLE, "the worker does not run"};
  host_->RequestDrain(absl::Milliseconds(request->finish_within_ms()));
  return grpc::Status::OK;
}

}  // namespace crescendo
