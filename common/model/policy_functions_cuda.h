// PolicyFunctions with the CUDA kernels between the matrix products (training_kernels.h), and with
// ATen's operations where there is none: for LoadOptions::functions of a policy on a CUDA device.
#ifndef CRESCENDO_COMMON_MODEL_POLICY_FUNCTIONS_CUDA_H_
#define CRESCENDO_COMMON_MODEL_POLICY_FUNCTIONS_CUDA_H_

#include "common/model/policy_functions.h"

namespace crescendo {

const PolicyFunctions& CudaFunctions();

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_POLICY_FUNCTIONS_CUDA_H_
