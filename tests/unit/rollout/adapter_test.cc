// The worker's adapter against services in this process, over real gRPC: the flow, each peer gone
// and back, and weights that arrive broken.
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "common/rpc/address.h"
#include "common/rpc/server.h"
#include "prometheus/registry.h"
#include "services/rollout/rollout_host.h"
#include "tests/support/log_text.h"
#include "tests/support/scripted_model.h"
#include "tests/unit/rollout/fake_services.h"

namespace crescendo {
namespace {

// All of it, and a worker with the scripted model and the demo's tokenizer.
class Cluster {
 public:
  Cluster(int groups, int limit) : coordinator(groups, limit), scripted_(Model()) {
    auto ports = ReserveLoopbackPorts(3);
    REQUIRE(ports.ok());
    reserved_ = std::move(*ports);
    for (const int port : reserved_.ports) {
      addresses_.push_back(absl::StrCat("127.0.0.1:", port));
    }
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
      staged_ = *staged->bytes;
    };
    parts.weight_bytes_max = 1000;
    parts.clock = clock_.get();
    parts.metrics = &metrics;
    parts.log = log.Make("rollout", clock_.get());
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

  LogText log;
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
  ReservedPorts reserved_;  // a peer that breaks and returns finds its port
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
  // The run that the coordinator named is in the lines and goes on to the reward service.
  CHECK(absl::StrContains(cluster.log.LineWith("joined"), " run=test "));
  CHECK(cluster.reward.origin().run_id() == "test");
  CHECK(cluster.reward.origin().worker_id() == "w0");
  CHECK(cluster.reward.origin().group_id() < 12);
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
  CHECK(cluster.coordinator.AwaitJoins(2));
  REQUIRE(cluster.coordinator.AwaitCompleted(40));
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
  absl::Time give_up = RealNow() + kPatience;
  while (cluster.status().stats.groups < 4 && RealNow() < give_up) std::this_thread::yield();
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
