// The learner as a service: real gRPC on a free port, real checkpoints, a scripted trainer and
// coordinator.
#include "services/learner/learner_host.h"

#include <grpcpp/grpcpp.h>
#include <prometheus/registry.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/base/crc32c.h"
#include "common/convert/convert.h"
#include "common/os/posix_env.h"
#include "common/rpc/server.h"
#include "services/learner/learner_service.h"
#include "tests/support/log_text.h"
#include "tests/support/scripted_trainer.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/learner/experience_builder.h"

namespace crescendo {
namespace {

constexpr int kSamples = 2;
constexpr uint64_t kGroupsPerStep = 2;

// Plans step k as groups 2k and 2k + 1, for `steps` steps. Thread-safe.
class ScriptedCoordinator : public CoordinatorLink {
 public:
  explicit ScriptedCoordinator(int64_t steps) : steps_(steps) {}

  std::string run_id() const override { return "demo-1"; }
  absl::StatusOr<AttachAnswer> Attach(int64_t steps_trained, const std::string&) override {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("cancelled");
    attached_at_ = steps_trained;
    return AttachAnswer{};
  }
  absl::StatusOr<NextStepAnswer> NextStep(StepId step, const std::string&,
                                          absl::Duration) override {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("cancelled");
    NextStepAnswer answer;
    answer.directive = LearnerDirective::kFinished;
    if (step.value() >= steps_) {
      ++finished_answers_;
      return answer;
    }
    answer.directive = LearnerDirective::kTrain;
    answer.plan.step = step;
    for (uint64_t i = 0; i < kGroupsPerStep; ++i) {
      answer.plan.groups.emplace_back(static_cast<uint64_t>(step.value()) * kGroupsPerStep + i);
    }
    answer.plan.group_samples = kSamples;
    answer.plan.context_tokens = 64;
    answer.plan.learning_rate = 0.5;
    return answer;
  }
  absl::Status Report(const StepReport& report, const std::string&) override {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("cancelled");
    reports_.push_back(report);
    return absl::OkStatus();
  }
  void Cancel() override {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
  }

  // False when step `step` was not reported within a minute.
  bool AwaitReport(int64_t step) {
    absl::MutexLock lock(&mutex_);
    const auto reported = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return !reports_.empty() && reports_.back().step.value() >= step;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&reported), absl::Minutes(1));
  }
  bool AwaitAttached(int64_t step) {
    absl::MutexLock lock(&mutex_);
    const auto attached = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return attached_at_ == step; };
    return mutex_.AwaitWithTimeout(absl::Condition(&attached), absl::Minutes(1));
  }
  // The learner was told twice that the run is over: it has done what comes after the first time.
  bool AwaitFinished() {
    absl::MutexLock lock(&mutex_);
    const auto finished = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return finished_answers_ >= 2; };
    return mutex_.AwaitWithTimeout(absl::Condition(&finished), absl::Minutes(1));
  }
  std::vector<StepReport> reports() {
    absl::MutexLock lock(&mutex_);
    return reports_;
  }

 private:
  const int64_t steps_;
  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  int finished_answers_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t attached_at_ ABSL_GUARDED_BY(mutex_) = -1;
  std::vector<StepReport> reports_ ABSL_GUARDED_BY(mutex_);
};

// One life of a learner process.
class Learner {
 public:
  Learner(TempDir& dir, int64_t steps, int64_t bytes_max = 1 << 20)
      : trainer_(kTestVocabulary),
        checkpoints_(dir.files.get(),
                     {.folder = dir / "checkpoints", .kept = 2, .run_name = "r", .run_seed = 1}),
        weights_(2, /*chunk_bytes=*/7),
        metrics_(registry_),
        coordinator_(steps) {
    LoadedCheckpoint loaded = checkpoints_.LoadNewest().value();
    LearnerRestore restore;
    if (loaded.checkpoint.has_value()) {
      CRESCENDO_CHECK(trainer_.ImportState(loaded.checkpoint->trainer).ok());
      restore.steps_trained = loaded.checkpoint->steps_trained;
      restore.ledger = loaded.checkpoint->ledger;
      restore.last_report = loaded.checkpoint->last_report;
    }
    LearnerHostOptions options;
    options.learner.experience.vocabulary_size = kTestVocabulary;
    options.learner.experience.bytes_max = bytes_max;
    options.learner.ask_again = absl::Milliseconds(5);
    options.incarnation = "life";
    options.policy_folder = dir / "policy";
    host_ = std::make_unique<LearnerHost>(
        options, LearnerHostDeps{&trainer_, &checkpoints_, &weights_, &metrics_, clock_.get()},
        log_.Make("learner", clock_.get()), restore);
    experience_service_ = std::make_unique<ExperienceServiceImpl>(host_.get());
    weights_service_ = std::make_unique<WeightsServiceImpl>(
        &weights_, [this] { return host_->incarnation(); }, &metrics_.weight_bytes_sent_total,
        &metrics_.weight_delta_bytes_sent_total);
    server_ = RpcServer::Start(
                  {.address = "127.0.0.1:0",
                   .who = "learner",
                   .on_refusal = [this](Refusal why) { oversized += why == Refusal::kOversized; }},
                  {experience_service_.get(), weights_service_.get()})
                  .value();
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    thread_ = std::thread([this] { status_ = host_->Run(&coordinator_); });
  }
  ~Learner() {
    if (thread_.joinable()) (void)Stop();
  }
  absl::Status Stop() {
    host_->RequestStop();
    thread_.join();
    server_->Stop(absl::Milliseconds(20));
    return status_;
  }

