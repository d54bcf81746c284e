// Samples to the learner: one bidirectional stream, opened again when it breaks, and Resume calls.
//
// The core numbers the streams; what belongs to a number below the newest is void and is dropped
// here. A stream that breaks is reported as OnLearnerReset; the core then asks for Resume, which is
// tried until the learner answers. One thread writes, one reads each stream's acks.
//
// Thread-safe. Results go to the core as events.
#ifndef CRESCENDO_SERVICES_ROLLOUT_EXPERIENCE_CLIENT_H_
#define CRESCENDO_SERVICES_ROLLOUT_EXPERIENCE_CLIENT_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <variant>

#include <grpcpp/grpcpp.h>

#include "common/base/bounded_queue.h"
#include "crescendo/v1/experience.grpc.pb.h"
#include "services/rollout/peer_stream.h"
#include "services/rollout/worker_context.h"

namespace crescendo {

class ExperienceClient {
 public:
  // `on_broken` is called when a stream breaks (a heartbeat then tells whether the learner is
  // another).
  ExperienceClient(const WorkerContext& context, std::shared_ptr<grpc::Channel> channel,
                   std::function<void()> on_broken);
  ~ExperienceClient();
  void Start();
  // Never block: false when the queue is full.
  bool Send(SendChunk chunk);
  bool Resume(const RequestResume& request);
  // Ends the threads. The stop flag must be set.
  void Stop();
  std::string Awaiting() const { return watch_.Awaiting(); }

 private:
  using SampleStream = PeerStream<v1::SampleChunk, v1::ChunkAck>;
  void Loop();
  void Write(const SendChunk& chunk);
  bool Open(uint64_t number);
  bool TakeAck(uint64_t number, const v1::ChunkAck& message);
  void OnBreak(uint64_t number);
  void CallResume(const RequestResume& request);
  void Newest(uint64_t number);

  const WorkerContext context_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::ExperienceService::Stub> stub_;
  const std::function<void()> on_broken_;
  PeerWatch watch_;
  BoundedQueue<std::variant<SendChunk, RequestResume>> queue_;
  std::atomic<uint64_t> newest_{0};
  std::unique_ptr<SampleStream> stream_;  // of the writing thread
  uint64_t number_ = 0;                   // of the stream
  std::thread thread_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_EXPERIENCE_CLIENT_H_
