// Versions pulled as what changed since the one before are the bits of a full pull, from the
// learner and along a chain; whoever cannot use a delta, or gets a wrong one, has the version all
// the same.
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/base/crc32c.h"
#include "common/base/rng.h"
#include "prometheus/counter.h"
#include "services/learner/learner_service.h"
#include "services/learner/weight_store.h"
#include "tests/unit/rollout/weight_worker.h"

namespace crescendo {
namespace {

constexpr uint32_t kChunk = 1000;
constexpr uint32_t kChunks = 50;
constexpr size_t kSize = (kChunks - 1) * kChunk + 922;

// Version 1, and each version some words in every chunk from the one before; `run` tells learners
// apart.
std::string Bytes(int64_t version, uint64_t run = 0) {
  CounterRng rng(17, run);
  std::string bytes(kSize, '\0');
  for (char& c : bytes) c = static_cast<char>(rng.Below(256));
  for (int64_t v = 2; v <= version; ++v) {
    CounterRng changes(static_cast<uint64_t>(v), run);
    for (int i = 0; i < 800; ++i) ++bytes[2 * changes.Below(kSize / 2)];
  }
  return bytes;
}

// A learner: its store and its service.
class Learner {
 public:
  explicit Learner(uint64_t run = 0) : run_(run), server_(Serve(&service_)) {}
  void Publish(int64_t version) {
    REQUIRE(
        store.Publish(PolicyVersion(version), {{"w", "BF16", {kSize / 2}, Bytes(version, run_)}})
            .ok());
  }
  v1::WeightManifest Manifest(int64_t version) {
    v1::GetManifestRequest request;
    request.set_version(version);
    v1::WeightManifest manifest;
    REQUIRE(service_.GetManifest(nullptr, &request, &manifest).ok());
    return manifest;
  }
  double DeltaBytes(int64_t version) const {
    double bytes = 0;
    for (const std::string& chunk : store.Get(PolicyVersion(version)).value()->delta->chunks) {
      bytes += static_cast<double>(chunk.size());
    }
    return bytes;
  }
  std::string address() const { return server_->address(); }
  void Die() { server_->Stop(absl::ZeroDuration()); }

  WeightStore store{2, kChunk, /*deltas=*/true};
  prometheus::Counter sent, sent_deltas;

 private:
  const uint64_t run_;
  WeightsServiceImpl service_{&store, [this] { return absl::StrCat("l", run_); }, &sent,
                              &sent_deltas};
  std::unique_ptr<RpcServer> server_;
};

// The learner's deltas with a flipped bit in each; its full chunks as they are.
class Liar final : public v1::WeightsService::Service {
 public:
  explicit Liar(const WeightStore* store) : store_(*store) {}
  grpc::Status PullChunks(grpc::ServerContext*, const v1::PullChunksRequest* request,
                          grpc::ServerWriter<v1::WeightChunk>* writer) override {
    const auto weights = store_.Get(PolicyVersion(request->version())).value();
    for (uint32_t i = request->first_chunk(); i < request->first_chunk() + request->chunks(); ++i) {
      v1::WeightChunk chunk;
      chunk.set_version(request->version());
      chunk.set_index(i);
      chunk.set_delta(request->deltas());
      chunk.set_data(request->deltas() ? weights->delta->chunks[i]
                                       : std::string(weights->Chunk(i)));
      if (request->deltas()) chunk.mutable_data()->back() ^= 4;
      if (!writer->Write(chunk)) return grpc::Status::CANCELLED;
    }
    return grpc::Status::OK;
  }

