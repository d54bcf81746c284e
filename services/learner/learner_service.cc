#include "services/learner/learner_service.h"

#include <grpcpp/support/method_handler.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/convert/convert.h"
#include "common/rpc/rpc_status.h"
#include "services/learner/chunk_checks.h"

namespace crescendo {

ExperienceServiceImpl::ExperienceServiceImpl(LearnerHost* host) : host_(host) {
  // The method's own handler reads messages that are not checked.
  using Handler =
      grpc::internal::BidiStreamingHandler<ExperienceServiceImpl, CheckedMessage<v1::SampleChunk>,
                                           v1::ChunkAck>;
  MarkMethodStreamed(
      0, new Handler([](ExperienceServiceImpl* service, grpc::ServerContext* context,
                        ChunkStream* stream) { return service->Stream(context, stream); },
                     this));
}

grpc::Status ExperienceServiceImpl::Stream(grpc::ServerContext* context, ChunkStream* stream) {
  const auto cancelled = [context] { return context->IsCancelled(); };
  CheckedMessage<v1::SampleChunk> checked;
  const v1::SampleChunk& message = checked.message;
  while (stream->Read(&checked)) {
    if (!checked.status.ok()) return checked.status;
    absl::StatusOr<SampleChunk> chunk =
        message.ByteSizeLong() > kChunkMessageBytesMax
            ? RefuseField("message", absl::StrCat("expected at most ", kChunkMessageBytesMax,
                                                  " bytes, found ", message.ByteSizeLong()))
            : FromProto(message);
    v1::ChunkAck answer;
    if (!chunk.ok()) {
      host_->CountMalformed();
      answer.set_group_id(message.group_id());
      answer.set_sample(message.sample());
      answer.set_outcome(v1::ChunkAck::OUTCOME_REFUSED);
      answer.set_message(std::string(chunk.status().message()));
    } else {
      const absl::StatusOr<ChunkAck> ack = host_->Accept(*std::move(chunk), cancelled);
      if (!ack.ok()) return ToGrpc(ack.status());
      answer = ToProto(*ack);
    }
    if (!stream->Write(answer)) break;
  }
  return grpc::Status::OK;
}

grpc::Status ExperienceServiceImpl::Resume(grpc::ServerContext*, const v1::ResumeRequest* request,
                                           v1::ResumeResponse* response) {
  *response = ToProto(host_->Resume(GroupId(request->group_id())));
  return grpc::Status::OK;
}

grpc::Status LearnerServiceImpl::Checkpoint(grpc::ServerContext*, const v1::CheckpointRequest*,
                                            v1::CheckpointResponse* response) {
  const LearnerHost::Progress progress = host_->RequestCheckpoint();
  response->set_steps_trained(progress.steps_trained);
  response->set_steps_checkpointed(progress.steps_checkpointed);
  return grpc::Status::OK;
}

grpc::Status WeightsServiceImpl::GetManifest(grpc::ServerContext*,
                                             const v1::GetManifestRequest* request,
                                             v1::WeightManifest* response) {
  const auto weights = weights_->Get(PolicyVersion(request->version()));
  if (!weights.ok()) return ToGrpc(weights.status());
  response->set_version((*weights)->version.value());
  for (const PublishedTensor& tensor : (*weights)->tensors) {
    v1::WeightTensor* out = response->add_tensors();
    out->set_name(tensor.name);
    out->set_dtype(tensor.dtype);
    for (int64_t size : tensor.shape) out->add_shape(size);
    out->set_offset(tensor.offset);
    out->set_bytes(tensor.bytes);
  }
  response->set_total_bytes((*weights)->bytes.size());
  response->set_chunk_bytes((*weights)->chunk_bytes);
  for (uint32_t crc : (*weights)->chunk_crc32c) response->add_chunk_crc32c(crc);
  response->set_learner_incarnation(incarnation_());
  if (const std::optional<PublishedDelta>& delta = (*weights)->delta; delta.has_value()) {
    v1::WeightDelta* out = response->mutable_delta();
    out->set_base_version(delta->base_version.value());
    for (uint32_t crc : delta->base_crc32c) out->add_base_crc32c(crc);
    for (const std::string& chunk : delta->chunks) {
      out->add_bytes(static_cast<uint32_t>(chunk.size()));
    }
    for (uint32_t crc : delta->crc32c) out->add_crc32c(crc);
  }
  return grpc::Status::OK;
}

grpc::Status WeightsServiceImpl::PullChunks(grpc::ServerContext*,
                                            const v1::PullChunksRequest* request,
                                            grpc::ServerWriter<v1::WeightChunk>* writer) {
  const auto found = weights_->Get(PolicyVersion(request->version()));
  if (!found.ok()) return ToGrpc(found.status());
  const PublishedWeights& weights = **found;
  if (!request->learner_incarnation().empty() && request->learner_incarnation() != incarnation_()) {
    return ToGrpc(absl::NotFoundError(
        absl::StrCat("weights of version ", weights.version.value(), ": expected those of learner ",
                     request->learner_incarnation(), ", found ", incarnation_())));
  }
  const uint64_t end = uint64_t{request->first_chunk()} + request->chunks();
  if (end > weights.chunks()) {
    return ToGrpc(absl::OutOfRangeError(
        absl::StrCat("weights of version ", weights.version.value(), ": chunks: expected at most ",
                     weights.chunks(), ", asked for ", request->first_chunk(), " to ", end)));
  }
  for (uint32_t i = request->first_chunk(); i < end; ++i) {
    const bool as_delta =
        request->deltas() && weights.delta.has_value() && !weights.delta->chunks[i].empty();
    const absl::string_view data = as_delta ? weights.delta->chunks[i] : weights.Chunk(i);
    v1::WeightChunk chunk;
    chunk.set_version(weights.version.value());
    chunk.set_index(i);
    chunk.set_data(data.data(), data.size());
    chunk.set_crc32c(as_delta ? weights.delta->crc32c[i] : weights.chunk_crc32c[i]);
    chunk.set_delta(as_delta);
    if (!writer->Write(chunk)) {
      return grpc::Status(grpc::StatusCode::CANCELLED, "the receiver left");
    }
    sent_bytes_->Increment(static_cast<double>(data.size()));
    if (as_delta) sent_delta_bytes_->Increment(static_cast<double>(data.size()));
  }
  return grpc::Status::OK;
}

}  // namespace crescendo
