// The worker's adapter against services in this process, over real gRPC: the flow, each peer gone
// and back, and weights that arrive broken.
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "catch2/catch.hpp"
#include "common/base/crc32c.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/convert/convert.h"
#include "common/os/posix_env.h"
#include "common/rpc/address.h"
#include "common/rpc/server.h"
#include "crescendo/v1/coordinator.grpc.pb.h"
#include "crescendo/v1/experience.grpc.pb.h"
#include "crescendo/v1/reward.grpc.pb.h"
#include "crescendo/v1/weights.grpc.pb.h"
#include "prometheus/registry.h"
#include "services/rollout/rollout_host.h"
#include "tests/support/scripted_model.h"
#include "tests/unit/rollout/fake_learner.h"

namespace crescendo {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);

// Leases groups 0..groups-1 once each, knows a worker only after it has joined.
class FakeCoordinator final : public v1::CoordinatorService::Service {
 public:
  FakeCoordinator(int groups, int limit) : groups_(groups), limit_(limit) {}

  grpc::Status Join(grpc::ServerContext*, const v1::JoinRequest* request,
                    v1::JoinResponse* response) override {
    absl::MutexLock lock(&mutex_);
    joined_ = true;
    ++joins_;
    incarnation_ = request->incarnation();
    response->set_run_id("test");
    response->set_heartbeat_interval_ms(20);
    return grpc::Status::OK;
  }
  grpc::Status Lease(grpc::ServerContext*, const v1::LeaseRequest* request,
                     v1::LeaseResponse* response) override {
    absl::MutexLock lock(&mutex_);
    if (!joined_) return {grpc::StatusCode::FAILED_PRECONDITION, "join first"};
    const auto any = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return next_ < groups_; };
    mutex_.AwaitWithTimeout(absl::Condition(&any), absl::Milliseconds(100));
    for (uint32_t i = 0; i < request->groups_max() && next_ < groups_; ++i) {
      GroupLease lease;
      lease.group = GroupId(next_);
      lease.lease = LeaseId(100 + next_++);
      lease.problem_id = "p";
      lease.problem = "1+1=";
      lease.reward = {"math", {"2"}};
      lease.samples = 4;
      lease.context_tokens = limit_;
      lease.seed = 17;
      lease.min_version = min_version;
      *response->add_groups() = ToProto(lease);
    }
    return grpc::Status::OK;
  }
  grpc::Status Heartbeat(grpc::ServerContext*, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    absl::MutexLock lock(&mutex_);
    if (!joined_) return {grpc::StatusCode::FAILED_PRECONDITION, "join first"};
    loaded_ = request->policy_version();
    response->set_policy_version(version);
    response->set_learner_incarnation(learner_incarnation);
    return grpc::Status::OK;
  }
  grpc::Status CompleteGroup(grpc::ServerContext*, const v1::CompleteGroupRequest* request,
                             v1::CompleteGroupResponse* response) override {
    absl::MutexLock lock(&mutex_);
    if (!joined_) return {grpc::StatusCode::FAILED_PRECONDITION, "join first"};
    completed_.insert(request->group_id());
    response->set_accepted(true);
    return grpc::Status::OK;
  }
  grpc::Status Abandon(grpc::ServerContext*, const v1::AbandonRequest* request,
                       v1::AbandonResponse*) override {
    absl::MutexLock lock(&mutex_);
    abandoned_ += request->lease_ids_size();
    return grpc::Status::OK;
  }
  grpc::Status Leave(grpc::ServerContext*, const v1::LeaveRequest*, v1::LeaveResponse*) override {
    absl::MutexLock lock(&mutex_);
    left_ = true;
    return grpc::Status::OK;
  }

  void Forget() {
    absl::MutexLock lock(&mutex_);
    joined_ = false;
  }
  bool AwaitCompleted(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return completed_.size() >= count;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&done), kPatience);
  }
  bool AwaitLoaded(int64_t wanted) {
    absl::MutexLock lock(&mutex_);
    const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return loaded_ == wanted; };
    return mutex_.AwaitWithTimeout(absl::Condition(&done), kPatience);
  }
  int joins() const {
    absl::MutexLock lock(&mutex_);
    return joins_;
  }
  int abandoned() const {
    absl::MutexLock lock(&mutex_);
    return abandoned_;
  }
  bool left() const {
    absl::MutexLock lock(&mutex_);
    return left_;
  }
  std::atomic<int64_t> version{0};
  std::atomic<int64_t> min_version{-1};
  std::string learner_incarnation = "l0";  // set before the worker starts

 private:
  const uint64_t groups_;
  const int limit_;
  mutable absl::Mutex mutex_;
  bool joined_ ABSL_GUARDED_BY(mutex_) = false;
  bool left_ ABSL_GUARDED_BY(mutex_) = false;
  int joins_ ABSL_GUARDED_BY(mutex_) = 0;
  int abandoned_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t loaded_ ABSL_GUARDED_BY(mutex_) = -1;
  std::string incarnation_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> completed_ ABSL_GUARDED_BY(mutex_);
};