 private:
  const WeightStore& store_;
};

struct Pulled {
  double all = 0, deltas = 0;
};
Pulled PulledBy(const WeightWorker& worker) {
  return {worker.metrics.weight_bytes_total.Value(),
          worker.metrics.weight_delta_bytes_total.Value()};
}

ChunkBase BaseOf(const v1::WeightManifest& manifest, const std::string& bytes, bool own) {
  ChunkBase base{std::make_shared<std::string>(bytes), {}, own};
  for (uint32_t crc : manifest.chunk_crc32c()) base.crc32c.emplace_back(crc);
  return base;
}

TEST_CASE("The store: a delta beside the chunks where the version before is held") {
  Learner learner;
  learner.Publish(1);
  CHECK_FALSE(learner.store.Get(PolicyVersion(1)).value()->delta.has_value());
  CHECK(learner.store.Get(PolicyVersion(1)).value()->DeltaRatio() == 1);
  learner.Publish(2);
  const auto second = learner.store.Get(PolicyVersion(2)).value();
  REQUIRE(second->delta.has_value());
  CHECK(second->delta->base_version == PolicyVersion(1));
  CHECK(second->delta->base_crc32c == learner.store.Get(PolicyVersion(1)).value()->chunk_crc32c);
  CHECK(second->delta->chunks.size() == kChunks);
  CHECK(second->DeltaRatio() < 0.05);
  CHECK(second->DeltaRatio() == learner.DeltaBytes(2) / kSize);
  learner.Publish(4);  // of version 3 nothing is known
  CHECK_FALSE(learner.store.Get(PolicyVersion(4)).value()->delta.has_value());
  // Everything changes: no delta, and no error.
  std::string other = Bytes(4);
  for (char& c : other) c = static_cast<char>(c + 100);
  REQUIRE(learner.store.Publish(PolicyVersion(5), {{"w", "BF16", {kSize / 2}, other}}).ok());
  CHECK_FALSE(learner.store.Get(PolicyVersion(5)).value()->delta.has_value());
  // Another layout.
  REQUIRE(learner.store.Publish(PolicyVersion(6), {{"w", "U8", {10}, std::string(10, 'x')}}).ok());
  CHECK_FALSE(learner.store.Get(PolicyVersion(6)).value()->delta.has_value());
  WeightStore plain(2, kChunk);
  for (int64_t v : {1, 2}) {
    REQUIRE(plain.Publish(PolicyVersion(v), {{"w", "BF16", {kSize / 2}, Bytes(v)}}).ok());
  }
  CHECK_FALSE(plain.Get(PolicyVersion(2)).value()->delta.has_value());
}

TEST_CASE("A delta is taken only when it and what it leads to are as promised") {
  Learner learner;
  for (int64_t v : {1, 2}) learner.Publish(v);
  const v1::WeightManifest manifest = learner.Manifest(2);
  const auto published = learner.store.Get(PolicyVersion(2)).value();
  const std::vector<std::string>& deltas = published->delta->chunks;
  for (const bool own : {true, false}) {
    INFO("in place: " << own);
    ChunkBase base = BaseOf(learner.Manifest(1), Bytes(1), own);
    const std::shared_ptr<std::string> before = base.bytes;
    RelayedVersion version(manifest, std::move(base));
    CHECK(version.has_deltas());
    CHECK(version.FirstMissing() == RelayedVersion::Run{0, kChunks, true});
    std::string flipped = deltas[0];
    flipped.back() ^= 1;
    CHECK_FALSE(version.PutDelta(0, flipped));
    CHECK_FALSE(version.PutDelta(1, deltas[2]));
    CHECK_FALSE(version.PutDelta(kChunks, deltas[2]));
    // Those are asked for as they are, and a delta for them comes too late.
    CHECK(version.FirstMissing() == RelayedVersion::Run{0, 2, false});
    CHECK_FALSE(version.PutDelta(0, deltas[0]));
    CHECK(version.Put(0, published->Chunk(0)));
    CHECK(version.Put(1, published->Chunk(1)));
    CHECK(version.FirstMissing() == RelayedVersion::Run{2, kChunks, true});
    for (uint32_t i = 2; i < kChunks; ++i) REQUIRE(version.PutDelta(i, deltas[i]));
    CHECK(version.Whole());
    CHECK((*version.bytes() == Bytes(2)));
    CHECK((*before == (own ? Bytes(2) : Bytes(1))));
    RelayedVersion::Chunk held;
    REQUIRE(version.AwaitChunk(0, true, kLong, &held) == RelayedVersion::Found::kReady);
    CHECK_FALSE(held.delta);  // it came as it is
    REQUIRE(version.AwaitChunk(2, true, kLong, &held) == RelayedVersion::Found::kReady);
    CHECK(held.delta);
    CHECK(held.data == deltas[2]);
    REQUIRE(version.AwaitChunk(2, false, kLong, &held) == RelayedVersion::Found::kReady);
    CHECK(held.data == published->Chunk(2));
  }
}

TEST_CASE("A delta that leads elsewhere is taken back") {
  Learner learner;
  for (int64_t v : {1, 2}) learner.Publish(v);
  v1::WeightManifest manifest = learner.Manifest(2);
  const auto published = learner.store.Get(PolicyVersion(2)).value();
  const std::string foreign = published->delta->chunks[7];
  manifest.mutable_delta()->set_bytes(3, static_cast<uint32_t>(foreign.size()));
  manifest.mutable_delta()->set_crc32c(3, Crc32c(foreign));
  ChunkBase base = BaseOf(learner.Manifest(1), Bytes(1), /*own=*/true);
  const std::shared_ptr<std::string> bytes = base.bytes;
  RelayedVersion version(manifest, std::move(base));
  CHECK_FALSE(version.PutDelta(3, foreign));
  CHECK((*bytes == Bytes(1)));
  CHECK(version.FirstMissing() == RelayedVersion::Run{0, 3, true});
  CHECK(version.missing() == kChunks);
}

TEST_CASE("A version that is not finished is the base of the next as far as its bytes are known") {
  Learner learner;
  for (int64_t v : {1, 2}) learner.Publish(v);
  const v1::WeightManifest first = learner.Manifest(1), second = learner.Manifest(2);
  const auto published = learner.store.Get(PolicyVersion(2)).value();
  learner.Publish(3);
  WeightRelay relay;
  {
    const auto version = relay.Begin(first);
    for (uint32_t i = 0; i < kChunks; ++i) {
      REQUIRE(version->Put(i, absl::string_view(Bytes(1)).substr(size_t{i} * kChunk, kChunk)));
    }
  }
  std::shared_ptr<const RelayedVersion> reader;
  SECTION("in place") {}
  SECTION("beside one that is still read") {
    reader = relay.Await(PolicyVersion(1), "", absl::ZeroDuration());
  }
  {
    const auto version = relay.Begin(second);
    CHECK(version->FirstMissing() == RelayedVersion::Run{0, kChunks, true});
    for (uint32_t i = 0; i < 10; ++i) {
      REQUIRE(version->PutDelta(i, published->delta->chunks[i]));
    }
  }
  const auto version = relay.Begin(learner.Manifest(3));
  CHECK(version->FirstMissing() == RelayedVersion::Run{0, 10, true});
  const auto third = learner.store.Get(PolicyVersion(3)).value();
  for (uint32_t i = 0; i < kChunks; ++i) {
    if (i < 10) {
      REQUIRE(version->PutDelta(i, third->delta->chunks[i]));
    } else {
      CHECK_FALSE(version->PutDelta(i, third->delta->chunks[i]));
      REQUIRE(version->Put(i, third->Chunk(i)));
    }
  }
  CHECK((*version->bytes() == Bytes(3)));
  if (reader != nullptr) CHECK((*reader->bytes() == Bytes(1)));
}

TEST_CASE(
    "Along a chain each delta leaves the learner once, and all have the bits of a full pull") {
  Learner learner;
  learner.Publish(1);
  WeightWorker first(learner.address(), {});
  WeightWorker second(learner.address(), {first.address()});
  WeightWorker third(learner.address(), {second.address()});
  std::vector<std::unique_ptr<StagedWeights>> waiting;  // swaps that have not been
  for (int64_t v = 1; v <= 4; ++v) {
    if (v > 1) learner.Publish(v);
    const double sent = learner.sent.Value();
    for (WeightWorker* worker : {&third, &second, &first}) worker->Pull(v);
    for (WeightWorker* worker : {&first, &second, &third}) {
      std::unique_ptr<StagedWeights> staged = worker->Take(v);
      CHECK((*staged->bytes == Bytes(v)));
      if (v == 2) waiting.push_back(std::move(staged));
    }
    CHECK(learner.sent.Value() - sent == (v == 1 ? kSize : learner.DeltaBytes(v)));
  }
  const double deltas = learner.sent_deltas.Value();
  CHECK(deltas == learner.sent.Value() - kSize);
  for (WeightWorker* worker : {&first, &second, &third}) {
    CHECK(PulledBy(*worker).deltas == deltas);
    CHECK(PulledBy(*worker).all == kSize + deltas);
    CHECK(worker->metrics.weight_source_failures_total.Value() == 0);
    CHECK(worker->metrics.weight_chunks_refused_total.Value() == 0);
  }
  for (const auto& staged : waiting) CHECK((*staged->bytes == Bytes(2)));
}

TEST_CASE("A worker that joins late pulls all of it, and whoever is behind it still gets deltas") {
  Learner learner;
  learner.Publish(1);
  WeightWorker first(learner.address(), {});
  WeightWorker third(learner.address(), {first.address()});
  WeightWorker fourth(learner.address(), {third.address()});
  for (WeightWorker* worker : {&first, &third, &fourth}) worker->Pull(1);
  for (WeightWorker* worker : {&first, &third, &fourth}) worker->CheckWhole(1, Bytes(1));
  WeightWorker late(learner.address(), {first.address()});
  third.SetSources({late.address()});
  learner.Publish(2);
  const double sent = learner.sent.Value();
  for (WeightWorker* worker : {&first, &late, &third, &fourth}) worker->Pull(2);
  for (WeightWorker* worker : {&first, &late, &third, &fourth}) worker->CheckWhole(2, Bytes(2));
  const double deltas = learner.DeltaBytes(2);
  CHECK(learner.sent.Value() - sent == 2 * deltas);  // to the first, and to who is behind the late
  CHECK(PulledBy(late).deltas == 0);
  CHECK(PulledBy(late).all == kSize);
  CHECK(PulledBy(third).deltas == deltas);
  CHECK(PulledBy(fourth).deltas == deltas);
  for (WeightWorker* worker : {&first, &late, &third, &fourth}) {
    CHECK(worker->metrics.weight_source_failures_total.Value() == 0);
  }
}

TEST_CASE("Only a peer without deltas is left: the version comes as it is") {
  Learner learner;
  learner.Publish(1);
  WeightWorker worker(learner.address(), {});
  worker.Pull(1);
  worker.CheckWhole(1, Bytes(1));
  learner.Publish(2);
  WeightWorker late(learner.address(), {});
  late.Pull(2);
  late.CheckWhole(2, Bytes(2));
  WeightWorker behind(learner.address(), {}, absl::Milliseconds(300));
  behind.Pull(1);
  behind.CheckWhole(1, Bytes(1));
  learner.Die();
  behind.SetSources({late.address()});
  behind.Pull(2);
  behind.CheckWhole(2, Bytes(2));
  CHECK(PulledBy(behind).deltas == 0);
  CHECK(PulledBy(behind).all == 2 * kSize);
}

TEST_CASE("A worker that skipped a version, and one whose learner was started again") {
  auto learner = std::make_unique<Learner>();
  learner->Publish(1);
  WeightWorker worker(learner->address(), {});
  worker.Pull(1);
  worker.CheckWhole(1, Bytes(1));
  SECTION("skipped") {
    for (int64_t v : {2, 3}) learner->Publish(v);
    worker.Pull(3);
    worker.CheckWhole(3, Bytes(3));
    CHECK(PulledBy(worker).deltas == 0);
    learner->Publish(4);
    worker.Pull(4);
    worker.CheckWhole(4, Bytes(4));
    CHECK(PulledBy(worker).deltas == learner->DeltaBytes(4));
  }
  SECTION("another learner's version 1 is the base") {
    Learner other(1);
    WeightWorker moved(other.address(), {learner->address()});
    for (uint32_t i = 0; i < kChunks; ++i) {
      const auto held = learner->store.Get(PolicyVersion(1)).value();
      REQUIRE(moved.relay.Begin(learner->Manifest(1))->Put(i, held->Chunk(i)));
    }
    for (int64_t v : {1, 2}) other.Publish(v);
    moved.Pull(2);
    moved.CheckWhole(2, Bytes(2, 1));
    CHECK(PulledBy(moved).deltas == 0);
    CHECK(PulledBy(moved).all == kSize);
  }
}

TEST_CASE("Wrong deltas of a peer are refused, and the chunks asked for as they are") {
  Learner learner;
  learner.Publish(1);
  Liar liar(&learner.store);
  const auto server = Serve(&liar);
  WeightWorker worker(learner.address(), {server->address()});
  worker.Pull(1);
  worker.CheckWhole(1, Bytes(1));
  learner.Publish(2);
  const double sent = learner.sent.Value();
  worker.Pull(2);
  worker.CheckWhole(2, Bytes(2));
  CHECK(worker.metrics.weight_chunks_refused_total.Value() == kChunks);
  CHECK(learner.sent.Value() == sent);
}

TEST_CASE("A manifest whose deltas are not those of its chunks is refused by field") {
  Learner learner;
  for (int64_t v : {1, 2}) learner.Publish(v);
  const v1::WeightManifest good = learner.Manifest(2);
  CHECK(CheckManifest(good, PolicyVersion(2), kSize).ok());
  for (const std::string field : {"base_crc32c", "crc32c", "bytes", "too long"}) {
    v1::WeightManifest bad = good;
    if (field == "base_crc32c") bad.mutable_delta()->mutable_base_crc32c()->RemoveLast();
    if (field == "crc32c") bad.mutable_delta()->add_crc32c(1);
    if (field == "bytes") bad.mutable_delta()->add_bytes(1);
    if (field == "too long") bad.mutable_delta()->set_bytes(3, kChunk);
    const absl::Status status = CheckManifest(bad, PolicyVersion(2), kSize);
    INFO(status);
    CHECK(absl::StrContains(status.message(),
                            field == "too long" ? "delta.bytes" : absl::StrCat("delta.", field)));
  }
}

}  // namespace
}  // namespace crescendo
