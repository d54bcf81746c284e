#include "services/rollout/relay_service.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/rpc/rpc_status.h"

namespace crescendo {
namespace {

constexpr absl::Duration kVersionWait = absl::Seconds(2);
constexpr absl::Duration kSign =
    absl::Seconds(1);  // between signs of life while a chunk is awaited
constexpr absl::Duration kLook = absl::Milliseconds(200);  // whether the caller has left

grpc::Status NotKept(const WeightRelay& relay, int64_t version) {
  return ToGrpc(absl::NotFoundError(absl::StrCat(
      "weights of version ", version, " are not held by this worker; held: ", relay.Kept())));
}

std::shared_ptr<const RelayedVersion> Await(const WeightRelay& relay, grpc::ServerContext* context,
                                            int64_t version, const std::string& incarnation) {
  std::shared_ptr<const RelayedVersion> kept;
  for (absl::Duration waited; kept == nullptr && waited < kVersionWait; waited += kLook) {
    if (context->IsCancelled()) break;
    kept = relay.Await(PolicyVersion(version), incarnation, kLook);
  }
  return kept;
}

}  // namespace

grpc::Status RelayServiceImpl::GetManifest(grpc::ServerContext*,
                                           const v1::GetManifestRequest* request,
                                           v1::WeightManifest* response) {
  const auto kept = relay_->Await(PolicyVersion(request->version()), "", absl::ZeroDuration());
  if (kept == nullptr) return NotKept(*relay_, request->version());
  *response = kept->manifest();
  return grpc::Status::OK;
}

grpc::Status RelayServiceImpl::PullChunks(grpc::ServerContext* context,
                                          const v1::PullChunksRequest* request,
                                          grpc::ServerWriter<v1::WeightChunk>* writer) {
  const auto kept = Await(*relay_, context, request->version(), request->learner_incarnation());
  if (kept == nullptr) return NotKept(*relay_, request->version());
  const uint64_t end = uint64_t{request->first_chunk()} + request->chunks();
  if (end > kept->chunks()) {
    return ToGrpc(absl::OutOfRangeError(absl::StrCat(
        "weights of version ", kept->manifest().version(), ": chunks: expected at most ",
        kept->chunks(), ", asked for ", request->first_chunk(), " to ", end)));
  }
  if (request->deltas() && !kept->has_deltas()) {
    return ToGrpc(absl::FailedPreconditionError(absl::StrCat(
        "weights of version ", kept->manifest().version(), ": held here without deltas")));
  }
  grpc::Status left(grpc::StatusCode::CANCELLED, "the receiver left");
  absl::Duration silent;
  for (uint32_t i = request->first_chunk(); i < end;) {
    v1::WeightChunk chunk;
    chunk.set_version(kept->manifest().version());
    chunk.set_index(i);
    RelayedVersion::Chunk held;
    const RelayedVersion::Found found = kept->AwaitChunk(i, request->deltas(), kLook, &held);
    if (found == RelayedVersion::Found::kGone) {
      return ToGrpc(absl::UnavailableError(
          absl::StrCat("weights of version ", kept->manifest().version(), ": given up here")));
    }
    if (context->IsCancelled()) return left;
    if (found == RelayedVersion::Found::kNotYet) {
      silent += kLook;
      if (silent < kSign) continue;
    } else {
      const v1::WeightManifest& manifest = kept->manifest();
      const auto index = static_cast<int>(i++);
      chunk.set_data(held.data.data(), held.data.size());
      chunk.set_delta(held.delta);
      chunk.set_crc32c(held.delta ? manifest.delta().crc32c(index) : manifest.chunk_crc32c(index));
    }
    silent = absl::ZeroDuration();
    if (!writer->Write(chunk)) return left;
    relayed_bytes_->Increment(static_cast<double>(held.data.size()));
  }
  return grpc::Status::OK;
}

}  // namespace crescendo
