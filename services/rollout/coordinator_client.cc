#include "services/rollout/coordinator_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/shorten.h"
#include "common/base/status_macros.h"
#include "common/convert/convert.h"
#include "common/rpc/deadline.h"

namespace crescendo {
namespace {

constexpr absl::Duration kLeaseWait = absl::Seconds(5);  // of the long poll
constexpr absl::Duration kIdleWait = absl::Seconds(1);   // of a thread on its queue
constexpr int kReportTries = 100000;  // a completion is retried until it is answered or void

}  // namespace

CoordinatorClient::CoordinatorClient(const WorkerContext& context,
                                     std::shared_ptr<grpc::Channel> channel,
                                     const PromptCodec* codec, Hooks hooks)
    : context_(context),
      codec_(codec),
      hooks_(std::move(hooks)),
      stub_(v1::CoordinatorService::NewStub(channel)),
      watch_(absl::StrCat("coordinator ", context.peers.coordinator), context.clock, context.log,
             &context.metrics->coordinator_failures_total),
      asks_(16),
      reports_(4096),
      kicks_(1) {}

CoordinatorClient::~CoordinatorClient() { Stop(); }

absl::Status CoordinatorClient::Join() {
  v1::JoinRequest request;
  request.set_protocol_version(limits::kProtocolVersion);
  request.set_worker_id(context_.identity.worker_id);
  request.set_address(context_.identity.address);
  request.set_incarnation(context_.identity.incarnation);
  request.set_slots(static_cast<uint32_t>(context_.identity.slots));
  *request.mutable_resources() = ToProto(context_.identity.resources);
  v1::JoinResponse response;
  RETURN_IF_ERROR(
      Call(context_.peers.rpc_timeout, absl::StrCat(watch_.who(), " to join"),
           [&](grpc::ClientContext* call) { return stub_->Join(call, request, &response); }));
  context_.log.SetRun(response.run_id());
  context_.log.Info("joined", {{"version", response.policy_version()}});
  return absl::OkStatus();
}

void CoordinatorClient::Start() {
  threads_.emplace_back([this] { LeaseLoop(); });
  threads_.emplace_back([this] { HeartbeatLoop(); });
  threads_.emplace_back([this] { ReportLoop(); });
}

void CoordinatorClient::Stop() {
  asks_.Close();
  reports_.Close();
  kicks_.Close();
  StopLeasing();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

bool CoordinatorClient::Ask(const AskLeases& ask) { return asks_.TryPush(AskLeases(ask)); }

bool CoordinatorClient::Report(std::variant<CompleteGroup, AbandonLease> report) {
  absl::MutexLock lock(&mutex_);
  if (!reports_.TryPush(std::move(report))) return false;
  ++reports_open_;
  return true;
}

void CoordinatorClient::Kick() { kicks_.TryPush(true); }

void CoordinatorClient::StopLeasing() {
  absl::MutexLock lock(&mutex_);
  leasing_ = false;
  if (lease_call_ != nullptr) lease_call_->TryCancel();
}

absl::Status CoordinatorClient::Run(absl::string_view what, absl::Duration extra,
                                    grpc::ClientContext* context,
                                    const std::function<grpc::Status(grpc::ClientContext*)>& call) {
  absl::Status status = Call(context, context_.peers.rpc_timeout + extra,
                             absl::StrCat(watch_.who(), " ", what), call);
  if (status.ok()) {
    watch_.Ok();
    return status;
  }
  if (status.code() == absl::StatusCode::kFailedPrecondition && !context_.stop->IsSet()) {
    context_.log.Info("the coordinator asks to join again", {{"status", status}});
    RETURN_IF_ERROR(Join());
  }
  return status;
}

// Leases
// ------------------------------------------------------------------------------------------------

void CoordinatorClient::LeaseLoop() {
  while (!context_.stop->IsSet()) {
    std::optional<AskLeases> ask = asks_.Pop(kIdleWait);
    if (!ask.has_value()) {
      if (asks_.closed()) return;
      continue;
    }
    std::vector<LeasedPrompt> leases = Lease(ask->groups_max);
    for (const LeasedPrompt& leased : leases) {
      context_.Note({.kind = LifeEvent::kLeased, .group = leased.lease.group.value()});
    }
    context_.post([leases = std::move(leases)](RolloutCore& core) mutable {
      core.OnLeases(std::move(leases));
    });
  }
}

std::vector<LeasedPrompt> CoordinatorClient::Lease(int groups_max) {
  v1::LeaseRequest request;
  request.set_worker_id(context_.identity.worker_id);
  request.set_incarnation(context_.identity.incarnation);
  request.set_groups_max(static_cast<uint32_t>(groups_max));
  request.set_max_wait_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(kLeaseWait)));
  v1::LeaseResponse response;
  grpc::ClientContext call;
  {
    absl::MutexLock lock(&mutex_);
    if (!leasing_) return {};
    lease_call_ = &call;
  }
  const absl::Status status =
      Run("for leases", kLeaseWait, &call,
          [&](grpc::ClientContext* context) { return stub_->Lease(context, request, &response); });
  {
    absl::MutexLock lock(&mutex_);
    lease_call_ = nullptr;
    if (!leasing_) return {};
  }
  if (!status.ok()) {
    context_.stop->WaitFor(watch_.Failed("for leases", status));
    return {};
  }
  std::vector<LeasedPrompt> leases;
  for (const v1::LeasedGroup& leased : response.groups()) {
    absl::StatusOr<GroupLease> lease = FromProto(leased);
    absl::StatusOr<std::vector<int32_t>> prompt =
        lease.ok() ? codec_->EncodeProblem(lease->problem) : lease.status();
    if (!prompt.ok()) {
      AbandonNow(leased.lease_id(), prompt.status().ToString());
      continue;
    }
    leases.push_back(LeasedPrompt{*std::move(lease), *std::move(prompt)});
  }
  return leases;
}

