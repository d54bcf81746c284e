// The coordinator over real gRPC on the loopback: long polls, cancelled calls, a journal that
// fails.
#include "services/coordinator/coordinator_service.h"

#include <grpcpp/generic/generic_stub.h>

#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/os/posix_env.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "tests/support/log_text.h"
#include "tests/unit/coordinator/coordinator_fixture.h"

namespace crescendo {
namespace {

// A served coordinator and a client of it.
struct Served {
  explicit Served(CoordinatorOptions options = SmallRun()) {
    auto made = CoordinatorState::Create(std::move(options), JournalImage(), clock->Now());
    REQUIRE(made.ok());
    auto owned = std::make_unique<MemoryJournal>();
    journal = owned.get();
    host = std::make_unique<CoordinatorHost>(std::move(made).value(), std::move(owned), nullptr,
                                             clock.get(), log.Make("coordinator", clock.get()));
    service = std::make_unique<CoordinatorServiceImpl>(host.get());
    auto started = RpcServer::Start({"127.0.0.1:0", "coordinator", false,
                                     [this](Refusal why) {
                                       absl::MutexLock lock(&mutex);
                                       refusals.push_back(why);
                                     }},
                                    {service.get()});
    REQUIRE(started.ok());
    server = std::move(started).value();
    auto channel = MakeChannel(server->address(), "coordinator", false);
    REQUIRE(channel.ok());
    stub = v1::CoordinatorService::NewStub(*channel);
  }
  ~Served() {
    host->Stop();
    server->Stop(absl::Seconds(1));
  }

  static void SetDeadline(grpc::ClientContext& context, absl::Duration timeout) {
    const gpr_timespec span =
        gpr_time_from_millis(absl::ToInt64Milliseconds(timeout), GPR_TIMESPAN);
    context.set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), span));
  }
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::CoordinatorService::Stub::*method)(grpc::ClientContext*,
                                                                         const Request&, Response*),
                    const Request& request, Response* response,
                    absl::Duration timeout = absl::Seconds(20)) {
    grpc::ClientContext context;
    SetDeadline(context, timeout);
    return (stub.get()->*method)(&context, request, response);
  }
  grpc::Status Join(const std::string& worker, uint32_t protocol = limits::kProtocolVersion) {
    v1::JoinRequest request;
    request.set_protocol_version(protocol);
    request.set_worker_id(worker);
    request.set_incarnation("i1");
    request.set_slots(16);
    v1::JoinResponse response;
    return Call(&v1::CoordinatorService::Stub::Join, request, &response);
  }
  grpc::Status Attach() {
    v1::AttachLearnerRequest request;
    request.set_protocol_version(limits::kProtocolVersion);
    request.set_address("learner:1");
    request.set_incarnation("L1");
    request.set_config_digest("digest");
    v1::AttachLearnerResponse response;
    return Call(&v1::CoordinatorService::Stub::AttachLearner, request, &response);
  }
  grpc::Status Lease(const std::string& worker, uint32_t wait_ms, v1::LeaseResponse* response,
                     absl::Duration timeout = absl::Seconds(20)) {
    v1::LeaseRequest request;
    request.set_worker_id(worker);
    request.set_incarnation("i1");
    request.set_groups_max(8);
    request.set_max_wait_ms(wait_ms);
    return Call(&v1::CoordinatorService::Stub::Lease, request, response, timeout);
  }
  v1::RunStatus Status() {
    v1::RunStatus status;
    REQUIRE(Call(&v1::CoordinatorService::Stub::GetStatus, v1::GetStatusRequest(), &status).ok());
    return status;
  }

  std::unique_ptr<Clock> clock = MakeRealClock();
  LogText log;
  MemoryJournal* journal = nullptr;
  std::unique_ptr<CoordinatorHost> host;
  std::unique_ptr<CoordinatorServiceImpl> service;
  std::unique_ptr<RpcServer> server;
  std::unique_ptr<v1::CoordinatorService::Stub> stub;
  absl::Mutex mutex;
  std::vector<Refusal> refusals ABSL_GUARDED_BY(mutex);
};

TEST_CASE("a step over the wire") {
  Served run;
  REQUIRE(run.Join("w").ok());
  REQUIRE(run.Attach().ok());
  v1::LeaseResponse leases;
  REQUIRE(run.Lease("w", 0, &leases).ok());
  CHECK(absl::StrContains(run.log.LineWith("worker w joined"), " worker=w "));
  CHECK(absl::StrContains(run.log.LineWith("attached at step 0"), " step=0 "));
  REQUIRE(leases.groups_size() == 4);
  REQUIRE(leases.groups(0).problem_id().substr(0, 1) == "p");
  REQUIRE(leases.groups(0).reward().gold_size() == 1);
  REQUIRE(leases.groups(0).pinned_version() == -1);

  v1::NextStepRequest next;
  next.set_incarnation("L1");
  v1::NextStepResponse plan;
  REQUIRE(run.Call(&v1::CoordinatorService::Stub::NextStep, next, &plan).ok());
  REQUIRE(plan.directive() == v1::LEARNER_DIRECTIVE_TRAIN);
  REQUIRE(plan.plan().group_ids_size() == 4);

  for (const v1::LeasedGroup& lease : leases.groups()) {
    v1::CompleteGroupRequest complete;
    complete.set_worker_id("w");
    complete.set_lease_id(lease.lease_id());
    complete.set_group_id(lease.group_id());
    complete.set_purpose(lease.purpose());
    v1::CompleteGroupResponse completed;
    REQUIRE(run.Call(&v1::CoordinatorService::Stub::CompleteGroup, complete, &completed).ok());
    REQUIRE(completed.accepted());
  }
  v1::ReportStepRequest report;
  report.set_incarnation("L1");
  report.mutable_metrics()->set_pass_rate(0.25);
  v1::ReportStepResponse reported;
  REQUIRE(run.Call(&v1::CoordinatorService::Stub::ReportStep, report, &reported).ok());

  const v1::RunStatus status = run.Status();
  REQUIRE(status.step() == 1);
  REQUIRE(status.state() == "training");
  REQUIRE(status.last().pass_rate() == 0.25);
  REQUIRE(status.workers_size() == 1);
  v1::GetHistoryRequest history;
  history.set_max(10);
  v1::GetHistoryResponse rows;
  REQUIRE(run.Call(&v1::CoordinatorService::Stub::GetHistory, history, &rows).ok());
  REQUIRE(rows.steps_size() == 1);
  REQUIRE(rows.stages_size() == 1);

  v1::SetStageRequest stage;
  v1::SetStageResponse staged;
  REQUIRE(run.Call(&v1::CoordinatorService::Stub::SetStage, stage, &staged).error_code() ==
          grpc::StatusCode::INVALID_ARGUMENT);
  stage.set_action(v1::SetStageRequest::ACTION_HOLD);
  REQUIRE(run.Call(&v1::CoordinatorService::Stub::SetStage, stage, &staged).ok());
  REQUIRE(run.Status().held());
}

