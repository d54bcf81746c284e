#include "common/model/flashinfer_attention.h"
#include "common/model/flashinfer_kernels.cuh"

namespace crescendo::cuda {

cudaError_t FlashInferAttention64(const FlashInferArgs& args, cudaStream_t stream) {
  return AttendWith<64>(args, stream);
}

}  // namespace crescendo::cuda
