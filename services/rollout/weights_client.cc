#include "services/rollout/weights_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "services/rollout/chunk_stream.h"

namespace crescendo {
namespace {

constexpr int kRounds = 4;          // streams in a row that bring nothing, at one source
constexpr size_t kSourcesMax = 16;  // addresses that are kept
// What a slow link needs for a chunk or a version, on top of the plain deadline.
constexpr double kBytesPerSecondMin = 1e6;
// A source that has shown how fast it is.
constexpr double kGapsLate = 8;
constexpr absl::Duration kLateMin = absl::Seconds(2);
constexpr absl::Duration kLook = absl::Milliseconds(100);  // whether the version is still wanted
// For the first connection. A channel's first attempt has 100 ms, too little for a busy machine,
// and who leaves its source for the learner halves the learner's link.
constexpr absl::Duration kConnect = absl::Seconds(2);

absl::Duration SlowLink(uint64_t bytes) {
  return absl::Seconds(static_cast<double>(bytes) / kBytesPerSecondMin);
}

// Of `chunks` chunks of at most `chunk_bytes`; the field that is wrong, or empty.
std::string WrongDeltaField(const v1::WeightDelta& delta, uint64_t chunks, uint64_t chunk_bytes) {
  const auto count = static_cast<int>(chunks);
  if (delta.base_crc32c_size() != count) return "delta.base_crc32c";
  if (delta.crc32c_size() != count) return "delta.crc32c";
  const bool small = std::all_of(delta.bytes().begin(), delta.bytes().end(),
                                 [&](uint64_t bytes) { return bytes < chunk_bytes; });
  return delta.bytes_size() == count && small ? "" : "delta.bytes";
}

}  // namespace

absl::Status CheckManifest(const v1::WeightManifest& manifest, PolicyVersion version,
                           uint64_t bytes_max) {
  const auto fail = [&](absl::string_view field, const std::string& expected, uint64_t found) {
    return absl::InvalidArgumentError(absl::StrCat("manifest of version ", version.value(),
                                                   ": field '", field, "': expected ", expected,
                                                   ", found ", found));
  };
  if (manifest.version() != version.value()) {
    return fail("version", absl::StrCat(version.value()), manifest.version());
  }
  const uint64_t total = manifest.total_bytes();
  if (total == 0 || total > bytes_max) {
    return fail("total_bytes", absl::StrCat("1 to ", bytes_max), total);
  }
  const uint64_t chunk = manifest.chunk_bytes();
  if (chunk == 0 || chunk > limits::kWeightChunkBytes) {
    return fail("chunk_bytes", absl::StrCat("1 to ", limits::kWeightChunkBytes), chunk);
  }
  const uint64_t chunks = (total + chunk - 1) / chunk;
  if (static_cast<uint64_t>(manifest.chunk_crc32c_size()) != chunks) {
    return fail("chunk_crc32c", absl::StrCat(chunks, " checksums"), manifest.chunk_crc32c_size());
  }
  if (manifest.has_delta()) {
    const std::string wrong = WrongDeltaField(manifest.delta(), chunks, chunk);
    if (!wrong.empty()) {
      return fail(wrong, absl::StrCat(chunks, " of chunks of ", chunk, " bytes"),
                  manifest.delta().bytes_size());
    }
  }
  uint64_t offset = 0;
  for (const v1::WeightTensor& tensor : manifest.tensors()) {
    if (tensor.offset() != offset || tensor.bytes() > total - offset) {
      return fail(absl::StrCat("tensors: ", tensor.name().substr(0, 200)),
                  absl::StrCat("to begin at ", offset, " and end by ", total), tensor.offset());
    }
    offset += tensor.bytes();
  }
  if (offset != total) return fail("tensors", absl::StrCat(total, " bytes in all"), offset);
  return absl::OkStatus();
}

WeightsClient::WeightsClient(const WorkerContext& context, uint64_t bytes_max, WeightRelay* relay,
                             std::function<void(std::unique_ptr<StagedWeights>)> stage)
    : context_(context),
      bytes_max_(bytes_max),
      relay_(relay),
      stage_(std::move(stage)),
      watch_("weights", context.clock, context.log, &context.metrics->learner_failures_total) {}

WeightsClient::~WeightsClient() { Stop(); }

void WeightsClient::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void WeightsClient::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void WeightsClient::SetSources(std::vector<std::string> sources) {
  if (sources.size() > kSourcesMax) sources.resize(kSourcesMax);
  absl::MutexLock lock(&mutex_);
  sources_ = std::move(sources);
}

std::vector<std::string> WeightsClient::Sources() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> sources = sources_;
  if (std::find(sources.begin(), sources.end(), context_.peers.learner) == sources.end()) {
    sources.push_back(context_.peers.learner);
  }
  return sources;
}

void WeightsClient::Pull(const PullWeights& pull) {
  absl::MutexLock lock(&mutex_);
  target_ = pull.version;
  ++asked_;
}

bool WeightsClient::Superseded(PolicyVersion version) const {
  absl::MutexLock lock(&mutex_);
  return closed_ || target_ != version;
}

