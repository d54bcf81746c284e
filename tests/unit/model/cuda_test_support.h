// For tests of CUDA code, which are built twice: with the CUDA runtime, and with its emulation.
#ifndef CRESCENDO_TESTS_UNIT_MODEL_CUDA_TEST_SUPPORT_H_
#define CRESCENDO_TESTS_UNIT_MODEL_CUDA_TEST_SUPPORT_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "catch2/catch.hpp"

namespace crescendo {

// Says why when there is none: the case then ends.
inline bool HaveDevice() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices > 0) return true;
  WARN("skipped, there is no CUDA device here: " << cudaGetErrorString(error));
  return false;
}

// Values in device memory.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    REQUIRE(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice) ==
            cudaSuccess);
  }
  // Not set.
  explicit OnDevice(size_t size) : size_(size) {
    void* memory = nullptr;
    REQUIRE(cudaMalloc(&memory, size_ * sizeof(T)) == cudaSuccess);
    data_ = static_cast<T*>(memory);
  }
  ~OnDevice() { CHECK(cudaFree(data_) == cudaSuccess); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* data() const { return data_; }
  // Waits for the default stream.
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
    REQUIRE(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost) ==
            cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_MODEL_CUDA_TEST_SUPPORT_H_
