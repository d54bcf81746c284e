#include "services/coordinator/coordinator_service.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/convert/convert.h"
#include "common/rpc/rpc_status.h"
#include "services/coordinator/view_to_proto.h"

namespace crescendo {

namespace {

constexpr uint32_t kWaitMsMax = 10'000;
constexpr uint32_t kHistoryMax = 10'000;

// One call of gRPC: alive until gRPC is done with it, which is after Finish. The flag is shared
// with the host's call, which may look at it once more after that.
class CallReactor : public grpc::ServerUnaryReactor {
 public:
  const std::shared_ptr<std::atomic<bool>>& cancelled() const { return cancelled_; }
  void OnCancel() override { *cancelled_ = true; }
  void OnDone() override { delete this; }

 private:
  std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
};

absl::Status CheckProtocol(uint32_t version, absl::string_view who) {
  if (version == limits::kProtocolVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("protocol version: the ", who, " speaks ", version, ", the coordinator ",
                   limits::kProtocolVersion, ": start both from the same build"));
}

// What a sample of the group is shown with; nullopt when the group is not known.
std::optional<ShownSample> DescribeGroup(const CoordinatorState& state,
                                         const GroupCompletion& completion, absl::Time now) {
  const std::optional<GroupDescription> group = state.Describe(completion.group);
  if (!group) return std::nullopt;
  ShownSample sample;
  sample.at = now;
  sample.purpose = completion.purpose;
  sample.step = group->step;
  sample.group = completion.group;
  sample.problem_id = group->problem->id;
  sample.problem = group->problem->text;
  sample.gold = group->problem->reward.gold;
  sample.worker = completion.worker_id;
  sample.version_min = completion.version_min.value();
  sample.version_max = completion.version_max.value();
  return sample;
}

// An unsigned field of the wire as an int; what does not fit is out of every bound.
int ToInt(uint32_t value) {
  return static_cast<int>(std::min<uint32_t>(value, std::numeric_limits<int>::max()));
}

}  // namespace

grpc::ServerUnaryReactor* CoordinatorServiceImpl::Submit(Attempt attempt,
                                                         CoordinatorHost::Wait wait,
                                                         uint32_t max_wait_ms) {
  auto* reactor = new CallReactor;  // gRPC owns it: OnDone
  CoordinatorHost::Call call;
  call.attempt = std::move(attempt);
  call.done = [reactor](const absl::Status& status) { reactor->Finish(ToGrpc(status)); };
  call.cancelled = [flag = reactor->cancelled()] { return flag->load(); };
  call.wait = wait;
  call.wait_max = absl::Milliseconds(std::min(max_wait_ms, kWaitMsMax));
  host_.Submit(std::move(call));
  return reactor;
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::Submit(Answer answer) {
  return Submit([answer = std::move(answer)](CoordinatorState& state, absl::Time now, bool)
                    -> std::optional<absl::Status> { return answer(state, now); },
                CoordinatorHost::Wait::kNothing, 0);
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::Join(Context*, const v1::JoinRequest* request,
                                                       v1::JoinResponse* response) {
  return Submit([=](CoordinatorState& state, absl::Time now) -> absl::Status {
    RETURN_IF_ERROR(CheckProtocol(request->protocol_version(), "worker"));
    JoinEvent event;
    event.worker_id = request->worker_id();
    event.address = request->address();
    event.incarnation = request->incarnation();
    event.slots = ToInt(request->slots());
    ASSIGN_OR_RETURN(event.resources, FromProto(request->resources()));
    ASSIGN_OR_RETURN(const JoinReply reply, state.Join(event, now));
    response->set_run_id(state.run_id());
    response->set_run_seed(state.seed());
    response->set_heartbeat_interval_ms(absl::ToInt64Milliseconds(reply.heartbeat));
    response->set_lease_ms(absl::ToInt64Milliseconds(reply.lease));
    response->set_policy_version(reply.policy_version);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::Lease(Context*, const v1::LeaseRequest* request,
                                                        v1::LeaseResponse* response) {
  return Submit(
      [=, this](CoordinatorState& state, absl::Time now, bool last) -> std::optional<absl::Status> {
        auto leases = state.Lease(request->worker_id(), request->incarnation(),
                                  ToInt(request->groups_max()), now);
        if (!leases.ok()) return leases.status();
        if (leases->empty() && !last && !state.finished()) return std::nullopt;
        for (const GroupLease& lease : *leases) {
          *response->add_groups() = ToProto(lease);
          Note({.kind = LifeEvent::kLeased,
                .group = lease.group.value(),
                .worker = request->worker_id()});
        }
        return absl::OkStatus();
      },
      CoordinatorHost::Wait::kWork, request->max_wait_ms());
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::Heartbeat(Context*,
                                                            const v1::HeartbeatRequest* request,
                                                            v1::HeartbeatResponse* response) {
  return Submit([=](CoordinatorState& state, absl::Time now) -> absl::Status {
    HeartbeatEvent event;
    event.worker_id = request->worker_id();
    event.incarnation = request->incarnation();
    event.leases.reserve(request->leases_size());
    for (const v1::LeaseProgress& lease : request->leases()) {
      event.leases.push_back(
          {LeaseId(lease.lease_id()), lease.tokens(), ToInt(lease.unfinished_samples())});
    }
    event.policy_version = request->policy_version();
    event.tokens_per_second = request->tokens_per_second();
    event.generated_tokens = request->generated_tokens();
    ASSIGN_OR_RETURN(const HeartbeatReply reply, state.Heartbeat(event, now));
    response->set_policy_version(reply.policy_version);
    for (const std::string& source : reply.weight_sources) response->add_weight_sources(source);
    response->set_learner_address(reply.learner_address);
    response->set_learner_incarnation(reply.learner_incarnation);
    for (const LeaseId lease : reply.revoked) response->add_revoked_lease_ids(lease.value());
    response->set_finished(reply.finished);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::CompleteGroup(
    Context*, const v1::CompleteGroupRequest* request, v1::CompleteGroupResponse* response) {
  return Submit([=, this](CoordinatorState& state, absl::Time now) -> absl::Status {
    ASSIGN_OR_RETURN(const GroupCompletion completion, FromProto(*request));
    // An evaluation's group is gone once it is complete.
    std::optional<ShownSample> shown;
    if (samples_ != nullptr) shown = DescribeGroup(state, completion, now);
    ASSIGN_OR_RETURN(const bool accepted, state.CompleteGroup(completion, now));
    if (accepted) Note({.kind = LifeEvent::kCompleted, .group = completion.group.value()});
    if (accepted && shown) samples_->Add(*shown, completion.results);
    response->set_accepted(accepted);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::Abandon(Context*,
                                                          const v1::AbandonRequest* request,
                                                          v1::AbandonResponse*) {
  return Submit([=](CoordinatorState& state, absl::Time now) -> absl::Status {
    std::vector<LeaseId> leases;
    for (const uint64_t id : request->lease_ids()) leases.emplace_back(id);
    return state.Abandon(request->worker_id(), leases, request->reason(), now);
  });
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::Leave(Context*, const v1::LeaveRequest* request,
                                                        v1::LeaveResponse*) {
  return Submit([=](CoordinatorState& state, absl::Time now) -> absl::Status {
    return state.Leave(request->worker_id(), request->incarnation(), request->reason(), now);
  });
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::AttachLearner(
    Context*, const v1::AttachLearnerRequest* request, v1::AttachLearnerResponse* response) {
  return Submit([=](CoordinatorState& state, absl::Time now) -> absl::Status {
    RETURN_IF_ERROR(CheckProtocol(request->protocol_version(), "learner"));
    ASSIGN_OR_RETURN(const Resources resources, FromProto(request->resources()));
    ASSIGN_OR_RETURN(const int64_t rolled_back,
                     state.AttachLearner({request->address(), request->incarnation(),
                                          request->step(), request->config_digest(), resources},
                                         now));
    response->set_run_id(state.run_id());
    response->set_run_seed(state.seed());
    response->set_steps_rolled_back(rolled_back);
    response->set_lease_secret_low(state.lease_secret().low);
    response->set_lease_secret_high(state.lease_secret().high);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::NextStep(Context*,
                                                           const v1::NextStepRequest* request,
                                                           v1::NextStepResponse* response) {
  return Submit(
      [=](CoordinatorState& state, absl::Time now, bool last) -> std::optional<absl::Status> {
        auto reply = state.NextStep(StepId(request->step()), request->incarnation(), now);
        if (!reply.ok()) return reply.status();
        if (reply->directive == LearnerDirective::kWait && !last) return std::nullopt;
        response->set_directive(ToProto(reply->directive));
        if (reply->directive == LearnerDirective::kTrain) {
          *response->mutable_plan() = ToProto(reply->plan);
        }
        return absl::OkStatus();
      },
      CoordinatorHost::Wait::kEvent, request->max_wait_ms());
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::ReportStep(Context*,
                                                             const v1::ReportStepRequest* request,
                                                             v1::ReportStepResponse*) {
  return Submit([=, this](CoordinatorState& state, absl::Time now) -> absl::Status {
    ReportStepEvent event;
    event.step = StepId(request->step());
    event.incarnation = request->incarnation();
    event.metrics = FromProto(request->metrics());
    event.groups.reserve(request->groups_size());
    for (const v1::GroupOutcome& group : request->groups()) {
      ASSIGN_OR_RETURN(const GroupOutcome outcome, FromProto(group));
      event.groups.push_back(outcome);
    }
    RETURN_IF_ERROR(state.ReportStep(event, now));
    for (const GroupOutcome& outcome : event.groups) {
      Note({.kind = LifeEvent::kTrained, .group = outcome.group.value(), .step = request->step()});
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::GetStatus(Context*, const v1::GetStatusRequest*,
                                                            v1::RunStatus* response) {
  return Submit([=, this](CoordinatorState& state, absl::Time now) -> absl::Status {
    *response = ToProto(state.View(now));
    response->set_page(page_);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::GetHistory(Context*,
                                                             const v1::GetHistoryRequest* request,
                                                             v1::GetHistoryResponse* response) {
  return Submit([=](CoordinatorState& state, absl::Time) -> absl::Status {
    *response = ToProto(state.History(request->from_step(), std::min(request->max(), kHistoryMax)));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CoordinatorServiceImpl::SetStage(Context*,
                                                           const v1::SetStageRequest* request,
                                                           v1::SetStageResponse*) {
  return Submit([=](CoordinatorState& state, absl::Time now) -> absl::Status {
    const auto set = [&](StageAction action) {
      return state.SetStage(action, ToInt(request->stage()), now);
    };
    switch (request->action()) {
      case v1::SetStageRequest::ACTION_HOLD:
        return set(StageAction::kHold);
      case v1::SetStageRequest::ACTION_RELEASE:
        return set(StageAction::kRelease);
      case v1::SetStageRequest::ACTION_ADVANCE:
        return set(StageAction::kAdvance);
      case v1::SetStageRequest::ACTION_GO_TO:
        return set(StageAction::kGoTo);
      default:
        return absl::InvalidArgumentError(
            absl::StrCat("SetStage: action: expected hold, release, advance or go to, found ",
                         static_cast<int>(request->action())));
    }
  });
}

}  // namespace crescendo
