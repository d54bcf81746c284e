#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "services/learner/nccl_backend.h"

namespace crescendo {

// Never unloaded: groups made by it may live as long as the process.
absl::StatusOr<MakeNcclBackend> LoadNccl() {
  std::error_code no_link;  // then the loader looks where it always does
  const std::string folder = std::filesystem::read_symlink("/proc/self/exe", no_link).parent_path();
  const std::string beside =
      folder.empty() ? kNcclLibrary : absl::StrCat(folder, "/", kNcclLibrary);
  void* library = dlopen(beside.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* entry = library == nullptr ? nullptr : dlsym(library, kNcclEntry);
  if (entry != nullptr) return reinterpret_cast<MakeNcclBackend>(entry);
  const char* why = dlerror();
  return absl::FailedPreconditionError(
      absl::StrCat("learner.device: several ranks on CUDA devices need NCCL: ", beside, ": ",
                   why == nullptr ? "cannot be loaded" : why,
                   " (it is built where nvcc and nccl.h are found; services/learner/README.md)"));
}

}  // namespace crescendo
