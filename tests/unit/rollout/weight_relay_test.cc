// Weights handed on from worker to worker over gRPC: each byte leaves the learner once, chunks go
// on while others still arrive, and a source that dies, falls silent, stalls or lies costs nothing
// but the next source. Deltas: weight_delta_test.cc.
#include <atomic>
#include <memory>
#include <string>

#include "absl/synchronization/mutex.h"
#include "catch2/catch.hpp"
#include "common/base/crc32c.h"
#include "common/base/rng.h"
#include "tests/unit/rollout/weight_worker.h"

namespace crescendo {
namespace {

constexpr uint32_t kChunk = 1000;
constexpr uint32_t kChunks = 50;

std::string Bytes(int64_t version) {
  CounterRng rng(static_cast<uint64_t>(version) + 1);
  std::string bytes((kChunks - 1) * kChunk + 123, '\0');
  for (char& c : bytes) c = static_cast<char>(rng.Below(256));
  return bytes;
}

v1::WeightManifest Manifest(int64_t version, const std::string& incarnation) {
  const std::string bytes = Bytes(version);
  v1::WeightManifest manifest;
  manifest.set_version(version);
  v1::WeightTensor* tensor = manifest.add_tensors();
  tensor->set_name("w");
  tensor->set_dtype("U8");
  tensor->add_shape(static_cast<int64_t>(bytes.size()));
  tensor->set_bytes(bytes.size());
  manifest.set_total_bytes(bytes.size());
  manifest.set_chunk_bytes(kChunk);
  for (uint32_t i = 0; i < kChunks; ++i) {
    manifest.add_chunk_crc32c(Crc32c(absl::string_view(bytes).substr(i * kChunk, kChunk)));
  }
  manifest.set_learner_incarnation(incarnation);
  return manifest;
}

// Serves chunks below `allowed` as they are asked for, and waits, saying that it does when
// `signs`, for the others.
class Source final : public v1::WeightsService::Service {
 public:
  grpc::Status GetManifest(grpc::ServerContext*, const v1::GetManifestRequest* request,
                           v1::WeightManifest* response) override {
    if (!has_manifest) return {grpc::StatusCode::NOT_FOUND, "not held"};
    *response = Manifest(request->version(), "l0");
    return grpc::Status::OK;
  }
  grpc::Status PullChunks(grpc::ServerContext* context, const v1::PullChunksRequest* request,
                          grpc::ServerWriter<v1::WeightChunk>* writer) override {
    const std::string bytes = Bytes(request->version());
    for (uint32_t i = 0; i < request->chunks();) {
      v1::WeightChunk chunk;
      chunk.set_version(request->version());
      chunk.set_index(request->first_chunk() + i);
      if (!AwaitAllowed(chunk.index())) {
        if (context->IsCancelled()) return grpc::Status::CANCELLED;
        if (signs) writer->Write(chunk);
        continue;
      }
      chunk.set_data(bytes.substr(chunk.index() * size_t{kChunk}, kChunk));
      if (lies) (*chunk.mutable_data())[7] ^= 1;
      if (!writer->Write(chunk)) return grpc::Status::CANCELLED;
      ++sent;
      ++i;
    }
    return grpc::Status::OK;
  }
  void Allow(uint32_t chunks) {
    absl::MutexLock lock(&mutex_);
    allowed_ = chunks;
  }

  std::atomic<uint32_t> sent{0};
  std::atomic<bool> has_manifest{true}, signs{false}, lies{false};

