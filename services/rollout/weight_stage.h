// The place where a verified policy version waits for its swap: one at most. What a model runner
// has of it, whatever the device.
//
// Thread rule: thread-safe; SwapInto runs `load` on the calling thread, without the lock.
#ifndef CRESCENDO_SERVICES_ROLLOUT_WEIGHT_STAGE_H_
#define CRESCENDO_SERVICES_ROLLOUT_WEIGHT_STAGE_H_

#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "common/base/ids.h"
#include "common/model/policy_model.h"
#include "services/rollout/staged_weights.h"

namespace crescendo {

class WeightStage {
 public:
  // Replaces what was staged before.
  void Stage(std::unique_ptr<StagedWeights> weights);
  // Bytes that wait.
  int64_t bytes() const;
  // Hands the staged version's tensors to `load`, and frees them. NOT_FOUND when another version
  // (or none) is staged; else `load`'s error.
  absl::Status SwapInto(PolicyVersion version,
                        absl::FunctionRef<absl::Status(absl::Span<const TensorBytes>)> load);

 private:
  mutable absl::Mutex mutex_;
  std::unique_ptr<StagedWeights> staged_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_WEIGHT_STAGE_H_