void CoordinatorClient::AbandonNow(uint64_t lease, absl::string_view reason) {
  Report(AbandonLease{LeaseId(lease), GroupId(0), std::string(reason)});
}

// Heartbeats
// --------------------------------------------------------------------------------------------

void CoordinatorClient::HeartbeatLoop() {
  while (!context_.stop->IsSet()) {
    const absl::Status status = HeartbeatOnce();
    absl::Duration wait = context_.peers.heartbeat;
    if (!status.ok()) wait = std::min(wait, watch_.Failed("for a heartbeat", status));
    kicks_.Pop(wait);
    // A kick that comes while the peer is away must not spin.
    if (!status.ok()) context_.stop->WaitFor(absl::Milliseconds(20));
    if (kicks_.closed()) return;
  }
}

absl::Status CoordinatorClient::HeartbeatOnce() {
  const WorkerProgress progress = hooks_.progress();
  const absl::Time now = context_.clock->Now();
  v1::HeartbeatRequest request;
  request.set_worker_id(context_.identity.worker_id);
  request.set_incarnation(context_.identity.incarnation);
  for (const LeaseTokens& lease : progress.leases) {
    v1::LeaseProgress* out = request.add_leases();
    out->set_lease_id(lease.lease.value());
    out->set_tokens(lease.tokens);
    out->set_unfinished_samples(static_cast<uint32_t>(lease.unfinished));
  }
  request.set_policy_version(progress.loaded.value());
  request.set_generated_tokens(progress.generated_tokens);
  const double seconds = absl::ToDoubleSeconds(now - last_heartbeat_);
  if (seconds > 0 && last_heartbeat_ != absl::InfinitePast()) {
    request.set_tokens_per_second(static_cast<double>(progress.generated_tokens - last_generated_) /
                                  seconds);
  }
  v1::HeartbeatResponse response;
  grpc::ClientContext call;
  RETURN_IF_ERROR(Run(
      "for a heartbeat", absl::ZeroDuration(), &call,
      [&](grpc::ClientContext* context) { return stub_->Heartbeat(context, request, &response); }));
  last_heartbeat_ = now;
  last_generated_ = progress.generated_tokens;
  hooks_.on_heartbeat(response);
  if (response.finished()) hooks_.on_finished();
  const PolicyVersion version(response.policy_version());
  std::vector<LeaseId> revoked;
  for (const uint64_t lease : response.revoked_lease_ids()) revoked.push_back(LeaseId(lease));
  const std::string incarnation = response.learner_incarnation();
  context_.post([this, version, incarnation, revoked](RolloutCore& core) {
    for (const LeaseId lease : revoked) {
      if (core.OnRevoked(lease)) context_.metrics->groups_revoked_total.Increment();
    }
    if (!incarnation.empty()) core.OnPublished(version, incarnation);
  });
  return absl::OkStatus();
}

