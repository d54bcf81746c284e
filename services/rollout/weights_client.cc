#include "services/rollout/weights_client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"

namespace crescendo {
namespace {

constexpr int kRounds = 4;          // passes over the missing chunks of one manifest, at one source
constexpr size_t kSourcesMax = 16;  // addresses that are kept
// A chunk stream's deadline: what a slow link (1 MB/s) needs, and the plain deadline.
constexpr double kBytesPerSecondMin = 1e6;

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

WeightsClient::WeightsClient(const WorkerContext& context, uint64_t bytes_max,
                             std::function<void(std::unique_ptr<StagedWeights>)> stage)
    : context_(context),
      bytes_max_(bytes_max),
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
    absl::Status failure;
    for (const std::string& address : Sources()) {
      absl::StatusOr<std::unique_ptr<StagedWeights>> weights = PullFrom(address, version);
      if (weights.ok()) {
        watch_.Ok();
        const absl::Duration took = context_.clock->Now() - start;
        context_.metrics->weight_pull_seconds.Observe(absl::ToDoubleSeconds(took));
        context_.metrics->weight_bytes_total.Increment(
            static_cast<double>((*weights)->bytes.size()));
        const std::string incarnation = (*weights)->learner_incarnation;
        stage_(*std::move(weights));
        context_.post([version, incarnation](RolloutCore& core) {
          core.OnWeightsReady(version, incarnation);
        });
        return;
      }
      // Of several failures the one that is not "not held" is the one to wait out.
      if (failure.ok() || failure.code() == absl::StatusCode::kNotFound) failure = weights.status();
      if (Superseded(version)) return;
    }
    if (failure.code() == absl::StatusCode::kNotFound) {
      context_.post([version, reason = std::string(failure.message())](RolloutCore& core) {
        core.OnWeightsUnavailable(version, reason);
      });
      return;
    }
    const absl::Duration wait = watch_.Failed(absl::StrCat("version ", version.value()), failure);
    if (context_.stop->WaitFor(wait)) return;
  }
}

absl::StatusOr<v1::WeightsService::Stub*> WeightsClient::StubOf(const std::string& address) {
  const auto it = stubs_.find(address);
  if (it != stubs_.end()) return it->second.get();
  if (stubs_.size() >= 4 * kSourcesMax) stubs_.clear();  // peers that came and went
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                   MakeChannel(address, "weight source", context_.peers.insecure));
  return (stubs_[address] = v1::WeightsService::NewStub(channel)).get();
}

absl::StatusOr<std::unique_ptr<StagedWeights>> WeightsClient::PullFrom(const std::string& address,
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
  auto weights = std::make_unique<StagedWeights>();
  weights->version = version;
  weights->learner_incarnation = manifest.learner_incarnation();
  for (const v1::WeightTensor& tensor : manifest.tensors()) {
    weights->tensors.push_back(StagedTensor{tensor.name(),
                                            tensor.dtype(),
                                            {tensor.shape().begin(), tensor.shape().end()},
                                            tensor.offset(),
                                            tensor.bytes()});
  }
  weights->bytes.resize(manifest.total_bytes());
  std::vector<bool> have(manifest.chunk_crc32c_size(), false);
  absl::Status status;
  for (int round = 0; round < kRounds; ++round) {
    if (Superseded(version)) return absl::CancelledError("another version is wanted");
    status = PullMissing(stub, address, manifest, &have, weights.get());
    if (status.code() == absl::StatusCode::kNotFound) return status;
    if (std::find(have.begin(), have.end(), false) == have.end()) return weights;
  }
  if (status.ok()) status = absl::DataLossError("chunks are missing or broken after all tries");
  return Annotate(status, absl::StrCat(address, ", version ", version.value()));
}

absl::Status WeightsClient::PullMissing(v1::WeightsService::Stub* stub, const std::string& address,
                                        const v1::WeightManifest& manifest, std::vector<bool>* have,
                                        StagedWeights* weights) {
  const auto first = std::find(have->begin(), have->end(), false);
  const auto end = std::find(first, have->end(), true);
  v1::PullChunksRequest request;
  request.set_version(manifest.version());
  request.set_first_chunk(static_cast<uint32_t>(first - have->begin()));
  request.set_chunks(static_cast<uint32_t>(end - first));
  grpc::ClientContext context;
  const absl::Duration timeout =
      context_.peers.rpc_timeout +
      absl::Seconds(static_cast<double>(manifest.total_bytes()) / kBytesPerSecondMin);
  const absl::Time start = RealNow();
  context.set_deadline(absl::ToChronoTime(start + timeout));
  const auto reader = stub->PullChunks(&context, request);
  v1::WeightChunk chunk;
  while (reader->Read(&chunk)) {
    const uint64_t index = chunk.index();
    if (index < have->size()) {
      const uint64_t offset = index * manifest.chunk_bytes();
      const uint64_t size =
          std::min<uint64_t>(manifest.chunk_bytes(), manifest.total_bytes() - offset);
      const uint32_t expected = manifest.chunk_crc32c(static_cast<int>(index));
      if (chunk.version() == manifest.version() && chunk.data().size() == size &&
          Crc32c(chunk.data()) == expected) {
        std::memcpy(weights->bytes.data() + offset, chunk.data().data(), size);
        (*have)[index] = true;
      } else {
        context_.metrics->weight_chunks_refused_total.Increment();
        context_.log.Warn("weight chunk refused, asked for again",
                          {{"from", address}, {"chunk", index}, {"version", manifest.version()}});
      }
    }
    if (Superseded(weights->version)) context.TryCancel();
  }
  const grpc::Status status = reader->Finish();
  if (status.ok()) return absl::OkStatus();
  return DescribeFailure(status, absl::StrCat(address, " for chunks"), RealNow() - start);
}

}  // namespace crescendo
