#include "common/os/gpu_claim.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr int kHoldersMax = 64;  // of one GPU
constexpr int kGpusMax = 64;

}  // namespace

absl::StatusOr<GpuClaim> GpuClaim::Take(const std::string& folder,
                                        const std::vector<std::string>& gpus) {
  if (gpus.empty()) return absl::FailedPreconditionError("there is no GPU to take");
  if (mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
    return absl::PermissionDeniedError(absl::StrCat("make ", folder, ": ", std::strerror(errno)));
  }
  // Every GPU's first place before any second one: the place says how many hold it already.
  for (int place = 0; place < kHoldersMax; ++place) {
    for (const std::string& gpu : gpus) {
      const std::string path = absl::StrCat(folder, "/gpu-", gpu, ".", place);
      const int lock = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
      if (lock < 0) {
        return absl::PermissionDeniedError(absl::StrCat("open ", path, ": ", std::strerror(errno)));
      }
      if (flock(lock, LOCK_EX | LOCK_NB) == 0) return GpuClaim(gpu, lock);
      close(lock);
    }
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(folder, ": each of ", gpus.size(), " GPUs is held by ", kHoldersMax));
}

GpuClaim::~GpuClaim() {
  if (lock_ >= 0) close(lock_);
}

GpuClaim::GpuClaim(GpuClaim&& other) noexcept
    : gpu_(std::move(other.gpu_)), lock_(std::exchange(other.lock_, -1)) {}

std::vector<std::string> VisibleGpus(const std::string& devices) {
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES"); visible != nullptr) {
    return absl::StrSplit(visible, ',', absl::SkipWhitespace());
  }
  std::vector<std::string> gpus;
  for (int i = 0; i < kGpusMax; ++i) {
    struct stat found = {};
    if (stat(absl::StrCat(devices, "/nvidia", i).c_str(), &found) == 0) {
      gpus.push_back(absl::StrCat(i));
    }
  }
  return gpus;
}

absl::StatusOr<std::optional<GpuClaim>> TakeGpuOfEnvironment(bool wanted) {
  const char* folder = std::getenv("CRESCENDO_GPU_CLAIMS");
  if (!wanted || folder == nullptr || *folder == '\0') return std::optional<GpuClaim>();
  const std::vector<std::string> gpus = VisibleGpus("/dev");
  if (gpus.empty()) return std::optional<GpuClaim>();
  ASSIGN_OR_RETURN(GpuClaim taken, GpuClaim::Take(folder, gpus));
  // Numbers as the driver counts them, not by speed.
  setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0);
  setenv("CUDA_VISIBLE_DEVICES", taken.gpu().c_str(), 1);
  return std::optional<GpuClaim>(std::move(taken));
}

}  // namespace crescendo
