// The service over a real channel: order, back-pressure, draining, bad requests.
#include "services/reward/reward_service.h"

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/os/posix_env.h"
#include "tests/support/log_text.h"

namespace crescendo {
namespace {

// A server on a free port with one stream open to it.
class Fixture {
 public:
  explicit Fixture(int threads = 2)
      : clock_(MakeRealClock()),
        metrics_(registry_),
        pool_(threads, {}),
        trace_(clock_.get(), registry_, "reward", {}),
        service_(&pool_, &metrics_, clock_.get(), {nullptr, nullptr, nullptr, &trace_},
                 log_.Make("reward", clock_.get())) {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(-1);  // as RpcServer
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = v1::RewardService::NewStub(grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                                                           grpc::InsecureChannelCredentials()));
    context_.set_deadline(absl::ToChronoTime(clock_->Now() + absl::Seconds(60)));
    stream_ = stub_->Grade(&context_);
  }
  ~Fixture() {
    context_.TryCancel();
    server_->Shutdown(absl::ToChronoTime(clock_->Now() + absl::Seconds(5)));
  }

  static v1::GradeRequest Request(uint64_t id, const std::string& gold,
                                  const std::string& response) {
    v1::GradeRequest request;
    request.set_id(id);
    request.mutable_reward()->set_kind("math");
    request.mutable_reward()->add_gold(gold);
    request.set_response(response);
    return request;
  }

  v1::GradeResponse Ask(const v1::GradeRequest& request) {
    v1::GradeResponse response;
    REQUIRE(stream_->Write(request));
    REQUIRE(stream_->Read(&response));
    return response;
  }

  prometheus::Registry registry_;
  std::unique_ptr<Clock> clock_;
  RewardMetrics metrics_;
  GradingPool pool_;
  LifeTrace trace_;
  LogText log_;
  RewardServiceImpl service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::RewardService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::GradeRequest, v1::GradeResponse>> stream_;
};

TEST_CASE("A verdict carries its id, reward, reason and answer") {
  Fixture fixture;
  const v1::GradeResponse right = fixture.Ask(Fixture::Request(7, "99", "x \\boxed{99}"));
  CHECK(right.id() == 7);
  CHECK(right.verdict() == v1::VERDICT_CORRECT);
  CHECK(right.reward() == 1);
  CHECK(right.reason() == "byte_match");
  CHECK(right.extracted() == "99");
  CHECK(fixture.Ask(Fixture::Request(8, "99", "\\boxed{98}")).verdict() == v1::VERDICT_INCORRECT);
}

TEST_CASE("An answer of a run is traced, and lines about it say of which run, worker and group") {
  Fixture fixture;
  v1::GradeRequest request = Fixture::Request(7, "99", "x \\boxed{99}");
  CHECK(fixture.Ask(request).verdict() == v1::VERDICT_CORRECT);
  CHECK(fixture.trace_.Moments().empty());  // it is of no run
  request.mutable_origin()->set_run_id("demo-1");
  request.mutable_origin()->set_worker_id("rollout-3");
  request.mutable_origin()->set_group_id(41);
  request.mutable_origin()->set_sample(2);
  CHECK(fixture.Ask(request).verdict() == v1::VERDICT_CORRECT);
  const std::vector<LifeMoment> moments = fixture.trace_.Moments();
  REQUIRE(moments.size() == 3);
  const LifeEvent order[] = {LifeEvent::kArrived, LifeEvent::kGradeBegin, LifeEvent::kGradeEnd};
  for (size_t i = 0; i < 3; ++i) {
    CHECK(moments[i].kind == order[i]);
    CHECK(moments[i].group == 41);
    CHECK(moments[i].sample == 2);
  }
  CHECK(absl::StrContains(fixture.log_.LineWith("answers come"), " worker=rollout-3 run=demo-1 "));
  request.set_response(std::string(limits::kResponseTextBytesMax + 1, 'x'));
  CHECK(fixture.Ask(request).reason() == "request_invalid");
  const std::string refused = fixture.log_.LineWith("answer refused");
  CHECK(absl::StrContains(refused, " worker=rollout-3 run=demo-1 "));
  CHECK(absl::StrContains(refused, " group=41 sample=2 "));
}

TEST_CASE("Many answers in flight each get one verdict, then the stream ends well") {
  Fixture fixture;
  constexpr int kAnswers = 20000;  // above kGradesInFlightMax: reads pause and go on
  std::thread writer([&] {
    for (int i = 0; i < kAnswers; ++i) {
      fixture.stream_->Write(
          Fixture::Request(i, std::to_string(i), "\\boxed{" + std::to_string(i - i % 2) + "}"));
    }
    fixture.stream_->WritesDone();
  });
  std::map<uint64_t, v1::Verdict> verdicts;
  v1::GradeResponse response;
  while (fixture.stream_->Read(&response))
    CHECK(verdicts.emplace(response.id(), response.verdict()).second);
  writer.join();
  CHECK(fixture.stream_->Finish().ok());
  REQUIRE(verdicts.size() == kAnswers);
  for (const auto& [id, verdict] : verdicts) {
    CHECK(verdict == (id % 2 == 0 ? v1::VERDICT_CORRECT : v1::VERDICT_INCORRECT));
  }
}

// gRPC kept the verdicts of one such stream in some hundred until the next ping.
TEST_CASE("The first answers of a stream, all at once, are answered at once") {
  Fixture fixture(1);
  constexpr int kStreams = 1000;
  constexpr int kAnswers = 32;
  for (int i = 0; i < kStreams; ++i) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(fixture.clock_->Now() + absl::Seconds(5)));
    const auto stream = fixture.stub_->Grade(&context);
    std::thread writer([&] {
      for (int j = 0; j < kAnswers; ++j) stream->Write(Fixture::Request(j, "1", "\\boxed{1}"));
    });
    int got = 0;
    v1::GradeResponse response;
    while (got < kAnswers && stream->Read(&response)) ++got;
    writer.join();
    REQUIRE(got == kAnswers);
    context.TryCancel();
    stream->Finish();
  }
}

