#include "services/rollout/make_cuda_runner.h"

#include <utility>

#include "common/base/status_macros.h"
#include "common/model/cuda_memory.h"
#include "common/model/cuda_policy.h"
#include "services/rollout/cuda_model_runner.h"

namespace crescendo {

absl::Status CheckCudaRunner() { return CheckCudaDevice(); }

absl::StatusOr<CudaRunnerParts> MakeCudaRunner(const PolicyModel& model,
                                               const CudaRunnerShape& shape) {
  CudaPolicyOptions options;
  options.blocks = shape.blocks;
  options.block_tokens = shape.block_tokens;
  options.dtype = model.dtype() == at::kFloat ? cuda::Dtype::kF32 : cuda::Dtype::kBf16;
  options.step_tokens = shape.step_tokens;
  options.sequences = shape.slots;
  ASSIGN_OR_RETURN(std::unique_ptr<CudaPolicy> policy,
                   CudaPolicy::Create(model.config(), model.State(), options));
  CudaRunnerParts parts;
  parts.cache_bytes = policy->cache_bytes();
  parts.description =
      policy->uses_flashinfer() ? "FlashInfer's attention" : "simple attention kernel";
  auto runner = std::make_unique<CudaModelRunner>(std::move(policy));
  CudaModelRunner* raw = runner.get();
  parts.stage = [raw](std::unique_ptr<StagedWeights> weights) { raw->Stage(std::move(weights)); };
  parts.runner = std::move(runner);
  return parts;
}

}  // namespace crescendo
