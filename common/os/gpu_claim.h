// One GPU for each of several processes that know nothing of each other: the services of a machine,
// or replicas of a container, all of which Docker gives the same GPUs.
//
//   CRESCENDO_GPU_CLAIMS=FOLDER   in the environment: all of them see it and may write there
//
// A process takes the GPU that the fewest hold, the first among equals, by a lock in that folder.
// The system lets go of it when the process ends, however that happens.
#ifndef CRESCENDO_COMMON_OS_GPU_CLAIM_H_
#define CRESCENDO_COMMON_OS_GPU_CLAIM_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace crescendo {

class GpuClaim {
 public:
  // Takes one of `gpus` (their names; none: FailedPrecondition) with a lock in `folder`, which is
  // made when it is not there. ResourceExhausted when each is held by too many. Does not block.
  static absl::StatusOr<GpuClaim> Take(const std::string& folder,
                                       const std::vector<std::string>& gpus);
  ~GpuClaim();
  GpuClaim(GpuClaim&& other) noexcept;
  GpuClaim& operator=(GpuClaim&& other) = delete;

  const std::string& gpu() const { return gpu_; }

 private:
  GpuClaim(std::string gpu, int lock) : gpu_(std::move(gpu)), lock_(lock) {}

  std::string gpu_;
  int lock_;
};

// The GPUs that this process may use: those that CUDA_VISIBLE_DEVICES names, else the numbers of
// `devices`/nvidia0, nvidia1, ... (as /dev has them).
std::vector<std::string> VisibleGpus(const std::string& devices);

// Where the environment names a folder and this machine has a GPU: takes one and leaves only that
// one in CUDA_VISIBLE_DEVICES. nullopt when nothing was to be done, as when none is `wanted`. Call
// it before there are threads that read the environment and before anything asks for a GPU, and
// keep the claim for as long as the GPU is used.
absl::StatusOr<std::optional<GpuClaim>> TakeGpuOfEnvironment(bool wanted);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_OS_GPU_CLAIM_H_
