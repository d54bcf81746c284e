#include "services/rollout/chunk_stream.h"

#include <utility>

#include "common/os/posix_env.h"

namespace crescendo {

ChunkStream::ChunkStream(v1::WeightsService::Stub* stub, const v1::PullChunksRequest& request,
                         absl::Time deadline) {
  context_.set_deadline(absl::ToChronoTime(deadline));
  reader_ = stub->PrepareAsyncPullChunks(&context_, request, &queue_);
  reader_->StartCall(this);
}

ChunkStream::~ChunkStream() {
  context_.TryCancel();
  void* tag = nullptr;
  bool ok = false;
  if (pending_) queue_.Next(&tag, &ok);
  if (!ended_) {
    reader_->Finish(&status_, this);
    queue_.Next(&tag, &ok);
  }
  queue_.Shutdown();
  while (queue_.Next(&tag, &ok)) {
  }
}

ChunkStream::Next ChunkStream::Read(v1::WeightChunk* message, absl::Duration at_most) {
  const absl::Time until = RealNow() + at_most;
  while (!ended_) {
    if (!pending_) {
      reader_->Read(&message_, this);
      pending_ = true;
    }
    void* tag = nullptr;
    bool ok = false;
    const auto got = queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(until));
    if (got == grpc::CompletionQueue::TIMEOUT) return Next::kLate;
    pending_ = false;
    if (!ok) {  // the call has ended; Finish has what to say at once
      reader_->Finish(&status_, this);
      queue_.Next(&tag, &ok);
      ended_ = true;
      break;
    }
    if (!started_) {
      started_ = true;
      continue;
    }
    std::swap(*message, message_);
    return Next::kMessage;
  }
  return Next::kEnd;
}

}  // namespace crescendo
