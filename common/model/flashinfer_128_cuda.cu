#include "common/model/flashinfer_attention.h"
#include "common/model/flashinfer_kernels.cuh"

namespace crescendo::cuda {

cudaError_t FlashInferAttention128(const FlashInferArgs& args, cudaStream_t stream) {
  return AttendWith<128>(args, stream);
}

}  // namespace crescendo::cuda
