// Matrix products on the device by cuBLAS, which is loaded when it is first wanted: a program that
// was built with CUDA runs without it where no device is used.
//
// Thread rule: one thread at a time.
#ifndef CRESCENDO_COMMON_MODEL_CUDA_BLAS_H_
#define CRESCENDO_COMMON_MODEL_CUDA_BLAS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/cuda_kernels.h"

namespace crescendo {

// out = x w^T, or out + x w^T; sums in fp32. All row-major and dense.
struct MatMulArgs {
  const void* x = nullptr;  // [rows, inner]
  const void* w = nullptr;  // [columns, inner]
  void* out = nullptr;      // [rows, columns], of out_dtype
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t inner = 0;
  cuda::Dtype dtype = cuda::Dtype::kF32;
  cuda::Dtype out_dtype = cuda::Dtype::kF32;  // `dtype`, or fp32
  bool accumulate = false;
};

class CudaBlas {
 public:
  // Products run on `stream` with a workspace of their own, so that they can be captured.
  // FAILED_PRECONDITION when the library is not there: it says which.
  static absl::StatusOr<std::unique_ptr<CudaBlas>> Create(cudaStream_t stream);
  virtual ~CudaBlas() = default;
  virtual absl::Status MatMul(const MatMulArgs& args) = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_CUDA_BLAS_H_
