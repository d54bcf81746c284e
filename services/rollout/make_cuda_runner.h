// The engine's model on a CUDA device, behind an interface that a build without CUDA has too.
#ifndef CRESCENDO_SERVICES_ROLLOUT_MAKE_CUDA_RUNNER_H_
#define CRESCENDO_SERVICES_ROLLOUT_MAKE_CUDA_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/policy_model.h"
#include "services/rollout/model_runner.h"
#include "services/rollout/staged_weights.h"

namespace crescendo {

// OK when a policy can run on a device here. FAILED_PRECONDITION says what is missing: CUDA code in
// this build, a device, or one that the build has code for.
absl::Status CheckCudaRunner();

struct CudaRunnerShape {
  int blocks = 0;
  int block_tokens = 0;
  int step_tokens = 0;
  int slots = 0;
};
struct CudaRunnerParts {
  std::unique_ptr<ModelRunner> runner;
  std::function<void(std::unique_ptr<StagedWeights>)> stage;  // valid while the runner lives
  int64_t cache_bytes = 0;
  std::string description;  // of the attention used
};
// Copies the model's weights to the device, in its dtype. FAILED_PRECONDITION as above or without
// cuBLAS, RESOURCE_EXHAUSTED without the memory.
absl::StatusOr<CudaRunnerParts> MakeCudaRunner(const PolicyModel& model,
                                               const CudaRunnerShape& shape);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_MAKE_CUDA_RUNNER_H_
