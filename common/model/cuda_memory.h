// Owners of what the CUDA runtime hands out, and its errors as Status.
//
// Thread rule: as the runtime's own; an owner is used by one thread at a time.
#ifndef CRESCENDO_COMMON_MODEL_CUDA_MEMORY_H_
#define CRESCENDO_COMMON_MODEL_CUDA_MEMORY_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace crescendo {

// RESOURCE_EXHAUSTED when memory ran out, else INTERNAL; names the operation.
absl::Status CudaStatus(cudaError_t error, absl::string_view operation);

// OK when a device is there that this build has code for. FAILED_PRECONDITION says what is missing.
absl::Status CheckCudaDevice();

// Memory of the device, or of the host in pages that the device copies from without a detour.
class CudaMemory {
 public:
  enum class Kind { kDevice, kPinnedHost };
  CudaMemory() = default;
  // Not set. `what` is for the error's message.
  static absl::StatusOr<CudaMemory> Allocate(Kind kind, int64_t bytes, absl::string_view what);
  ~CudaMemory();
  CudaMemory(CudaMemory&& other) noexcept { *this = std::move(other); }
  CudaMemory& operator=(CudaMemory&& other) noexcept;

  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  Kind kind_ = Kind::kDevice;
  char* data_ = nullptr;
  int64_t bytes_ = 0;
};

class CudaStream {
 public:
  static absl::StatusOr<CudaStream> Create();
  ~CudaStream();
  CudaStream(CudaStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  CudaStream& operator=(CudaStream&&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  explicit CudaStream(cudaStream_t stream) : stream_(stream) {}
  cudaStream_t stream_ = nullptr;
};

// A captured sequence of kernels that is started as one.
class CudaGraph {
 public:
  CudaGraph() = default;
  ~CudaGraph();
  CudaGraph(CudaGraph&& other) noexcept : exec_(std::exchange(other.exec_, nullptr)) {}
  CudaGraph& operator=(CudaGraph&& other) noexcept;

  // Captures what `enqueue` (a function that returns a Status) puts on the stream; nothing runs.
  template <typename F>
  static absl::StatusOr<CudaGraph> Capture(cudaStream_t stream, const F& enqueue) {
    absl::Status status = CudaStatus(
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin a CUDA graph");
    if (!status.ok()) return status;
    status = enqueue();
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    if (!status.ok()) {
      if (graph != nullptr) cudaGraphDestroy(graph);
      return status;
    }
    return Instantiate(ended, graph);
  }
  absl::Status Launch(cudaStream_t stream) const {
    return CudaStatus(cudaGraphLaunch(exec_, stream), "launch a CUDA graph");
  }

 private:
  static absl::StatusOr<CudaGraph> Instantiate(cudaError_t captured, cudaGraph_t graph);
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_CUDA_MEMORY_H_
