// One PullChunks call whose every message has a deadline of its own: gRPC's blocking reader knows
// one for the whole call only. Not thread-safe. Ending it cancels the call and waits until gRPC has
// let go, which is at once.
#ifndef CRESCENDO_SERVICES_ROLLOUT_CHUNK_STREAM_H_
#define CRESCENDO_SERVICES_ROLLOUT_CHUNK_STREAM_H_

#include <memory>

#include <grpcpp/grpcpp.h>

#include "absl/time/time.h"
#include "crescendo/v1/weights.grpc.pb.h"

namespace crescendo {

class ChunkStream {
 public:
  // Begins the call, which lasts until `deadline` at most.
  ChunkStream(v1::WeightsService::Stub* stub, const v1::PullChunksRequest& request,
              absl::Time deadline);
  ~ChunkStream();
  ChunkStream(const ChunkStream&) = delete;
  ChunkStream& operator=(const ChunkStream&) = delete;

  enum class Next { kMessage, kLate, kEnd };
  // Waits for the next message. After kLate the same message is still awaited: call it again, or
  // end the stream. After kEnd, status() says how the call ended.
  Next Read(v1::WeightChunk* message, absl::Duration at_most);
  const grpc::Status& status() const { return status_; }

 private:
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::WeightChunk>> reader_;
  v1::WeightChunk message_;
  bool started_ = false;
  bool pending_ = true;  // an operation is under way: the start, or a read
  bool ended_ = false;
  grpc::Status status_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_CHUNK_STREAM_H_
