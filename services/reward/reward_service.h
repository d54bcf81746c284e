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

#include <map>
#include <memory>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/metrics/life_trace.h"
#include "common/metrics/reward_metrics.h"
#include "common/os/log.h"
#include "common/rpc/message_size.h"
#include "crescendo/v1/reward.grpc.pb.h"
#include "services/reward/audit_log.h"
#include "services/reward/external_reward.h"
#include "services/reward/grading_pool.h"
#include "services/reward/reward_kinds.h"

namespace crescendo {

// Bytes of responses of one stream that wait for a verdict.
inline constexpr size_t kStreamBytesMax = 32u << 20;

// One request to one verdict, with the checks of the edge. `micros` of the response is left to the
// caller.
v1::GradeResponse GradeRequestWith(const RewardKinds& kinds, Grader& grader,
                                   const v1::GradeRequest& request);

// By the kind's name.
using ExternalRewards = std::map<std::string, std::unique_ptr<ExternalReward>>;

// What a service may have beside the built-in kinds; all may be null, and outlive the service.
struct RewardServiceParts {
  const RewardKinds* kinds = nullptr;
  const ExternalRewards* external = nullptr;  // one for each kind that is external
  AuditLog* audit = nullptr;
  LifeTrace* trace = nullptr;  // of answers that say where they come from
};

class RewardServiceImpl final : public v1::RewardService::CallbackService {
 public:
  RewardServiceImpl(GradingPool* pool, RewardMetrics* metrics, Clock* clock,
                    const RewardServiceParts& parts = {}, const Logger& log = NullLogger());
  ~RewardServiceImpl() override;

  // Ends every stream as said above. Streams that come later end at once. Does not block.
  void Drain();

 private:
  using Reactor = grpc::ServerBidiReactor<CheckedMessage<v1::GradeRequest>, v1::GradeResponse>;
  class Stream;

  // Grade. A message that is too large, or none, ends the stream with its status (CheckedMessage).
  Reactor* BeginStream();

  // Who grades a request of an external kind; null for any other.
  ExternalReward* ExternalOf(const v1::GradeRequest& request) const;

  void Note(LifeEvent kind, const v1::GradeRequest& request) const;

  GradingPool& pool_;
  RewardMetrics& metrics_;
  Clock& clock_;
  const RewardKinds built_in_;
  const RewardKinds& kinds_;
  const ExternalRewards* external_;
  AuditLog* audit_;
  LifeTrace* trace_;
  const Logger log_;
  absl::Mutex mutex_;
  absl::flat_hash_set<Stream*> streams_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_REWARD_SERVICE_H_
