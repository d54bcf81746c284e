// Finished answers to the reward service and verdicts back: one bidirectional stream, opened again
// when it breaks. A break is reported as OnRewardReset; the core then asks anew for what has no
// verdict.
//
// Thread-safe. Results go to the core as events.
#ifndef CRESCENDO_SERVICES_ROLLOUT_REWARD_CLIENT_H_
#define CRESCENDO_SERVICES_ROLLOUT_REWARD_CLIENT_H_

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/base/bounded_queue.h"
#include "crescendo/v1/reward.grpc.pb.h"
#include "services/rollout/peer_stream.h"
#include "services/rollout/prompt_codec.h"
#include "services/rollout/worker_context.h"

namespace crescendo {

class RewardClient {
 public:
  // `codec` outlives the client.
  RewardClient(const WorkerContext& context, std::shared_ptr<grpc::Channel> channel,
               const PromptCodec* codec);
  ~RewardClient();
  void Start();
  // Never blocks: false when the queue is full.
  bool Grade(RequestGrade request);
  // Ends the threads. The stop flag must be set.
  void Stop();
  std::string Awaiting() const { return watch_.Awaiting(); }

 private:
  using GradeStream = PeerStream<v1::GradeRequest, v1::GradeResponse>;
  void Loop();
  void Write(const RequestGrade& request);
  bool Open();
  void TakeVerdict(const v1::GradeResponse& message);
  void OnBreak();

  const WorkerContext context_;
  const PromptCodec* const codec_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::RewardService::Stub> stub_;
  PeerWatch watch_;
  BoundedQueue<RequestGrade> queue_;
  // Requests with smaller ids are void: they were asked anew after a break.
  std::atomic<uint64_t> void_below_{0};
  std::unique_ptr<GradeStream> stream_;  // of the writing thread
  std::thread thread_;
  absl::Mutex mutex_;
  struct Asked {
    absl::Time time;
    GroupId group;
    uint32_t sample = 0;
  };
  absl::flat_hash_map<uint64_t, Asked> asked_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_REWARD_CLIENT_H_