void WeightsClient::Loop() {
  uint64_t served = 0;
  while (true) {
    PolicyVersion version;
    {
      absl::MutexLock lock(&mutex_);
      const auto wanted = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return closed_ || asked_ != served;
      };
      mutex_.Await(absl::Condition(&wanted));
      if (closed_) return;
      served = asked_;
      version = target_;
    }
    PullUntilDone(version);
  }
}

void WeightsClient::PullUntilDone(PolicyVersion version) {
  const absl::Time start = context_.clock->Now();
  while (!Superseded(version)) {
    const absl::Status status = PullVersion(version);
    if (status.ok()) {
      watch_.Ok();
      const absl::Duration took = context_.clock->Now() - start;
      context_.metrics->weight_pull_seconds.Observe(absl::ToDoubleSeconds(took));
      return;
    }
    if (Superseded(version)) return;
    if (status.code() == absl::StatusCode::kNotFound) {
      context_.post([version, reason = std::string(status.message())](RolloutCore& core) {
        core.OnWeightsUnavailable(version, reason);
      });
      return;
    }
    const absl::Duration wait = watch_.Failed(absl::StrCat("version ", version.value()), status);
    if (context_.stop->WaitFor(wait)) return;
  }
}

absl::StatusOr<v1::WeightsService::Stub*> WeightsClient::StubOf(const std::string& address) {
  const auto it = stubs_.find(address);
  if (it != stubs_.end()) return it->second.get();
  if (stubs_.size() >= 4 * kSourcesMax) stubs_.clear();  // peers that came and went
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                   MakeChannel(address, "weight source", context_.peers.transport,
                               {Role::kLearner, Role::kRollout}));
  // Whether it came about, the call itself tells.
  (void)AwaitConnected(*channel, "weight source", address, kConnect,
                       [this] { return context_.stop->IsSet(); });
  return (stubs_[address] = v1::WeightsService::NewStub(channel)).get();
}

absl::StatusOr<v1::WeightManifest> WeightsClient::ManifestOf(const std::string& address,
                                                             PolicyVersion version) {
  ASSIGN_OR_RETURN(v1::WeightsService::Stub * stub, StubOf(address));
  v1::GetManifestRequest request;
  request.set_version(version.value());
  v1::WeightManifest manifest;
  RETURN_IF_ERROR(Call(context_.peers.rpc_timeout,
                       absl::StrCat(address, " for the manifest of version ", version.value()),
                       [&](grpc::ClientContext* context) {
                         return stub->GetManifest(context, request, &manifest);
                       }));
  RETURN_IF_ERROR(Annotate(CheckManifest(manifest, version, bytes_max_), address));
  return manifest;
}

// The learner's, or of whoever has one. NOT_FOUND: all answered that they have none.
absl::StatusOr<v1::WeightManifest> WeightsClient::GetManifest(PolicyVersion version) {
  std::vector<std::string> sources = Sources();
  std::reverse(sources.begin(), sources.end());
  absl::Status failure;
  for (const std::string& address : sources) {
    absl::StatusOr<v1::WeightManifest> manifest = ManifestOf(address, version);
    if (manifest.ok()) return manifest;
    // Of several failures the one that is not "not held" is the one to wait out.
    if (failure.ok() || failure.code() == absl::StatusCode::kNotFound) failure = manifest.status();
    if (Superseded(version)) break;
  }
  return failure;
}

absl::Status WeightsClient::PullVersion(PolicyVersion version) {
  ASSIGN_OR_RETURN(const v1::WeightManifest manifest, GetManifest(version));
  const std::shared_ptr<RelayedVersion> weights = relay_->Begin(manifest);
  absl::Status status = PullFromAll(weights.get());
  if (Superseded(version)) {
    if (!weights->Whole()) weights->GiveUp();
    return absl::CancelledError("another version is wanted");
  }
  if (!weights->Whole()) return status;
  HandOn(*weights);
  return absl::OkStatus();
}

// From each source in turn, until the version is whole: those that have it without deltas are asked
// again when none is left that has them. The last failure.
absl::Status WeightsClient::PullFromAll(RelayedVersion* weights) {
  const PolicyVersion version(weights->manifest().version());
  std::vector<std::string> sources = Sources(), without_deltas;
  absl::Status status;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (weights->Whole() || Superseded(version)) break;
    const absl::Status pulled = PullFrom(sources[i], weights);
    if (pulled.code() == absl::StatusCode::kFailedPrecondition && weights->FirstMissing().deltas) {
      without_deltas.push_back(sources[i]);
    } else {
      status = pulled;
      if (!status.ok() && !weights->Whole() && !Superseded(version)) {
        context_.metrics->weight_source_failures_total.Increment();
        context_.log.Warn("weight source failed, the next one is asked",
                          {{"from", sources[i]}, {"version", version.value()}, {"status", status}});
      }
    }
    if (i + 1 == sources.size() && !without_deltas.empty()) {
      weights->RefuseDeltas();
      sources.insert(sources.end(), without_deltas.begin(), without_deltas.end());
      without_deltas.clear();
    }
  }
  return status;
}