class FakeExperience final : public v1::ExperienceService::Service {
 public:
  grpc::Status StreamSamples(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::ChunkAck, v1::SampleChunk>* stream) override {
    const uint64_t number = ++streams_;
    v1::SampleChunk message;
    while (stream->Read(&message)) {
      const auto chunk = FromProto(message);
      absl::MutexLock lock(&mutex_);
      if (!chunk.ok()) {
        learner_.error = chunk.status().ToString();
        return grpc::Status::OK;
      }
      const ChunkAck ack = learner_.Accept(number, *chunk);
      // Break off in the middle, as often as asked, when a chunk has been taken.
      if (breaks > 0 && learner_.chunks_accepted % 5 == 4) {
        --breaks;
        return {grpc::StatusCode::UNAVAILABLE, "killed"};
      }
      if (!stream->Write(ToProto(ack))) break;
    }
    return grpc::Status::OK;
  }
  grpc::Status Resume(grpc::ServerContext*, const v1::ResumeRequest* request,
                      v1::ResumeResponse* response) override {
    absl::MutexLock lock(&mutex_);
    ++resumes_;
    *response = ToProto(learner_.Resume(GroupId(request->group_id())));
    return grpc::Status::OK;
  }
  FakeLearner learner() const {
    absl::MutexLock lock(&mutex_);
    return learner_;
  }
  void Publish(int64_t version) {
    absl::MutexLock lock(&mutex_);
    learner_.published = version;
  }
  // The learner is another process, which holds nothing of what was not complete.
  void LoseOpenGroups() {
    absl::MutexLock lock(&mutex_);
    for (auto it = learner_.held.begin(); it != learner_.held.end();) {
      it = it->second.complete() ? std::next(it) : learner_.held.erase(it);
    }
  }
  int resumes() const {
    absl::MutexLock lock(&mutex_);
    return resumes_;
  }
  std::atomic<int> breaks{0};

