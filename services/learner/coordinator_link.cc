#include "services/learner/coordinator_link.h"

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/convert/convert.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "crescendo/v1/coordinator.grpc.pb.h"

namespace crescendo {

namespace {

class GrpcCoordinatorLink : public CoordinatorLink {
 public:
  GrpcCoordinatorLink(const CoordinatorLinkOptions& options,
                      const std::shared_ptr<grpc::Channel>& channel)
      : options_(options), stub_(v1::CoordinatorService::NewStub(channel)) {}

  absl::StatusOr<AttachAnswer> Attach(int64_t steps_trained,
                                      const std::string& incarnation) override {
    v1::AttachLearnerRequest request;
    request.set_protocol_version(limits::kProtocolVersion);
    request.set_address(options_.learner_address);
    request.set_incarnation(incarnation);
    request.set_step(steps_trained);
    request.set_config_digest(options_.config_digest);
    *request.mutable_resources() = ToProto(options_.resources);
    v1::AttachLearnerResponse response;
    RETURN_IF_ERROR(Run("to attach", options_.rpc_timeout, [&](grpc::ClientContext* context) {
      return stub_->AttachLearner(context, request, &response);
    }));
    const LeaseSecret leases{response.lease_secret_low(), response.lease_secret_high()};
    if (leases.empty()) {
      return absl::InternalError(absl::StrCat("coordinator ", options_.coordinator,
                                              ": lease_secret: expected that of the run, found "
                                              "none: start both from the same build"));
    }
    run_id_ = response.run_id();
    return AttachAnswer{response.steps_rolled_back(), leases};
  }

  absl::StatusOr<NextStepAnswer> NextStep(StepId step, const std::string& incarnation,
                                          absl::Duration wait) override {
    v1::NextStepRequest request;
    request.set_step(step.value());
    request.set_incarnation(incarnation);
    request.set_max_wait_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(wait)));
    v1::NextStepResponse response;
    RETURN_IF_ERROR(Run(absl::StrCat("for the plan of step ", step.value()),
                        options_.rpc_timeout + wait, [&](grpc::ClientContext* context) {
                          return stub_->NextStep(context, request, &response);
                        }));
    NextStepAnswer answer;
    ASSIGN_OR_RETURN(answer.directive, FromProto(response.directive()));
    if (answer.directive == LearnerDirective::kTrain) {
      ASSIGN_OR_RETURN(answer.plan, FromProto(response.plan()));
    }
    return answer;
  }

  absl::Status Report(const StepReport& report, const std::string& incarnation) override {
    v1::ReportStepRequest request;
    request.set_step(report.step.value());
    request.set_incarnation(incarnation);
    *request.mutable_metrics() = ToProto(report.metrics);
    for (const GroupOutcome& group : report.groups) *request.add_groups() = ToProto(group);
    request.set_checkpointed(report.checkpointed);
    v1::ReportStepResponse response;
    return Run(absl::StrCat("to report step ", report.step.value()), options_.rpc_timeout,
               [&](grpc::ClientContext* context) {
                 return stub_->ReportStep(context, request, &response);
               });
  }

  std::string run_id() const override { return run_id_; }

  void Cancel() override {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    if (under_way_ != nullptr) under_way_->TryCancel();
  }

 private:
  absl::Status Run(absl::string_view why, absl::Duration timeout,
                   const std::function<grpc::Status(grpc::ClientContext*)>& call) {
    grpc::ClientContext context;
    {
      absl::MutexLock lock(&mutex_);
      if (cancelled_) return absl::CancelledError("the learner is stopping");
      under_way_ = &context;
    }
    absl::Status status =
        Call(&context, timeout, absl::StrCat("coordinator ", options_.coordinator, " ", why), call);
    absl::MutexLock lock(&mutex_);
    under_way_ = nullptr;
    return status;
  }

  const CoordinatorLinkOptions options_;
  std::string run_id_;  // of the thread that calls
  const std::unique_ptr<v1::CoordinatorService::Stub> stub_;
  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* under_way_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CoordinatorLink>> MakeCoordinatorLink(
    const CoordinatorLinkOptions& options) {
  ASSIGN_OR_RETURN(
      const std::shared_ptr<grpc::Channel> channel,
      MakeChannel(options.coordinator, "coordinator", options.transport, {Role::kCoordinator}));
  return std::unique_ptr<CoordinatorLink>(new GrpcCoordinatorLink(options, channel));
}

}  // namespace crescendo