TEST_CASE("a lease waits for work without work, and gets it when there is some") {
  Served run;
  REQUIRE(run.Join("w").ok());
  v1::LeaseResponse leases;
  auto waiting = std::async(std::launch::async, [&] { return run.Lease("w", 10'000, &leases); });
  REQUIRE(run.Attach().ok());  // before or after the call arrives: both must work
  REQUIRE(waiting.get().ok());
  REQUIRE(leases.groups_size() == 4);
}

TEST_CASE("a lease answers with nothing when its wait is over") {
  Served run;
  REQUIRE(run.Join("w").ok());
  v1::LeaseResponse leases;
  REQUIRE(run.Lease("w", 30, &leases).ok());
  REQUIRE(leases.groups_size() == 0);
}

TEST_CASE("groups are not granted to a call that nobody waits for") {
  Served run;
  REQUIRE(run.Join("w").ok());
  v1::LeaseResponse leases;
  REQUIRE(run.Lease("w", 10'000, &leases, absl::Milliseconds(100)).error_code() ==
          grpc::StatusCode::DEADLINE_EXCEEDED);
  // The server hears of it a moment later.
  v1::LeaseResponse second;
  REQUIRE(run.Lease("w", 300, &second).ok());
  REQUIRE(run.Attach().ok());
  REQUIRE(run.Status().groups_leased() == 0);
  REQUIRE(run.Status().groups_pending() == 4);
}

TEST_CASE("another protocol version is refused, naming both") {
  Served run;
  const grpc::Status status = run.Join("w", 77);
  REQUIRE(status.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  REQUIRE(absl::StrContains(status.error_message(), "77"));
  v1::LeaseResponse leases;
  REQUIRE(run.Lease("w", 0, &leases).error_code() == grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_CASE("a message that is too large, or none, is refused before it is one, and counted") {
  Served run;
  const auto send = [&](const std::string& bytes) {
    grpc::GenericStub stub(
        grpc::CreateChannel(run.server->address(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    Served::SetDeadline(context, absl::Seconds(20));
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::CompletionQueue queue;
    grpc::Status status;
    auto call =
        stub.PrepareUnaryCall(&context, "/crescendo.v1.CoordinatorService/Join", request, &queue);
    call->StartCall();
    call->Finish(&response, &status, &queue);
    void* tag = nullptr;
    bool ok = false;
    REQUIRE(queue.Next(&tag, &ok));
    return status;
  };
  const grpc::Status large = send(std::string(limits::kMessageBytesMax + 1, 'x'));
  CHECK(large.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(large.error_message() == "message: expected at most 20971520 bytes, found 20971521");
  CHECK(send("\xff\xff\xff").error_code() == grpc::StatusCode::INTERNAL);
  CHECK(run.Join("w").ok());
  absl::MutexLock lock(&run.mutex);
  CHECK(run.refusals == std::vector<Refusal>{Refusal::kOversized, Refusal::kMalformed});
}

TEST_CASE("stopping answers who waits, and closes the journal with all that was answered") {
  Served run;
  REQUIRE(run.Join("w").ok());
  v1::LeaseResponse leases;
  auto waiting = std::async(std::launch::async, [&] { return run.Lease("w", 10'000, &leases); });
  run.host->Stop();
  REQUIRE(waiting.get().error_code() == grpc::StatusCode::UNAVAILABLE);
  REQUIRE(run.Join("w").error_code() == grpc::StatusCode::UNAVAILABLE);
  REQUIRE(run.host->failure().ok());
}

TEST_CASE("a journal that fails ends the run: nothing that is not durable is answered") {
  Served run;
  REQUIRE(run.Join("w").ok());
  run.journal->FailNext(absl::ResourceExhaustedError("journal: disk full"));
  const grpc::Status status = run.Attach();
  REQUIRE(status.error_code() == grpc::StatusCode::UNAVAILABLE);
  REQUIRE(absl::StrContains(status.error_message(), "disk full"));
  REQUIRE(run.host->failure().code() == absl::StatusCode::kResourceExhausted);
  REQUIRE(run.Join("w").error_code() == grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace crescendo