 private:
  std::atomic<uint64_t> streams_{0};
  mutable absl::Mutex mutex_;
  FakeLearner learner_ ABSL_GUARDED_BY(mutex_);
  int resumes_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FakeReward final : public v1::RewardService::Service {
 public:
  grpc::Status Grade(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::GradeResponse, v1::GradeRequest>* stream) override {
    v1::GradeRequest request;
    while (stream->Read(&request)) {
      if (breaks > 0 && ++seen_ % 3 == 2) {
        --breaks;
        return {grpc::StatusCode::UNAVAILABLE, "killed"};
      }
      v1::GradeResponse response;
      response.set_id(request.id());
      response.set_verdict(request.response().size() % 2 == 0 ? v1::VERDICT_CORRECT
                                                              : v1::VERDICT_INCORRECT);
      if (!stream->Write(response)) break;
    }
    return grpc::Status::OK;
  }
  std::atomic<int> breaks{0};

 private:
  std::atomic<int> seen_{0};
};

// Version v is 40 bytes of v in chunks of 16. The first `corrupt` chunks sent have a flipped bit,
// the first `short_streams` streams end after a chunk.
class FakeWeights final : public v1::WeightsService::Service {
 public:
  grpc::Status GetManifest(grpc::ServerContext*, const v1::GetManifestRequest* request,
                           v1::WeightManifest* response) override {
    if (request->version() > newest) return {grpc::StatusCode::NOT_FOUND, "not held"};
    const std::string bytes = Bytes(request->version());
    response->set_version(request->version());
    v1::WeightTensor* tensor = response->add_tensors();
    tensor->set_name("w");
    tensor->set_dtype("F32");
    tensor->add_shape(10);
    tensor->set_bytes(bytes.size());
    response->set_total_bytes(bytes.size());
    response->set_chunk_bytes(16);
    for (int i = 0; i < 3; ++i) response->add_chunk_crc32c(Crc32c(bytes.substr(i * 16, 16)));
    response->set_learner_incarnation("l0");
    return grpc::Status::OK;
  }
  grpc::Status PullChunks(grpc::ServerContext*, const v1::PullChunksRequest* request,
                          grpc::ServerWriter<v1::WeightChunk>* writer) override {
    const std::string bytes = Bytes(request->version());
    for (uint32_t i = 0; i < request->chunks(); ++i) {
      v1::WeightChunk chunk;
      chunk.set_version(request->version());
      chunk.set_index(request->first_chunk() + i);
      std::string data = bytes.substr(chunk.index() * 16, 16);
      chunk.set_crc32c(Crc32c(data));
      if (corrupt-- > 0) data[3] ^= 0x10;
      chunk.set_data(data);
      writer->Write(chunk);
      if (short_streams > 0) {
        --short_streams;
        return {grpc::StatusCode::UNAVAILABLE, "gone"};
      }
    }
    return grpc::Status::OK;
  }
  static std::string Bytes(int64_t version) {
    return std::string(40, static_cast<char>('a' + version));
  }
  std::atomic<int64_t> newest{0};
  std::atomic<int> corrupt{0};
  std::atomic<int> short_streams{0};
};

// All of it, and a worker with the scripted model and the demo's tokenizer.
class Cluster {
 public:
  Cluster(int groups, int limit) : coordinator(groups, limit), scripted_(Model()) {
    const auto ports = FreeLoopbackPorts(3);
    REQUIRE(ports.ok());
    for (const int port : *ports) addresses_.push_back(absl::StrCat("127.0.0.1:", port));
    StartCoordinator();
    StartLearner();
    StartReward();
    const auto files = MakePosixFileSystem();
    PolicySection policy;
    policy.path = "deploy/recipes/demo-base";
    policy.chat_template = "raw";
    auto codec = PromptCodec::Load(*files, policy);
    REQUIRE(codec.ok());
    codec_ = *std::move(codec);
  }
  ~Cluster() { Drain(absl::ZeroDuration()); }

  static ScriptedModelOptions Model() {
    ScriptedModelOptions options;
    options.mean_tokens = 30;
    return options;
  }
  void StartCoordinator() { coordinator_server_ = Serve(addresses_[0], {&coordinator}); }
  void StartLearner() { learner_server_ = Serve(addresses_[1], {&experience, &weights}); }
  void StartReward() { reward_server_ = Serve(addresses_[2], {&reward}); }
  void KillCoordinator() { coordinator_server_.reset(); }
  void KillLearner() { learner_server_.reset(); }
  void KillReward() { reward_server_.reset(); }

