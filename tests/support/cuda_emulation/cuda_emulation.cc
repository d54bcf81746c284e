#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>

#include "cuda_runtime.h"

namespace cuda_emulation {
namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kGuardBytes = 256;
constexpr unsigned char kGuard = 0xa5;

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "cuda emulation: %s (block %u, %u, %u, thread %u)\n", what,
               Current().block.x, Current().block.y, Current().block.z, Current().thread.x);
  std::abort();
}

struct Barrier {
  int waiting = 0;
  uint64_t generation = 0;
};
struct Warp {
  Barrier barrier;
  uint64_t words[32] = {};
};
// Started as a ucontext; from then on it switches by _setjmp and _longjmp, which make no system
// call.
struct Fiber {
  ucontext_t start;
  jmp_buf resume;
  bool started = false;
  std::unique_ptr<char[]> stack;
  Place place;
  bool done = false;
};

// The block that runs.
struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  int threads = 0;
  int live = 0;
  uint64_t progress = 0;
  Fiber* running = nullptr;
  jmp_buf scheduler;
  const std::function<void()>* kernel = nullptr;
  bool reverse = false;
};
Block& TheBlock() {
  static Block block;
  return block;
}

void Yield() {
  Block& block = TheBlock();
  if (_setjmp(block.running->resume) == 0) _longjmp(block.scheduler, 1);
}
void Resume(Block* block, Fiber* fiber) {
  block->running = fiber;
  if (_setjmp(block->scheduler) != 0) return;
  if (fiber->started) _longjmp(fiber->resume, 1);
  fiber->started = true;
  setcontext(&fiber->start);
}

void FiberMain() {
  Block& block = TheBlock();
  (*block.kernel)();
  block.running->done = true;
  --block.live;
  ++block.progress;
  _longjmp(block.scheduler, 1);
}

// Waits until `expected()` threads have come.
template <typename F>
void Wait(Barrier* barrier, const F& expected) {
  Block& block = TheBlock();
  const uint64_t generation = barrier->generation;
  ++barrier->waiting;
  ++block.progress;
  while (barrier->generation == generation) {
    if (barrier->waiting >= expected()) {
      barrier->waiting = 0;
      ++barrier->generation;
      ++block.progress;
      return;
    }
    Yield();
  }
}

void StartFibers(Block* block, int threads) {
  while (static_cast<int>(block->fibers.size()) < threads) {
    block->fibers.push_back(std::make_unique<Fiber>());
    block->fibers.back()->stack.reset(new char[kStackBytes]);
  }
  block->warps.assign(static_cast<size_t>((threads + 31) / 32), Warp());
  block->barrier = Barrier();
  block->threads = threads;
  block->live = threads;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = *block->fibers[static_cast<size_t>(i)];
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStackBytes;
    fiber.start.uc_link = nullptr;
    fiber.done = false;
    fiber.started = false;
    fiber.place.thread = uint3{static_cast<unsigned>(i), 0, 0};
    makecontext(&fiber.start, FiberMain, 0);
  }
}

void RunBlock(Block* block, int threads, uint3 index) {
  StartFibers(block, threads);
  while (block->live > 0) {
    const uint64_t before = block->progress;
    for (int i = 0; i < threads; ++i) {
      const int turn = block->reverse ? threads - 1 - i : i;
      Fiber& fiber = *block->fibers[static_cast<size_t>(turn)];
      if (fiber.done) continue;
      fiber.place.block = index;
      Resume(block, &fiber);
    }
    if (block->live > 0 && block->progress == before) {
      Fail("a barrier or shuffle that not all threads reach");
    }
  }
}

// Guarded allocations by address.
std::map<char*, size_t>& Allocations() {
  static std::map<char*, size_t> allocations;
  return allocations;
}
void CheckGuards(char* start, size_t bytes) {
  for (size_t i = 0; i < kGuardBytes; ++i) {
    if (static_cast<unsigned char>(start[-1 - static_cast<ptrdiff_t>(i)]) != kGuard ||
        static_cast<unsigned char>(start[bytes + i]) != kGuard) {
      std::fprintf(stderr, "cuda emulation: a write outside an allocation of %zu bytes\n", bytes);
      std::abort();
    }
  }
}

}  // namespace

const Place& Current() {
  static const Place none{};
  return TheBlock().running == nullptr ? none : TheBlock().running->place;
}

void RunGrid(dim3 grid, dim3 threads, const std::function<void()>& kernel) {
  Block& block = TheBlock();
  block.kernel = &kernel;
  ++Counts().kernels;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        RunBlock(&block, static_cast<int>(threads.x), uint3{x, y, z});
        block.reverse = !block.reverse;
      }
    }
  }
  block.running = nullptr;
}

void Enqueue(Stream* stream, std::function<void()> work) {
  if (stream != nullptr && stream->capture != nullptr) {
    stream->capture->work.push_back(std::move(work));
  } else {
    work();
  }
}

void BlockBarrier() {
  Wait(&TheBlock().barrier, [] { return TheBlock().live; });
}

unsigned Lane() { return Current().thread.x % 32; }

uint64_t WarpExchange(uint64_t value, unsigned lane) {
  Warp& warp = TheBlock().warps[Current().thread.x / 32];
  warp.words[Lane()] = value;
  Wait(&warp.barrier, [] { return 32; });
  const uint64_t result = warp.words[lane % 32];
  Wait(&warp.barrier, [] { return 32; });
  return result;
}

Counters& Counts() {
  static Counters counters;
  return counters;
}

}  // namespace cuda_emulation

using cuda_emulation::Allocations;
using cuda_emulation::Enqueue;

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error of the emulation";
}
const char* cudaGetErrorName(cudaError_t) { return "emulated"; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = cudaDeviceProp{"emulation on the host", size_t{1} << 33, 9, 0, 4};
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = *total_bytes = size_t{1} << 33;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  using cuda_emulation::kGuardBytes;
  const size_t whole = (bytes + 2 * kGuardBytes + 255) / 256 * 256;
  auto* memory = static_cast<char*>(std::aligned_alloc(256, whole));
  if (memory == nullptr) return cudaErrorMemoryAllocation;
  std::memset(memory, cuda_emulation::kGuard, whole);
  std::memset(memory + kGuardBytes, 0xff, bytes);
  *pointer = memory + kGuardBytes;
  Allocations()[memory + kGuardBytes] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const auto it = Allocations().find(static_cast<char*>(pointer));
  if (it == Allocations().end()) return cudaErrorInvalidValue;
  cuda_emulation::CheckGuards(it->first, it->second);
  std::free(it->first - cuda_emulation::kGuardBytes);
  Allocations().erase(it);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaMalloc(pointer, bytes); }
cudaError_t cudaFreeHost(void* pointer) { return cudaFree(pointer); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  Enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Enqueue(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new cuda_emulation::Stream();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream != nullptr && stream->capture != nullptr) return cudaErrorStreamCaptureUnsupported;
  for (const auto& [start, bytes] : Allocations()) cuda_emulation::CheckGuards(start, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->capture != nullptr) return cudaErrorStreamCaptureUnsupported;
  stream->capture = new cuda_emulation::Graph();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = std::exchange(stream->capture, nullptr);
  return *graph == nullptr ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new cuda_emulation::Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  ++cuda_emulation::Counts().graph_launches;
  for (const auto& work : exec->work) Enqueue(stream, work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
