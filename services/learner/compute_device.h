// Where the learner's tensors are: the CPU, or a CUDA device. LibTorch's CUDA kernels are a library
// of their own (libtorch_cuda.so beside libtorch_cpu.so), loaded when a device is asked for: one
// binary serves both, and needs none of CUDA on the CPU.
//
// Thread rule: one thread, the trainer's. LibTorch looks once whether there is CUDA and remembers
// the answer: call LoadDevice before anything else of it, or FindDevice where that is the first.
#ifndef CRESCENDO_SERVICES_LEARNER_COMPUTE_DEVICE_H_
#define CRESCENDO_SERVICES_LEARNER_COMPUTE_DEVICE_H_

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace crescendo {

struct PolicyFunctions;

// Loads the kernels of device `name`, where there are any. What goes wrong FindDevice tells.
void LoadDevice(absl::string_view name);

// `name` is "cpu" or "cuda". The CUDA device of this process is `local_rank`'s, or without one that
// of `rank` modulo the devices here; it is made the thread's own. FAILED_PRECONDITION says what is
// missing: a library, a device, or the one that is named.
absl::StatusOr<at::Device> FindDevice(absl::string_view name, std::optional<int> local_rank,
                                      int rank);

// What a policy there computes with (LoadOptions::functions): the CUDA kernels, where this build
// has them, on a CUDA device; else null, ATen's operations.
const PolicyFunctions* FunctionsOf(at::Device device);

// Returns when all that was enqueued on the device is done, so that a clock sees it.
void WaitForDevice(at::Device device);

// The tensor's values, row-major; from a device through pinned memory. Throws what LibTorch throws.
std::string HostBytes(const at::Tensor& tensor);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_COMPUTE_DEVICE_H_