  absl::Status StartWorker(absl::Duration connect_timeout = kPatience) {
    RolloutOptions options;
    options.engine.slots = 16;
    options.engine.step_tokens = 64;
    options.engine.blocks = 128;
    options.engine.stop_tokens = {1};
    options.chunk_tokens = 4;
    PeerAddresses peers;
    peers.coordinator = addresses_[0];
    peers.learner = addresses_[1];
    peers.reward = addresses_[2];
    peers.connect_timeout = connect_timeout;
    peers.rpc_timeout = absl::Seconds(5);
    peers.heartbeat = absl::Milliseconds(20);
    RolloutHost::Parts parts;
    parts.runner = &scripted_;
    parts.codec = codec_.get();
    parts.stage = [this](std::unique_ptr<StagedWeights> staged) {
      absl::MutexLock lock(&mutex_);
      staged_ = staged->bytes;
    };
    parts.weight_bytes_max = 1000;
    parts.clock = clock_.get();
    parts.metrics = &metrics;
    host_ = std::make_unique<RolloutHost>(options, WorkerIdentity{"w0", "127.0.0.1:1", "i0", 16},
                                          peers, parts);
    RETURN_IF_ERROR(host_->Start([] { return false; }));
    runner_ = std::thread([this] { run_status = host_->Run(); });
    return absl::OkStatus();
  }
  void Drain(absl::Duration finish_within) {
    if (runner_.joinable()) {
      host_->RequestDrain(finish_within);
      runner_.join();
    }
    host_.reset();
  }
  HostStatus status() const { return host_->Status(); }
  std::string staged() {
    absl::MutexLock lock(&mutex_);
    return staged_;
  }
  void CheckAllHeld(int groups) {
    const FakeLearner learner = experience.learner();
    CHECK(learner.error.empty());
    INFO(learner.error);
    for (int id = 0; id < groups; ++id) {
      REQUIRE(learner.held.count(GroupId(id)) == 1);
      const FakeGroup& group = learner.held.at(GroupId(id));
      REQUIRE(group.complete());
      for (const auto& [index, sample] : group.samples) {
        for (size_t at = 0; at < sample.tokens.size(); ++at) {
          REQUIRE(sample.tokens[at] ==
                  ScriptedModel::TokenAt(Model(), 17, id, index, static_cast<uint32_t>(at), 0));
        }
      }
    }
  }

  FakeCoordinator coordinator;
  FakeExperience experience;
  FakeReward reward;
  FakeWeights weights;
  prometheus::Registry registry;
  RolloutMetrics metrics{registry};
  absl::Status run_status;