// Reports
// -----------------------------------------------------------------------------------------------

void CoordinatorClient::ReportLoop() {
  while (true) {
    std::optional<std::variant<CompleteGroup, AbandonLease>> report = reports_.Pop(kIdleWait);
    if (!report.has_value()) {
      if (reports_.closed()) return;
      continue;
    }
    for (int i = 0; i < kReportTries; ++i) {
      const absl::Status status = SendReport(*report);
      if (status.ok()) break;
      const absl::Duration wait = watch_.Failed("to report a group", status);
      // What is wrong with the report itself will not get right.
      if (status.code() == absl::StatusCode::kInvalidArgument || context_.stop->WaitFor(wait))
        break;
    }
    absl::MutexLock lock(&mutex_);
    --reports_open_;
  }
}

absl::Status CoordinatorClient::SendReport(
    const std::variant<CompleteGroup, AbandonLease>& report) {
  grpc::ClientContext call;
  if (const auto* abandon = std::get_if<AbandonLease>(&report)) {
    context_.log.Warn("group handed back", {{"group", abandon->group.value()},
                                            {"lease", abandon->lease.value()},
                                            {"reason", abandon->reason}});
    v1::AbandonRequest request;
    request.set_worker_id(context_.identity.worker_id);
    request.add_lease_ids(abandon->lease.value());
    request.set_reason(abandon->reason.substr(0, 1024));
    v1::AbandonResponse response;
    RETURN_IF_ERROR(Run(
        "to hand a group back", absl::ZeroDuration(), &call,
        [&](grpc::ClientContext* context) { return stub_->Abandon(context, request, &response); }));
    context_.metrics->groups_abandoned_total.Increment();
    return absl::OkStatus();
  }
  GroupCompletion completion = std::get<CompleteGroup>(report).completion;
  completion.worker_id = context_.identity.worker_id;
  for (const auto& [index, tokens] : std::get<CompleteGroup>(report).shown) {
    completion.results[index].response = ShortenMiddle(
        codec_->DecodeAnswer(tokens, limits::kResponseTextBytesMax), limits::kShownTextBytesMax);
  }
  v1::CompleteGroupResponse response;
  const v1::CompleteGroupRequest request = ToProto(completion);
  RETURN_IF_ERROR(
      Run("to complete a group", absl::ZeroDuration(), &call, [&](grpc::ClientContext* context) {
        return stub_->CompleteGroup(context, request, &response);
      }));
  context_.metrics->groups_completed_total.Increment();
  context_.post([lease = completion.lease](RolloutCore& core) { core.OnCompleted(lease); });
  return absl::OkStatus();
}

void CoordinatorClient::FlushReports(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return reports_open_ == 0; };
  mutex_.AwaitWithTimeout(absl::Condition(&done), timeout);
}

void CoordinatorClient::Leave(absl::string_view reason) {
  v1::LeaveRequest request;
  request.set_worker_id(context_.identity.worker_id);
  request.set_incarnation(context_.identity.incarnation);
  request.set_reason(std::string(reason));
  v1::LeaveResponse response;
  const absl::Status status =
      Call(std::min(context_.peers.rpc_timeout, absl::Seconds(2)),
           absl::StrCat(watch_.who(), " to leave"),
           [&](grpc::ClientContext* context) { return stub_->Leave(context, request, &response); });
  if (!status.ok()) context_.log.Warn("left without a goodbye", {{"status", status}});
}

}  // namespace crescendo
