// libcrescendo_nccl.so (nccl_backend.h).
#include "services/learner/nccl_backend.h"

#include <chrono>
#include <cstdlib>
#include <type_traits>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

extern "C" __attribute__((visibility("default"))) void CrescendoMakeNcclBackend(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, int device,
    int64_t timeout_ms, c10::intrusive_ptr<c10d::Backend>* backend) {
  // A failed collective is then an exception of wait(), not the end of the process.
  setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = std::chrono::milliseconds(timeout_ms);
  auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
  group->eagerConnectSingleDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
  *backend = group;
}

static_assert(std::is_same_v<decltype(&CrescendoMakeNcclBackend), crescendo::MakeNcclBackend>);