  const LogText& log() const { return log_; }
  ScriptedTrainer& trainer() { return trainer_; }
  ScriptedCoordinator& coordinator() { return coordinator_; }
  LearnerHost& host() { return *host_; }
  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  std::atomic<int> oversized = 0;

 private:
  LogText log_;
  ScriptedTrainer trainer_;
  CheckpointStore checkpoints_;
  WeightStore weights_;
  prometheus::Registry registry_;
  LearnerMetrics metrics_;
  ScriptedCoordinator coordinator_;
  std::unique_ptr<Clock> clock_ = MakeRealClock();
  std::unique_ptr<LearnerHost> host_;
  std::unique_ptr<ExperienceServiceImpl> experience_service_;
  std::unique_ptr<WeightsServiceImpl> weights_service_;
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  absl::Status status_;
  std::thread thread_;
};

// A stream of samples, one chunk and its ack at a time.
class Worker {
 public:
  explicit Worker(Learner& learner)
      : stub_(v1::ExperienceService::NewStub(learner.channel())),
        stream_(stub_->StreamSamples(&context_)) {}
  v1::ChunkAck Send(const v1::SampleChunk& chunk) {
    v1::ChunkAck ack;
    CRESCENDO_CHECK(stream_->Write(chunk) && stream_->Read(&ack));
    return ack;
  }
  // The groups of a step, each sample in two chunks; the acks must say so.
  void SendStep(int64_t step) {
    for (uint64_t i = 0; i < kGroupsPerStep; ++i) {
      const uint64_t group = static_cast<uint64_t>(step) * kGroupsPerStep + i;
      for (uint32_t sample = 0; sample < kSamples; ++sample) {
        SampleChunk head = TestChunk(group, sample, 0, 5, false, 1, step);
        if (sample == 0) head = WithHeader(head, TestHeader(kSamples));
        CHECK(Send(ToProto(head)).outcome() == v1::ChunkAck::OUTCOME_ACCEPTED);
        const v1::ChunkAck ack =
            Send(ToProto(TestChunk(group, sample, 5, 4 + sample, true, 1, step)));
        CHECK(ack.sample_closed());
        CHECK(ack.group_complete() == (sample + 1 == kSamples));
      }
    }
  }
  // How the stream ends on a chunk that has no ack.
  grpc::Status Refused(const v1::SampleChunk& chunk) {
    stream_->Write(chunk);
    v1::ChunkAck ack;
    CHECK_FALSE(stream_->Read(&ack));
    return stream_->Finish();
  }
  grpc::Status Finish() {
    stream_->WritesDone();
    return stream_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::ExperienceService::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SampleChunk, v1::ChunkAck>> stream_;
};

// The bytes of a version, every chunk verified.
std::string Pull(Learner& learner, int64_t version) {
  auto stub = v1::WeightsService::NewStub(learner.channel());
  v1::GetManifestRequest ask;
  ask.set_version(version);
  v1::WeightManifest manifest;
  grpc::ClientContext manifest_context;
  REQUIRE(stub->GetManifest(&manifest_context, ask, &manifest).ok());
  CHECK(manifest.version() == version);
  CHECK(manifest.learner_incarnation() == "life");
  v1::PullChunksRequest request;
  request.set_version(version);
  request.set_chunks(static_cast<uint32_t>(manifest.chunk_crc32c_size()));
  grpc::ClientContext context;
  auto reader = stub->PullChunks(&context, request);
  v1::WeightChunk chunk;
  std::string bytes;
  while (reader->Read(&chunk)) {
    CHECK(Crc32c(chunk.data()) == manifest.chunk_crc32c(static_cast<int>(chunk.index())));
    CHECK(chunk.crc32c() == Crc32c(chunk.data()));
    bytes += chunk.data();
  }
  CHECK(reader->Finish().ok());
  CHECK(bytes.size() == manifest.total_bytes());
  return bytes;
}

uint64_t UninterruptedWeight(int64_t steps) {
  TempDir dir;
  Learner learner(dir, steps);
  Worker worker(learner);
  for (int64_t step = 0; step < steps; ++step) {
    worker.SendStep(step);
    REQUIRE(learner.coordinator().AwaitReport(step));
  }
  CHECK(worker.Finish().ok());
  REQUIRE(learner.Stop().ok());
  return learner.trainer().weight();
}

TEST_CASE("A run over gRPC: chunks in, steps trained, versions out") {
  TempDir dir;
  Learner learner(dir, 3);
  Worker worker(learner);
  for (int64_t step = 0; step < 3; ++step) {
    worker.SendStep(step);
    REQUIRE(learner.coordinator().AwaitReport(step));
    CHECK(Pull(learner, step + 1).size() == 16);
  }
  CHECK(learner.trainer().updates() == 3);
  const std::vector<StepReport> reports = learner.coordinator().reports();
  REQUIRE(reports.size() == 3);
  CHECK(reports[2].metrics.pass_rate == 0.5);
  CHECK(reports[2].metrics.generated_tokens == 2 * (9 + 10));
  CHECK(reports[2].metrics.learning_rate == 0.5);
  REQUIRE(reports[2].groups.size() == 2);
  CHECK(reports[2].groups[1].group == GroupId(5));
  CHECK(worker.Finish().ok());
  REQUIRE(learner.coordinator().AwaitFinished());
  CHECK(learner.Stop().ok());
  const auto shown = [](const prometheus::Histogram& of) { return of.Collect().histogram; };
  const LearnerMetrics& metrics = learner.host().metrics();
  CHECK(shown(metrics.forward_seconds).sample_sum == 3 * 1);
  CHECK(shown(metrics.backward_seconds).sample_sum == 3 * 2);
  CHECK(shown(metrics.optimizer_seconds).sample_sum == 3 * 3);
  CHECK(shown(metrics.generation_wait_seconds).sample_count == 3);
  CHECK(shown(metrics.checkpoint_pause_seconds).sample_count == 3);
  CHECK(shown(metrics.publish_seconds).sample_count == 4);
  CHECK(shown(metrics.stopped_response_tokens).sample_count == 3 * kGroupsPerStep * kSamples);
  CHECK(shown(metrics.staleness_versions).sample_count == 3 * 2 * (9 + 10));
  CHECK(shown(metrics.staleness_versions).sample_sum == 0);
  CHECK(absl::StrContains(learner.log().LineWith("attached to"), " run=demo-1 "));
  CHECK(absl::StrContains(learner.log().LineWith("step trained"), " run=demo-1 "));
  CHECK(absl::StrContains(learner.log().LineWith("step trained"), " step=2 "));
  CHECK(absl::StrContains(learner.log().LineWith("run finished"), " step=3 "));
  CHECK(learner.trainer().saved_to() == dir / "policy");
  CHECK(dir.files->ListDir(dir / "checkpoints").value() ==
        std::vector<std::string>{"step-000002", "step-000003"});
}

TEST_CASE("Stopped and started again at any step, a run ends with the same weights") {
  const uint64_t expected = UninterruptedWeight(3);
  for (int64_t stop_at = 1; stop_at < 3; ++stop_at) {
    INFO("stopped after step " << stop_at - 1);
    TempDir dir;
    {
      Learner learner(dir, 3);
      Worker worker(learner);
      for (int64_t step = 0; step < stop_at; ++step) {
        worker.SendStep(step);
        REQUIRE(learner.coordinator().AwaitReport(step));
      }
      // Half of the next step is lost with the process.
      worker.Send(ToProto(WithHeader(
          TestChunk(static_cast<uint64_t>(stop_at) * kGroupsPerStep, 0, 0, 5, false, 1, stop_at),
          TestHeader(kSamples))));
      CHECK(learner.Stop().ok());
    }
    Learner learner(dir, 3);
    REQUIRE(learner.coordinator().AwaitAttached(stop_at));
    REQUIRE(learner.coordinator().AwaitReport(stop_at - 1));
    Worker worker(learner);
    for (int64_t step = stop_at; step < 3; ++step) {
      worker.SendStep(step);
      REQUIRE(learner.coordinator().AwaitReport(step));
    }
    CHECK(learner.trainer().weight() == expected);
    CHECK(worker.Finish().ok());
    CHECK(learner.Stop().ok());
  }
}

TEST_CASE("What a worker gets wrong is answered on its stream, by field, and disturbs nothing") {
  TempDir dir;
  Learner learner(dir, 1);
  Worker worker(learner);
  v1::SampleChunk bad =
      ToProto(WithHeader(TestChunk(0, 0, 0, 5, false, 1, 0), TestHeader(kSamples)));
  bad.set_tokens(3, 4000);
  v1::ChunkAck ack = worker.Send(bad);
  CHECK(ack.outcome() == v1::ChunkAck::OUTCOME_REFUSED);
  CHECK(absl::StrContains(ack.message(), "tokens[3]"));
  bad.set_tokens(3, 4);
  bad.mutable_log_probs()->RemoveLast();
  ack = worker.Send(bad);
  CHECK(ack.outcome() == v1::ChunkAck::OUTCOME_REFUSED);
  CHECK(absl::StrContains(ack.message(), "log_probs"));
  v1::SampleChunk huge =
      ToProto(WithHeader(TestChunk(0, 0, 0, 5, false, 1, 0), TestHeader(kSamples)));
  huge.mutable_header()->set_problem_id(std::string(9 << 20, 'x'));
  ack = worker.Send(huge);
  CHECK(ack.outcome() == v1::ChunkAck::OUTCOME_REFUSED);
  CHECK(absl::StrContains(ack.message(), "message:"));
  // Above the bound of any message: the stream ends, and no other.
  Worker hostile(learner);
  huge.mutable_header()->set_problem_id(std::string(limits::kMessageBytesMax, 'x'));
  const grpc::Status refused = hostile.Refused(huge);
  CHECK(refused.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(
      absl::StartsWith(refused.error_message(), "message: expected at most 20971520 bytes, found"));
  CHECK(learner.oversized == 1);
  worker.SendStep(0);
  REQUIRE(learner.coordinator().AwaitReport(0));

  auto experience = v1::ExperienceService::NewStub(learner.channel());
  v1::ResumeRequest resume;
  resume.set_group_id(0);
  v1::ResumeResponse held;
  grpc::ClientContext resume_context;
  REQUIRE(experience->Resume(&resume_context, resume, &held).ok());
  CHECK(held.state() == v1::ResumeResponse::STATE_ENDED);

  auto weights = v1::WeightsService::NewStub(learner.channel());
  v1::GetManifestRequest ask;
  ask.set_version(17);
  v1::WeightManifest manifest;
  grpc::ClientContext manifest_context;
  const grpc::Status unknown = weights->GetManifest(&manifest_context, ask, &manifest);
  CHECK(unknown.error_code() == grpc::StatusCode::NOT_FOUND);
  CHECK(absl::StrContains(unknown.error_message(), "held: 0, 1"));
  v1::PullChunksRequest request;
  request.set_version(1);
  request.set_first_chunk(2);
  request.set_chunks(4294967295u);
  grpc::ClientContext pull_context;
  auto reader = weights->PullChunks(&pull_context, request);
  v1::WeightChunk chunk;
  CHECK_FALSE(reader->Read(&chunk));
  CHECK(reader->Finish().error_code() == grpc::StatusCode::OUT_OF_RANGE);
  CHECK(worker.Finish().ok());
}

TEST_CASE("A full buffer holds a stream back until there is room, and lets go at a stop") {
  TempDir dir;
  Learner learner(dir, 2, /*bytes_max=*/1);
  REQUIRE(learner.coordinator().AwaitAttached(0));
  Worker worker(learner);
  // Group 9 is in no plan: it waits for ever, and the stop ends the wait.
  std::optional<absl::StatusOr<ChunkAck>> held_back;
  std::thread blocked([&] {
    held_back = learner.host().Accept(
        WithHeader(TestChunk(9, 0, 0, 5, false, 1, 0), TestHeader(kSamples)), [] { return false; });
  });
  // Meanwhile the groups of the plans go through.
  for (int64_t step = 0; step < 2; ++step) {
    worker.SendStep(step);
    REQUIRE(learner.coordinator().AwaitReport(step));
  }
  CHECK(worker.Finish().ok());
  CHECK(learner.Stop().ok());
  blocked.join();
  CHECK(held_back->status().code() == absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace crescendo
