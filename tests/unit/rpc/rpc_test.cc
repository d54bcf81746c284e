// Servers and channels: bound ports, ports in use, plain text, who was awaited, bounds on messages.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <thread>

#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/rpc/address.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/server.h"
#include "crescendo/v1/coordinator.grpc.pb.h"

namespace crescendo {
namespace {

class FakeCoordinator : public v1::CoordinatorService::Service {
 public:
  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest*,
                         v1::RunStatus* status) override {
    status->set_run_id("run-1");
    while (hang && !context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::OK;
  }
  grpc::Status Leave(grpc::ServerContext*, const v1::LeaveRequest*, v1::LeaveResponse*) override {
    return ToGrpc(absl::NotFoundError("no worker 'x'"));
  }
  std::atomic<bool> hang = false;
};

std::string Message(const absl::Status& status) { return std::string(status.message()); }

struct Fixture {
  Fixture() {
    auto started = RpcServer::Start({.address = "127.0.0.1:0", .who = "coordinator"}, {&service});
    REQUIRE(started.ok());
    server = std::move(started).value();
    channel = *MakeChannel(server->address(), "coordinator", false);
    stub = v1::CoordinatorService::NewStub(channel);
  }
  absl::Status GetStatus(absl::Duration timeout) {
    return Call(timeout, "coordinator for the status", [&](grpc::ClientContext* context) {
      return stub->GetStatus(context, {}, &response);
    });
  }
  FakeCoordinator service;
  std::unique_ptr<RpcServer> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::CoordinatorService::Stub> stub;
  v1::RunStatus response;
};

TEST_CASE("what is told to others is an address that they can connect to") {
  CHECK(AdvertisedAddress("10.0.0.7:7071") == "10.0.0.7:7071");
  CHECK(AdvertisedAddress("learner:7071") == "learner:7071");
  for (const char* all : {"0.0.0.0:7073", "[::]:7073"}) {
    const std::string told = AdvertisedAddress(all);
    CHECK(told != all);
    CHECK(ParseAddress(told).value().port == 7073);
  }
}

TEST_CASE("a call reaches the server on the port that it was given") {
  Fixture f;
  CHECK(f.server->port() > 0);
  CHECK(f.server->address() == "127.0.0.1:" + std::to_string(f.server->port()));
  CHECK(AwaitConnected(*f.channel, "coordinator", f.server->address(), absl::Seconds(10)).ok());
  REQUIRE(f.GetStatus(absl::Seconds(10)).ok());
  CHECK(f.response.run_id() == "run-1");
}

TEST_CASE("a port in use is an error that names it and says what to do") {
  Fixture f;
  FakeCoordinator other;
  const auto second =
      RpcServer::Start({.address = f.server->address(), .who = "learner"}, {&other});
  REQUIRE_FALSE(second.ok());
  CHECK(second.status().code() == absl::StatusCode::kAlreadyExists);
  CHECK(Message(second.status()) ==
        "learner: cannot listen on " + f.server->address() +
            ": the port is in use by another process; stop that one or choose another port");
}

TEST_CASE("plain text off the loopback has to be asked for by name") {
  FakeCoordinator service;
  const auto open = RpcServer::Start({.address = "0.0.0.0:0", .who = "coordinator"}, {&service});
  CHECK(open.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(Message(open.status()).find("network.insecure=true") != std::string::npos);
  CHECK(MakeChannel("10.0.0.1:7070", "coordinator", false).status().code() ==
        absl::StatusCode::kFailedPrecondition);
  CHECK(MakeChannel("10.0.0.1:7070", "coordinator", true).ok());
  CHECK(RpcServer::Start({.address = "0.0.0.0:0", .who = "c", .transport = true}, {&service}).ok());
}

TEST_CASE("addresses are parsed, and the loopback is known in its forms") {
  CHECK(ParseAddress("[::1]:80")->host == "::1");
  CHECK(ParseAddress("host:0")->port == 0);
  for (const char* wrong :
       {"", "host", ":80", "host:", "host:x", "host:70000", "host:-1", "host:+1"}) {
    CHECK_FALSE(ParseAddress(wrong).ok());
  }
  CHECK(IsLoopback("127.1.2.3"));
  CHECK(IsLoopback("::1"));
  CHECK(IsLoopback("localhost"));
  CHECK_FALSE(IsLoopback("128.0.0.1"));
  CHECK_FALSE(IsLoopback("127.0.0.1.example.org"));
  CHECK(Message(CheckCanListen("8.8.8.8:0", "learner")).find("not an address of this machine") !=
        std::string::npos);
  const auto ports = FreeLoopbackPorts(4);
  REQUIRE(ports.ok());
  CHECK(ports->size() == 4);
}

TEST_CASE("a reserved port is given to nobody but who asks for it by number, again and again") {
  const auto reserved = ReserveLoopbackPorts(2);
  REQUIRE(reserved.ok());
  REQUIRE(reserved->ports.size() == 2);
  const std::string address = FormatAddress("127.0.0.1", reserved->ports[0]);
  for (int start = 0; start < 2; ++start) {
    const auto listening = ListenOn(address, "learner", 1);
    INFO(listening.status().ToString());
    REQUIRE(listening.ok());
    CHECK(CheckCanListen(address, "another").code() == absl::StatusCode::kAlreadyExists);
    v1::CoordinatorService::Service service;
    const auto server = RpcServer::Start(
        {.address = FormatAddress("127.0.0.1", reserved->ports[1]), .who = "coordinator"},
        {&service});
    INFO(server.status().ToString());
    CHECK(server.ok());
  }
}

TEST_CASE("a service that is not there is named with its address and the time tried") {
  const std::string address = FormatAddress("127.0.0.1", FreeLoopbackPorts(1)->front());
  auto channel = *MakeChannel(address, "reward service", false);
  const absl::Status status =
      AwaitConnected(*channel, "reward service", address, absl::Milliseconds(300));
  CHECK(status.code() == absl::StatusCode::kUnavailable);
  CHECK(Message(status) == "the reward service at " + address +
                               " could not be reached in 300ms: is it running, and is the address "
                               "right?");
  const absl::Status stopped =
      AwaitConnected(*channel, "reward service", address, absl::Seconds(60), [] { return true; });
  CHECK(stopped.code() == absl::StatusCode::kCancelled);
}

TEST_CASE("a deadline that passes names who was awaited and for what") {
  Fixture f;
  f.service.hang = true;
  const absl::Status status = f.GetStatus(absl::Milliseconds(100));
  CHECK(status.code() == absl::StatusCode::kDeadlineExceeded);
  CHECK(Message(status).find(" for coordinator for the status: no answer in that time") !=
        std::string::npos);
  f.service.hang = false;
}

TEST_CASE("an error keeps its code and its words on the way") {
  Fixture f;
  v1::LeaveResponse response;
  const absl::Status status =
      Call(absl::Seconds(10), "coordinator to leave",
           [&](grpc::ClientContext* context) { return f.stub->Leave(context, {}, &response); });
  CHECK(status.code() == absl::StatusCode::kNotFound);
  CHECK(Message(status).find("no worker 'x'") != std::string::npos);
}

TEST_CASE("a message above the bound is refused and the server lives on") {
  Fixture f;
  v1::AbandonRequest request;
  request.set_reason(std::string(limits::kMessageBytesMax, 'x'));
  v1::AbandonResponse response;
  const absl::Status status = Call(
      absl::Seconds(30), "coordinator",
      [&](grpc::ClientContext* context) { return f.stub->Abandon(context, request, &response); });
  CHECK(status.code() == absl::StatusCode::kResourceExhausted);
  CHECK(f.GetStatus(absl::Seconds(10)).ok());
}

TEST_CASE("a stopped server gives back its port and cancels what hangs") {
  Fixture f;
  f.service.hang = true;
  absl::Status status;
  std::thread caller([&] { status = f.GetStatus(absl::Seconds(60)); });
  // Stopping at once or a little later must both work; the call may not have arrived yet.
  f.server->Stop(absl::ZeroDuration());
  caller.join();
  CHECK_FALSE(status.ok());
  CHECK(CheckCanListen(f.server->address(), "coordinator").ok());
}

}  // namespace
}  // namespace crescendo