 private:
  bool AwaitAllowed(uint32_t index) {
    absl::MutexLock lock(&mutex_);
    const auto allowed = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return index < allowed_; };
    return mutex_.AwaitWithTimeout(absl::Condition(&allowed), absl::Milliseconds(50));
  }
  absl::Mutex mutex_;
  uint32_t allowed_ ABSL_GUARDED_BY(mutex_) = kChunks;
};

TEST_CASE("A version holds only chunks that are as promised") {
  const std::string bytes = Bytes(3);
  RelayedVersion version(Manifest(3, "l0"));
  CHECK(version.chunks() == kChunks);
  const std::string first = bytes.substr(0, kChunk);
  CHECK_FALSE(version.Put(1, first));
  CHECK_FALSE(version.Put(0, first.substr(1)));
  CHECK_FALSE(version.Put(kChunks, first));
  std::string flipped = first;
  flipped[500] ^= 4;
  CHECK_FALSE(version.Put(0, flipped));
  RelayedVersion::Chunk held;
  CHECK(version.AwaitChunk(0, false, absl::ZeroDuration(), &held) ==
        RelayedVersion::Found::kNotYet);
  CHECK(version.Put(0, first));
  CHECK(version.Put(0, first));
  CHECK(version.Put(2, bytes.substr(2 * kChunk, kChunk)));
  CHECK(version.AwaitChunk(0, false, absl::ZeroDuration(), &held) == RelayedVersion::Found::kReady);
  CHECK(held.data == first);
  CHECK(version.FirstMissing() == RelayedVersion::Run{1, 2, false});
  version.GiveUp();
  CHECK(version.AwaitChunk(0, false, absl::ZeroDuration(), &held) == RelayedVersion::Found::kReady);
  CHECK(version.AwaitChunk(1, false, kLong, &held) == RelayedVersion::Found::kGone);
  for (uint32_t i = 0; i < kChunks; ++i) {
    CHECK(version.Put(i, absl::string_view(bytes).substr(i * kChunk, kChunk)));
  }
  CHECK(version.Whole());
  CHECK((*version.bytes() == bytes));
}

TEST_CASE("A relay keeps the newest version, and goes on with one of the same bytes") {
  WeightRelay relay;
  CHECK(relay.Await(PolicyVersion(-1), "", absl::ZeroDuration()) == nullptr);
  const auto first = relay.Begin(Manifest(3, "l0"));
  CHECK(first->Put(0, absl::string_view(Bytes(3)).substr(0, kChunk)));
  CHECK(relay.Begin(Manifest(3, "l0")) == first);
  CHECK(relay.Await(PolicyVersion(3), "l0", absl::ZeroDuration()) == first);
  CHECK(relay.Await(PolicyVersion(3), "l1", absl::ZeroDuration()) == nullptr);
  const auto next = relay.Begin(Manifest(4, "l0"));
  CHECK(next != first);
  RelayedVersion::Chunk held;  // who reads the old one is told that no more of it comes
  CHECK(first->AwaitChunk(1, false, kLong, &held) == RelayedVersion::Found::kGone);
  CHECK(relay.Await(PolicyVersion(3), "", absl::ZeroDuration()) == nullptr);
  CHECK(relay.Await(PolicyVersion(-1), "", absl::ZeroDuration()) == next);
}

TEST_CASE("In a chain each byte leaves the learner once, and goes on while others still arrive") {
  Source learner;
  const auto server = Serve(&learner);
  learner.Allow(10);
  WeightWorker first(server->address(), {});
  WeightWorker second(server->address(), {first.address()});
  WeightWorker third(server->address(), {second.address()});
  // The last one first: it waits until those before it have had the news.
  for (WeightWorker* worker : {&third, &second, &first}) worker->Pull(3);
  CHECK(third.Has(3, 9));
  CHECK(learner.sent == 10);
  learner.Allow(kChunks);
  for (WeightWorker* worker : {&first, &second, &third}) worker->CheckWhole(3, Bytes(3));
  CHECK(learner.sent == kChunks);
  const auto total = static_cast<double>(Bytes(3).size());
  CHECK(first.metrics.relayed_weight_bytes_total.Value() == total);
  CHECK(second.metrics.relayed_weight_bytes_total.Value() == total);
  CHECK(third.metrics.relayed_weight_bytes_total.Value() == 0);
  for (WeightWorker* worker : {&first, &second, &third}) {
    CHECK(worker->metrics.weight_source_failures_total.Value() == 0);
  }
}

TEST_CASE("A worker that dies in the middle: who is behind it goes on at the learner") {
  Source learner;
  const auto server = Serve(&learner);
  learner.Allow(10);
  WeightWorker first(server->address(), {});
  WeightWorker second(server->address(), {first.address()});
  WeightWorker third(server->address(), {second.address()});
  WeightWorker fourth(server->address(), {third.address()});
  for (WeightWorker* worker : {&first, &second, &third, &fourth}) worker->Pull(3);
  CHECK(fourth.Has(3, 9));
  second.Die();
  learner.Allow(kChunks);
  for (WeightWorker* worker : {&first, &third, &fourth}) worker->CheckWhole(3, Bytes(3));
  CHECK(third.metrics.weight_source_failures_total.Value() == 1);
  CHECK(first.metrics.weight_source_failures_total.Value() == 0);
  CHECK(fourth.metrics.weight_source_failures_total.Value() == 0);
  CHECK(learner.sent == kChunks + (kChunks - 10));  // what had arrived was not asked for again
}

TEST_CASE("A source that is silent, only waits, lies, or is gone is left for the learner") {
  Source learner, peer;
  const auto server = Serve(&learner);
  auto peer_server = Serve(&peer);
  const std::string peer_address = peer_server->address();
  uint32_t kept = 0;
  double refused = 0;
  SECTION("silent after 20 chunks") {
    peer.Allow(20);
    kept = 20;
  }
  SECTION("silent from the beginning") { peer.Allow(0); }
  SECTION("waits for ever, and says so") {
    peer.Allow(20);
    peer.signs = true;
    kept = 20;
  }
  SECTION("every chunk has a flipped bit") {
    peer.lies = true;
    refused = 4 * kChunks;
  }
  SECTION("nobody is there") { peer_server = nullptr; }
  WeightWorker worker(server->address(), {peer_address}, absl::Milliseconds(300));
  worker.Pull(3);
  worker.CheckWhole(3, Bytes(3));
  CHECK(learner.sent == kChunks - kept);
  CHECK(worker.metrics.weight_source_failures_total.Value() == 1);
  CHECK(worker.metrics.weight_chunks_refused_total.Value() == refused);
}

TEST_CASE("Weights of another learner under the same number are not taken from a peer") {
  Source learner;
  const auto server = Serve(&learner);
  WeightWorker peer(server->address(), {});
  const auto old = peer.relay.Begin(Manifest(3, "of an earlier learner"));
  for (uint32_t i = 0; i < kChunks; ++i) {
    CHECK(old->Put(i, absl::string_view(Bytes(3)).substr(i * kChunk, kChunk)));
  }
  WeightWorker worker(server->address(), {peer.address()});
  worker.Pull(3);
  worker.CheckWhole(3, Bytes(3));
  CHECK(learner.sent == kChunks);
}

TEST_CASE("A version that the learner has dropped is taken from a peer that holds it") {
  Source learner;
  const auto server = Serve(&learner);
  WeightWorker peer(server->address(), {});
  peer.Pull(3);
  peer.CheckWhole(3, Bytes(3));
  learner.has_manifest = false;
  WeightWorker worker(server->address(), {peer.address()});
  worker.Pull(3);
  worker.CheckWhole(3, Bytes(3));
  CHECK(learner.sent == kChunks);
}

}  // namespace
}  // namespace crescendo
