// RewardService over gRPC: streams of answers in, verdicts out in any order.
//
// Flow: a stream reads while it has fewer than kGradesInFlightMax answers (and kStreamBytesMax
// bytes) without a verdict; the pool grades them, streams in turn; verdicts are written as they
// come. A stream that is not read from stops being read: that is the back-pressure. Time is counted
// from the moment a grading thread takes an answer. Draining: nothing more is read, what was read
// is answered, then the stream ends with UNAVAILABLE, so that its client asks elsewhere for the
// rest.
//
// Thread-safe. The pool, the metrics and the clock outlive the service, and the service the server.
#ifndef CRESCENDO_SERVICES_REWARD_REWARD_SERVICE_H_
#define CRESCENDO_SERVICES_REWARD_REWARD_SERVICE_H_

#include <cstddef>

#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/metrics/reward_metrics.h"
#include "crescendo/v1/reward.grpc.pb.h"
#include "services/reward/grading_pool.h"

namespace crescendo {

// Bytes of responses of one stream that wait for a verdict.
inline constexpr size_t kStreamBytesMax = 32u << 20;

// One request to one verdict, with the checks of the edge. `micros` of the response is left to the
// caller.
v1::GradeResponse GradeRequestWith(Grader& grader, const v1::GradeRequest& request);

class RewardServiceImpl final : public v1::RewardService::CallbackService {
 public:
  RewardServiceImpl(GradingPool* pool, RewardMetrics* metrics, Clock* clock);
  ~RewardServiceImpl() override;

  grpc::ServerBidiReactor<v1::GradeRequest, v1::GradeResponse>* Grade(
      grpc::CallbackServerContext* context) override;

  // Ends every stream as said above. Streams that come later end at once. Does not block.
  void Drain();

 private:
  class Stream;

  GradingPool& pool_;
  RewardMetrics& metrics_;
  Clock& clock_;
  absl::Mutex mutex_;
  absl::flat_hash_set<Stream*> streams_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_REWARD_SERVICE_H_
