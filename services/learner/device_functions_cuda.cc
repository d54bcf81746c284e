#include "common/model/policy_functions_cuda.h"
#include "services/learner/compute_device.h"

namespace crescendo {

const PolicyFunctions* FunctionsOf(at::Device device) {
  return device.is_cuda() ? &CudaFunctions() : nullptr;
}

}  // namespace crescendo
