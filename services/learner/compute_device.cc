#include "services/learner/compute_device.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/torch_guard.h"

namespace crescendo {
namespace {

constexpr char kCudaLibrary[] = "libtorch_cuda.so";
constexpr int64_t kStagedBytes = 32 << 20;

absl::Status NoDevice(absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("learner.device: expected a CUDA device, found none: ", why));
}

// Never unloaded: its kernels stay registered.
absl::Status LoadCudaLibrary() {
  if (dlopen(kCudaLibrary, RTLD_NOW | RTLD_GLOBAL) != nullptr) return absl::OkStatus();
  const char* why = dlerror();
  return NoDevice(absl::StrCat(why == nullptr ? "it cannot be loaded" : why, " (", kCudaLibrary,
                               " and the CUDA libraries that the wheel of torch depends on are "
                               "wanted; services/learner/README.md says how they are installed)"));
}

}  // namespace

void LoadDevice(absl::string_view name) {
  if (name != "cpu") (void)LoadCudaLibrary();
}

absl::StatusOr<at::Device> FindDevice(absl::string_view name, std::optional<int> local_rank,
                                      int rank) {
  if (name == "cpu") return at::Device(at::kCPU);
  CRESCENDO_CHECK(name == "cuda");
  RETURN_IF_ERROR(LoadCudaLibrary());
  return CatchTorch("learner.device", [&]() -> absl::StatusOr<at::Device> {
    if (!c10::impl::hasDeviceGuardImpl(at::kCUDA)) return NoDevice("LibTorch has no CUDA in it");
    const c10::impl::VirtualGuardImpl guard(at::kCUDA);
    const int devices = guard.deviceCount();
    if (devices == 0) {
      return NoDevice("the driver shows none (nvidia-smi, CUDA_VISIBLE_DEVICES)");
    }
    const int index = local_rank.value_or(rank % devices);
    if (index >= devices) {
      return absl::FailedPreconditionError(
          absl::StrCat("learner.device: expected LOCAL_RANK below the number of CUDA devices, ",
                       devices, ", found ", index));
    }
    const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
    at::globalContext().lazyInitDevice(at::kCUDA);
    // Products of bf16 are summed in fp32 throughout, as the rollout's are.
    at::globalContext().setAllowBF16ReductionCuBLAS(false);
    guard.setDevice(device);
    return device;
  });
}

void WaitForDevice(at::Device device) {
  if (device.is_cpu()) return;
  c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

std::string HostBytes(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().contiguous().view(-1).view(at::kByte);
  std::string bytes(static_cast<size_t>(flat.numel()), '\0');
  if (flat.device().is_cpu()) {
    std::memcpy(bytes.data(), flat.const_data_ptr(), bytes.size());
    return bytes;
  }
  const int64_t size = flat.numel();
  const at::Tensor staged = at::empty({std::min(size, kStagedBytes)},
                                      at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  for (int64_t first = 0; first < size; first += kStagedBytes) {
    const int64_t n = std::min(kStagedBytes, size - first);
    staged.narrow(0, 0, n).copy_(flat.narrow(0, first, n));
    std::memcpy(bytes.data() + first, staged.const_data_ptr(), static_cast<size_t>(n));
  }
  return bytes;
}

}  // namespace crescendo
