// What the threads of a block do together, and the launch of a kernel. For .cu files.
#ifndef CRESCENDO_COMMON_MODEL_CUDA_BLOCK_CUH_
#define CRESCENDO_COMMON_MODEL_CUDA_BLOCK_CUH_

#include <cuda_runtime.h>
#include <stdint.h>

#include "common/model/cuda_kernels.h"
#include "common/model/cuda_math.cuh"

namespace crescendo::cuda {

// Reductions -------------------------------------------------------------------------------------

inline constexpr unsigned kAllLanes = 0xffffffffu;

struct Add {
  template <typename T>
  CRESCENDO_HD T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <typename T>
  CRESCENDO_HD T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Min {
  template <typename T>
  CRESCENDO_HD T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

// Every lane gets the result. All 32 lanes take part.
template <typename T, typename F>
__device__ __forceinline__ T WarpReduce(T value, F f) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value = f(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

// Every thread gets the result, the same bits each time. Block of kThreads (a multiple of 32), all
// of which take part.
template <int kThreads, typename T, typename F>
__device__ __forceinline__ T BlockReduce(T value, F f) {
  __shared__ T parts[kThreads / 32];
  value = WarpReduce(value, f);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  T result = parts[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) result = f(result, parts[warp]);
  __syncthreads();
  return result;
}

// The sum of the values of threads [0, this]; `total` gets that of all.
template <int kThreads, typename T>
__device__ __forceinline__ T BlockScan(T value, T* total) {
  __shared__ T sums[kThreads];
  const int me = static_cast<int>(threadIdx.x);
  sums[me] = value;
  __syncthreads();
  for (int step = 1; step < kThreads; step *= 2) {
    const T below = me >= step ? sums[me - step] : T{};
    __syncthreads();
    sums[me] += below;
    __syncthreads();
  }
  const T result = sums[me];
  *total = sums[kThreads - 1];
  __syncthreads();
  return result;
}

// Launch -----------------------------------------------------------------------------------------

template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, int threads, cudaStream_t stream,
                   Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Arguments&&>(arguments)...);
}

// fn(T()) with the stored type.
template <typename F>
cudaError_t DispatchDtype(Dtype dtype, const F& fn) {
  return dtype == Dtype::kF32 ? fn(float()) : fn(Bf16());
}

inline bool IsAligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}
inline unsigned CeilDiv(int64_t a, int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

}  // namespace crescendo::cuda

#endif  // CRESCENDO_COMMON_MODEL_CUDA_BLOCK_CUH_