TEST_CASE("What is beyond a bound or not UTF-8 is answered, not fatal") {
  Fixture fixture;
  const std::string huge(limits::kResponseTextBytesMax + 1, 'x');
  CHECK(fixture.Ask(Fixture::Request(1, "1", huge)).reason() == "request_invalid");
  const v1::GradeResponse invalid =
      fixture.Ask(Fixture::Request(2, "1", "\\boxed{\xff\xc3\x28 1}"));
  CHECK(invalid.verdict() != v1::VERDICT_CORRECT);
  CHECK(invalid.extracted() == std::string("?") + "?( 1");
  CHECK(fixture.Ask(Fixture::Request(3, "1", "\\boxed{1}")).verdict() == v1::VERDICT_CORRECT);
}

TEST_CASE("A message that is too large ends its stream, after the verdicts of what came before") {
  Fixture fixture;
  REQUIRE(fixture.stream_->Write(Fixture::Request(1, "1", "\\boxed{1}")));
  fixture.stream_->Write(Fixture::Request(2, "1", std::string(limits::kMessageBytesMax, 'x')));
  v1::GradeResponse response;
  REQUIRE(fixture.stream_->Read(&response));
  CHECK(response.id() == 1);
  CHECK_FALSE(fixture.stream_->Read(&response));
  const grpc::Status status = fixture.stream_->Finish();
  CHECK(status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(
      absl::StartsWith(status.error_message(), "message: expected at most 20971520 bytes, found"));
}

TEST_CASE("Draining answers what was read and ends the stream with UNAVAILABLE") {
  Fixture fixture;
  CHECK(fixture.Ask(Fixture::Request(1, "1", "\\boxed{1}")).id() == 1);
  fixture.service_.Drain();
  v1::GradeResponse response;
  while (fixture.stream_->Read(&response)) {
  }
  CHECK(fixture.stream_->Finish().error_code() == grpc::StatusCode::UNAVAILABLE);
}

// Another server for a kind: the same service class, which grades that kind as mathematics.
class Elsewhere {
 public:
  explicit Elsewhere(int port = 0)
      : clock_(MakeRealClock()), metrics_(registry_), pool_(1, {}), kinds_(MakeKinds()) {
    service_ = std::make_unique<RewardServiceImpl>(
        &pool_, &metrics_, clock_.get(), RewardServiceParts{kinds_.get(), nullptr, nullptr});
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
  }
  ~Elsewhere() { server_->Shutdown(absl::ToChronoTime(clock_->Now())); }
  int port() const { return port_; }

 private:
  static std::unique_ptr<RewardKinds> MakeKinds() {
    RewardKind kind;
    kind.name = "elsewhere";
    return std::move(RewardKinds::Make({kind})).value();
  }
  prometheus::Registry registry_;
  std::unique_ptr<Clock> clock_;
  RewardMetrics metrics_;
  GradingPool pool_;
  std::unique_ptr<RewardKinds> kinds_;
  std::unique_ptr<RewardServiceImpl> service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

TEST_CASE(
    "A kind of another server is asked there, again when it comes back, and is unavailable when it "
    "does not") {
  auto elsewhere = std::make_unique<Elsewhere>();
  const int port = elsewhere->port();
  RewardKind kind;
  kind.name = "elsewhere";
  kind.type = RewardType::kExternal;
  kind.address = "127.0.0.1:" + std::to_string(port);
  kind.timeout = absl::Seconds(20);
  const auto clock = MakeRealClock();
  const auto ask = [&](ExternalReward& external, const std::string& response) {
    absl::Notification done;
    v1::GradeResponse verdict;
    v1::GradeRequest request = Fixture::Request(99, "1/2", response);
    request.mutable_reward()->set_kind("elsewhere");
    external.Submit(request, [&](v1::GradeResponse answer) {
      verdict = std::move(answer);
      done.Notify();
    });
    done.WaitForNotification();
    return verdict;
  };
  auto external = ExternalReward::Make(kind, clock.get());
  REQUIRE(external.ok());
  const v1::GradeResponse first = ask(**external, "\\boxed{0.5}");
  CHECK(first.id() == 99);
  CHECK(first.verdict() == v1::VERDICT_CORRECT);
  elsewhere.reset();
  elsewhere = std::make_unique<Elsewhere>(port);
  CHECK(ask(**external, "\\boxed{0.6}").verdict() == v1::VERDICT_INCORRECT);
  elsewhere.reset();
  kind.timeout = absl::Milliseconds(200);
  auto hasty = ExternalReward::Make(kind, clock.get());
  REQUIRE(hasty.ok());
  CHECK(ask(**hasty, "\\boxed{0.5}").reason() == "unavailable");
}

TEST_CASE("A client that goes away leaves nothing behind") {
  Fixture fixture;
  for (int i = 0; i < 100; ++i) fixture.stream_->Write(Fixture::Request(i, "1", "\\boxed{1}"));
  fixture.context_.TryCancel();
  CHECK_FALSE(fixture.stream_->Finish().ok());
}

}  // namespace
}  // namespace crescendo
