#include "common/model/cuda_memory.h"

#include "absl/strings/str_cat.h"

namespace crescendo {

absl::Status CudaStatus(cudaError_t error, absl::string_view operation) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat(operation, ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error));
  if (error == cudaErrorMemoryAllocation) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

absl::Status CheckCudaDevice() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("expected a CUDA device, found none: ", cudaGetErrorString(error)));
  }
  cudaDeviceProp properties{};
  const absl::Status status =
      CudaStatus(cudaGetDeviceProperties(&properties, 0), "read the properties of CUDA device 0");
  if (!status.ok()) return status;
  const bool has_code = properties.major == 8 || (properties.major == 9 && properties.minor == 0);
  if (!has_code) {
    return absl::FailedPreconditionError(absl::StrCat(
        "CUDA device 0 (", properties.name, ") has compute capability ", properties.major, ".",
        properties.minor, ": this build has code for 8.x and 9.0"));
  }
  return absl::OkStatus();
}

absl::StatusOr<CudaMemory> CudaMemory::Allocate(Kind kind, int64_t bytes, absl::string_view what) {
  CudaMemory memory;
  memory.kind_ = kind;
  memory.bytes_ = bytes;
  void* data = nullptr;
  const auto size = static_cast<size_t>(bytes > 0 ? bytes : 1);
  const cudaError_t error =
      kind == Kind::kDevice ? cudaMalloc(&data, size) : cudaMallocHost(&data, size);
  if (error != cudaSuccess) {
    return CudaStatus(error, absl::StrCat("allocate ", bytes, " bytes of ",
                                          kind == Kind::kDevice ? "device" : "pinned host",
                                          " memory for ", what));
  }
  memory.data_ = static_cast<char*>(data);
  return memory;
}

CudaMemory::~CudaMemory() {
  if (data_ == nullptr) return;
  // An error here is one of an earlier call: whoever made that was told.
  if (kind_ == Kind::kDevice) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

CudaMemory& CudaMemory::operator=(CudaMemory&& other) noexcept {
  std::swap(kind_, other.kind_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

absl::StatusOr<CudaStream> CudaStream::Create() {
  cudaStream_t stream = nullptr;
  const absl::Status status =
      CudaStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a CUDA stream");
  if (!status.ok()) return status;
  return CudaStream(stream);
}

CudaStream::~CudaStream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::StatusOr<CudaGraph> CudaGraph::Instantiate(cudaError_t captured, cudaGraph_t graph) {
  absl::Status status = CudaStatus(captured, "end a CUDA graph");
  CudaGraph result;
  if (status.ok()) {
    status = CudaStatus(cudaGraphInstantiate(&result.exec_, graph, 0), "instantiate a CUDA graph");
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (!status.ok()) return status;
  return result;
}

CudaGraph::~CudaGraph() {
  if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
}

CudaGraph& CudaGraph::operator=(CudaGraph&& other) noexcept {
  std::swap(exec_, other.exec_);
  return *this;
}

}  // namespace crescendo
