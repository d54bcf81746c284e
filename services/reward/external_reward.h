// A kind of reward that another server grades: any implementation of RewardService, in any
// language.
//
// Answers go out on one stream and are matched by id. When the stream breaks, what has no verdict
// yet is asked again on a new one, until its time is up; then it is undecided with the reason
// "unavailable". Thread-safe. Owns two threads; `clock` outlives it.
#ifndef CRESCENDO_SERVICES_REWARD_EXTERNAL_REWARD_H_
#define CRESCENDO_SERVICES_REWARD_EXTERNAL_REWARD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/bounded_queue.h"
#include "common/base/clock.h"
#include "crescendo/v1/reward.grpc.pb.h"
#include "services/reward/reward_kinds.h"

namespace crescendo {

inline constexpr size_t kExternalInFlightMax = 65536;

class ExternalReward {
 public:
  using Done = std::function<void(v1::GradeResponse)>;

  // InvalidArgument or FailedPrecondition for an address that cannot be used; does not connect yet.
  static absl::StatusOr<std::unique_ptr<ExternalReward>> Make(const RewardKind& kind, Clock* clock);
  ~ExternalReward();  // what has no verdict is answered as unavailable
  ExternalReward(const ExternalReward&) = delete;
  ExternalReward& operator=(const ExternalReward&) = delete;

  // Calls `done` once, from a thread of this object or from the caller's. Does not block.
  void Submit(v1::GradeRequest request, Done done);

 private:
  struct Asked {
    v1::GradeRequest request;  // with the id of this object
    uint64_t caller_id = 0;
    Done done;
    absl::Time deadline;
    bool written = false;
  };
  struct Stream;

  ExternalReward(RewardKind kind, std::shared_ptr<grpc::Channel> channel, Clock* clock);
  void Loop();
  void Write(uint64_t id);
  bool EnsureStream(absl::Time deadline);
  void CloseStream();
  void Read(Stream* stream);
  void ExpireOverdue(bool all);
  void Complete(Asked asked, v1::GradeResponse response);

  const RewardKind kind_;
  const std::shared_ptr<grpc::Channel> channel_;
  Clock& clock_;
  const std::unique_ptr<v1::RewardService::Stub> stub_;
  BoundedQueue<uint64_t> queue_;
  absl::Mutex mutex_;
  std::map<uint64_t, Asked> asked_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::unique_ptr<Stream> stream_;  // of the loop's thread
  std::thread thread_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_EXTERNAL_REWARD_H_
