// The part of the CUDA runtime and language that Crescendo's kernels use, run on the host: a test
// without a GPU executes the very sources that nvcc compiles (common/model/*_cuda.cu, cuda_*.cc)
// and compares them with the CPU's. This folder stands in front of the toolkit's on the include
// path of the libraries built so, which are only for tests.
//
// What it does: the threads of a block are fibers that run from barrier to barrier, in ascending
// order and in every second block in descending order, so that a missing barrier shows; blocks run
// one after the other. Device memory is host memory,
// filled with 0xff (NaN) when allocated, with guard bytes at both ends that each synchronisation
// checks. A stream captures calls with their arguments by value and replays them, as a CUDA graph
// does. It ends the process with a message at what would be a hang or undefined on a device: a
// barrier or shuffle that a thread of the block or warp never reaches, a write over the end of an
// allocation.
// What it does not: timing, races between blocks, alignment of vector loads (UBSan sees those).
//
// Thread rule: one thread.
#ifndef CRESCENDO_TESTS_SUPPORT_CUDA_EMULATION_CUDA_RUNTIME_H_
#define CRESCENDO_TESTS_SUPPORT_CUDA_EMULATION_CUDA_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // one block runs at a time

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorStreamCaptureUnsupported = 900,
};
const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
};
struct uint3 {
  unsigned x, y, z;
};

namespace cuda_emulation {

struct Graph {
  std::vector<std::function<void()>> work;
};
struct Stream {
  Graph* capture = nullptr;
};

// Where the running fiber is.
struct Place {
  uint3 thread;
  uint3 block;
};
const Place& Current();
// Runs `kernel` once for each thread of the grid.
void RunGrid(dim3 grid, dim3 block, const std::function<void()>& kernel);
// Enqueues: runs at once, or becomes a part of the graph that the stream captures.
void Enqueue(Stream* stream, std::function<void()> work);

void BlockBarrier();
// Every lane hands in `value` and gets that of `lane` (mod 32).
uint64_t WarpExchange(uint64_t value, unsigned lane);
unsigned Lane();

// Kernels run since the start, and graph launches.
struct Counters {
  int64_t kernels = 0;
  int64_t graph_launches = 0;
};
Counters& Counts();

template <typename T>
T Shuffle(T value, unsigned lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  memcpy(&word, &value, sizeof(T));
  word = WarpExchange(word, lane);
  memcpy(&value, &word, sizeof(T));
  return value;
}

}  // namespace cuda_emulation

#define threadIdx (::cuda_emulation::Current().thread)
#define blockIdx (::cuda_emulation::Current().block)

inline void __syncthreads() { cuda_emulation::BlockBarrier(); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_emulation::Shuffle(value, cuda_emulation::Lane() ^ static_cast<unsigned>(mask));
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return cuda_emulation::Shuffle(value, static_cast<unsigned>(lane));
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int delta) {
  const unsigned lane = cuda_emulation::Lane();
  const auto step = static_cast<unsigned>(delta);
  return cuda_emulation::Shuffle(value, lane >= step ? lane - step : lane);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) {
    ballot |= static_cast<unsigned>(__shfl_sync(0, predicate, lane)) << lane;
  }
  return ballot;
}
template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address += value;
  return before;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

// Runtime ----------------------------------------------------------------------------------------

using cudaStream_t = cuda_emulation::Stream*;
using cudaGraph_t = cuda_emulation::Graph*;
using cudaGraphExec_t = cuda_emulation::Graph*;

enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
inline constexpr unsigned cudaStreamNonBlocking = 1;

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major;
  int minor;
  int multiProcessorCount;
};

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes);
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMallocHost(void** pointer, size_t bytes);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  cuda_emulation::Enqueue(
      config->stream, [kernel, values, grid = config->gridDim, block = config->blockDim] {
        cuda_emulation::RunGrid(grid, block, [&] { std::apply(kernel, values); });
      });
  return cudaSuccess;
}

#endif  // CRESCENDO_TESTS_SUPPORT_CUDA_EMULATION_CUDA_RUNTIME_H_
