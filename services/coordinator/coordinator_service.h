// CoordinatorService on the wire: protos in and out of the host's calls, nothing else. gRPC's
// callback interface: a long poll holds no thread, so a thousand workers need no thousand threads.
//
// Thread-safe. The host outlives the service, and the service the server.
#ifndef CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_SERVICE_H_
#define CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_SERVICE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "common/metrics/life_trace.h"
#include "crescendo/v1/coordinator.grpc.pb.h"
#include "services/coordinator/coordinator_host.h"
#include "services/coordinator/shown_samples.h"

namespace crescendo {

class CoordinatorServiceImpl final : public v1::CoordinatorService::CallbackService {
 public:
  // `samples` gets the samples that workers send for people; may be null; outlives the server.
  explicit CoordinatorServiceImpl(CoordinatorHost* host, ShownSamples* samples = nullptr)
      : host_(*host), samples_(samples) {}
  // The address of the run's page, for the status. Before the server starts.
  void SetPage(std::string url) { page_ = std::move(url); }
  // Where the moments of groups are noted; outlives the server. Before the server starts.
  void SetTrace(LifeTrace* trace) { trace_ = trace; }

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* Join(Context* context, const v1::JoinRequest* request,
                v1::JoinResponse* response) override;
  Reactor* Lease(Context* context, const v1::LeaseRequest* request,
                 v1::LeaseResponse* response) override;
  Reactor* Heartbeat(Context* context, const v1::HeartbeatRequest* request,
                     v1::HeartbeatResponse* response) override;
  Reactor* CompleteGroup(Context* context, const v1::CompleteGroupRequest* request,
                         v1::CompleteGroupResponse* response) override;
  Reactor* Abandon(Context* context, const v1::AbandonRequest* request,
                   v1::AbandonResponse* response) override;
  Reactor* Leave(Context* context, const v1::LeaveRequest* request,
                 v1::LeaveResponse* response) override;
  Reactor* AttachLearner(Context* context, const v1::AttachLearnerRequest* request,
                         v1::AttachLearnerResponse* response) override;
  Reactor* NextStep(Context* context, const v1::NextStepRequest* request,
                    v1::NextStepResponse* response) override;
  Reactor* ReportStep(Context* context, const v1::ReportStepRequest* request,
                      v1::ReportStepResponse* response) override;
  Reactor* GetStatus(Context* context, const v1::GetStatusRequest* request,
                     v1::RunStatus* response) override;
  Reactor* GetHistory(Context* context, const v1::GetHistoryRequest* request,
                      v1::GetHistoryResponse* response) override;
  Reactor* SetStage(Context* context, const v1::SetStageRequest* request,
                    v1::SetStageResponse* response) override;

 private:
  using Attempt =
      std::function<std::optional<absl::Status>(CoordinatorState&, absl::Time now, bool last)>;
  using Answer = std::function<absl::Status(CoordinatorState&, absl::Time now)>;

  Reactor* Submit(Attempt attempt, CoordinatorHost::Wait wait, uint32_t max_wait_ms);
  // A call that has its answer at once.
  Reactor* Submit(Answer answer);

  void Note(LifeMoment moment) const {
    if (trace_ != nullptr) trace_->Note(std::move(moment));
  }

  CoordinatorHost& host_;
  LifeTrace* trace_ = nullptr;
  ShownSamples* const samples_;
  std::string page_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_COORDINATOR_SERVICE_H_