 private:
  static std::unique_ptr<RpcServer> Serve(const std::string& address,
                                          const std::vector<grpc::Service*>& services) {
    auto server = RpcServer::Start({address, "fake", false}, services);
    INFO(server.status());
    REQUIRE(server.ok());
    return *std::move(server);
  }
  std::vector<std::string> addresses_;
  std::unique_ptr<RpcServer> coordinator_server_, learner_server_, reward_server_;
  std::unique_ptr<Clock> clock_ = MakeRealClock();
  std::unique_ptr<PromptCodec> codec_;
  ScriptedModel scripted_;
  absl::Mutex mutex_;
  std::string staged_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<RolloutHost> host_;
  std::thread runner_;
};

TEST_CASE("Groups go from lease to completion over the wire, and the worker leaves") {
  Cluster cluster(12, 40);
  REQUIRE(cluster.StartWorker().ok());
  REQUIRE(cluster.coordinator.AwaitCompleted(12));
  cluster.CheckAllHeld(12);
  cluster.Drain(absl::Seconds(1));
  CHECK(cluster.run_status.ok());
  CHECK(cluster.coordinator.left());
  CHECK(cluster.coordinator.abandoned() == 0);
  CHECK(cluster.metrics.groups_completed_total.Value() == 12);
}

TEST_CASE("Streams that break again and again lose and double nothing") {
  Cluster cluster(16, 40);
  cluster.experience.breaks = 5;
  cluster.reward.breaks = 5;
  REQUIRE(cluster.StartWorker().ok());
  REQUIRE(cluster.coordinator.AwaitCompleted(16));
  CHECK(cluster.experience.resumes() > 0);
  CHECK(cluster.experience.breaks == 0);
  cluster.CheckAllHeld(16);
}

TEST_CASE("Every peer can go away and come back") {
  Cluster cluster(40, 60);
  REQUIRE(cluster.StartWorker().ok());
  REQUIRE(cluster.coordinator.AwaitCompleted(4));
  cluster.KillReward();
  cluster.StartReward();
  REQUIRE(cluster.coordinator.AwaitCompleted(12));
  cluster.KillLearner();
  cluster.experience.LoseOpenGroups();
  cluster.StartLearner();
  REQUIRE(cluster.coordinator.AwaitCompleted(20));
  cluster.KillCoordinator();
  cluster.coordinator.Forget();
  cluster.StartCoordinator();
  REQUIRE(cluster.coordinator.AwaitCompleted(40));
  CHECK(cluster.coordinator.joins() >= 2);
  cluster.CheckAllHeld(40);
}

TEST_CASE("A version is loaded only when every chunk had its checksum") {
  Cluster cluster(4, 20);
  cluster.weights.newest = 3;
  cluster.weights.corrupt = 2;
  cluster.weights.short_streams = 1;
  cluster.experience.Publish(3);
  cluster.coordinator.version = 3;
  cluster.coordinator.min_version = 3;
  REQUIRE(cluster.StartWorker().ok());
  REQUIRE(cluster.coordinator.AwaitCompleted(4));
  CHECK(cluster.staged() == FakeWeights::Bytes(3));
  CHECK(cluster.coordinator.AwaitLoaded(3));
  CHECK(cluster.metrics.weight_chunks_refused_total.Value() == 2);
  const FakeLearner learner = cluster.experience.learner();
  for (const auto& [id, group] : learner.held) {
    for (const auto& [index, sample] : group.samples) {
      CHECK(sample.versions.front().version == PolicyVersion(3));
    }
  }
}

TEST_CASE("A worker that drains at once hands its groups back") {
  Cluster cluster(8, 2000);
  cluster.KillReward();  // no sample can be closed
  cluster.StartReward();
  cluster.reward.breaks = 1 << 30;
  REQUIRE(cluster.StartWorker().ok());
  absl::Time give_up = absl::Now() + kPatience;
  while (cluster.status().stats.groups < 4 && absl::Now() < give_up) std::this_thread::yield();
  cluster.Drain(absl::ZeroDuration());
  CHECK(cluster.run_status.ok());
  CHECK(cluster.coordinator.abandoned() >= 4);
  CHECK(cluster.coordinator.left());
}

TEST_CASE("A peer that cannot be reached is named, with its address") {
  Cluster cluster(1, 20);
  cluster.KillReward();
  const absl::Status status = cluster.StartWorker(absl::Milliseconds(300));
  CHECK(status.code() == absl::StatusCode::kUnavailable);
  CHECK(std::string(status.message()).find("reward service") != std::string::npos);
}

TEST_CASE("A manifest that contradicts itself is refused") {
  v1::WeightManifest good;
  FakeWeights weights;
  v1::GetManifestRequest request;
  REQUIRE(weights.GetManifest(nullptr, &request, &good).ok());
  CHECK(CheckManifest(good, PolicyVersion(0), 1000).ok());
  const auto refused = [&](const std::function<void(v1::WeightManifest&)>& change) {
    v1::WeightManifest bad = good;
    change(bad);
    return CheckManifest(bad, PolicyVersion(0), 1000).code() == absl::StatusCode::kInvalidArgument;
  };
  CHECK(refused([](auto& m) { m.set_version(1); }));
  CHECK(refused([](auto& m) { m.set_total_bytes(1001); }));
  CHECK(refused([](auto& m) { m.set_total_bytes(~0ull); }));
  CHECK(refused([](auto& m) { m.set_chunk_bytes(0); }));
  CHECK(refused([](auto& m) { m.set_chunk_bytes(limits::kWeightChunkBytes + 1); }));
  CHECK(refused([](auto& m) { m.add_chunk_crc32c(1); }));
  CHECK(refused([](auto& m) { m.mutable_tensors(0)->set_offset(1); }));
  CHECK(refused([](auto& m) { m.mutable_tensors(0)->set_bytes(~0ull); }));
  CHECK(refused([](auto& m) { m.clear_tensors(); }));
}

}  // namespace
}  // namespace crescendo