void WeightsClient::HandOn(const RelayedVersion& weights) {
  auto staged = std::make_unique<StagedWeights>();
  const PolicyVersion version(weights.manifest().version());
  const std::string incarnation = weights.manifest().learner_incarnation();
  staged->version = version;
  staged->learner_incarnation = incarnation;
  for (const v1::WeightTensor& tensor : weights.manifest().tensors()) {
    staged->tensors.push_back(StagedTensor{tensor.name(),
                                           tensor.dtype(),
                                           {tensor.shape().begin(), tensor.shape().end()},
                                           tensor.offset(),
                                           tensor.bytes()});
  }
  staged->bytes = weights.bytes();
  stage_(std::move(staged));
  context_.post(
      [version, incarnation](RolloutCore& core) { core.OnWeightsReady(version, incarnation); });
}

absl::Status WeightsClient::PullFrom(const std::string& address, RelayedVersion* weights) {
  if (address == context_.identity.address) {
    return absl::NotFoundError(absl::StrCat(address, " is this worker itself"));
  }
  ASSIGN_OR_RETURN(v1::WeightsService::Stub * stub, StubOf(address));
  const PolicyVersion version(weights->manifest().version());
  absl::Status status;
  for (int idle = 0; idle < kRounds && !weights->Whole();) {
    if (Superseded(version)) return absl::CancelledError("another version is wanted");
    const size_t missing = weights->missing();
    status = PullRun(stub, address, weights);
    const bool progress = weights->missing() < missing;
    // A source that is gone or late is not asked again; one that sent something may go on.
    if (!status.ok() && !progress) break;
    idle = progress ? 0 : idle + 1;
  }
  if (weights->Whole()) return absl::OkStatus();
  if (status.ok()) status = absl::DataLossError("chunks are missing or broken after all tries");
  return Annotate(status, absl::StrCat(address, ", version ", version.value()));
}

// One stream for the first run of chunks that are missing.
absl::Status WeightsClient::PullRun(v1::WeightsService::Stub* stub, const std::string& address,
                                    RelayedVersion* weights) {
  const v1::WeightManifest& manifest = weights->manifest();
  const PolicyVersion version(manifest.version());
  const RelayedVersion::Run run = weights->FirstMissing();
  v1::PullChunksRequest request;
  request.set_version(manifest.version());
  request.set_first_chunk(run.begin);
  request.set_chunks(run.end - run.begin);
  request.set_deltas(run.deltas);
  request.set_learner_incarnation(manifest.learner_incarnation());
  const absl::Duration plain = context_.peers.rpc_timeout;
  const absl::Duration slow = plain + SlowLink(manifest.chunk_bytes());
  const absl::Time start = RealNow();
  ChunkStream stream(stub, request, start + plain + SlowLink(manifest.total_bytes()));
  absl::Time sign = start, data = start;  // when the source last said something, or sent a chunk
  absl::Duration longest_gap;
  v1::WeightChunk chunk;
  while (true) {
    const ChunkStream::Next next = stream.Read(&chunk, kLook);
    if (Superseded(version)) return absl::CancelledError("another version is wanted");
    const absl::Time now = RealNow();
    if (next == ChunkStream::Next::kEnd) break;
    if (next == ChunkStream::Next::kLate) {
      const absl::Duration known = std::max(kLateMin, longest_gap * kGapsLate);
      const absl::Duration silence =
          longest_gap > absl::ZeroDuration() ? std::min(known, slow) : slow;
      if (now - sign > silence || now - data > 2 * slow) {
        return absl::DeadlineExceededError(
            absl::StrCat(address, ": no chunk ", weights->FirstMissing().begin, " for ",
                         absl::FormatDuration(absl::Trunc(now - data, absl::Milliseconds(1)))));
      }
      continue;
    }
    sign = now;
    if (chunk.data().empty()) continue;  // it waits for the chunk itself
    longest_gap = std::max(longest_gap, now - data);
    data = now;
    Take(chunk, address, weights);
  }
  if (stream.status().ok()) return absl::OkStatus();
  return DescribeFailure(stream.status(), absl::StrCat(address, " for chunks"), RealNow() - start);
}

void WeightsClient::Take(const v1::WeightChunk& chunk, const std::string& address,
                         RelayedVersion* weights) {
  const auto bytes = static_cast<double>(chunk.data().size());
  context_.metrics->weight_bytes_total.Increment(bytes);
  if (chunk.delta()) context_.metrics->weight_delta_bytes_total.Increment(bytes);
  const int64_t version = weights->manifest().version();
  if (chunk.version() == version && (chunk.delta() ? weights->PutDelta(chunk.index(), chunk.data())
                                                   : weights->Put(chunk.index(), chunk.data()))) {
    return;
  }
  context_.metrics->weight_chunks_refused_total.Increment();
  context_.log.Warn("weight chunk refused, asked for again", {{"from", address},
                                                              {"chunk", chunk.index()},
                                                              {"delta", chunk.delta()},
                                                              {"version", version}});
}

}  // namespace crescendo
