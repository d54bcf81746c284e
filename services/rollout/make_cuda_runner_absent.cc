// In place of make_cuda_runner.cc where there is no nvcc.
#include "services/rollout/make_cuda_runner.h"

namespace crescendo {

absl::Status CheckCudaRunner() {
  return absl::FailedPreconditionError(
      "this build has no CUDA code (no nvcc was found when it was configured; "
      "-DCRESCENDO_CUDA=ON insists on one)");
}

absl::StatusOr<CudaRunnerParts> MakeCudaRunner(const PolicyModel&, const CudaRunnerShape&) {
  return CheckCudaRunner();
}

}  // namespace crescendo
