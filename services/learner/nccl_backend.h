// The border to NCCL: c10d's ProcessGroupNCCL lives in a library of its own,
// libcrescendo_nccl.so beside the program, which is loaded when ranks train on CUDA devices. It
// needs libtorch_cuda.so and libnccl.so, which the program itself does not.
#ifndef CRESCENDO_SERVICES_LEARNER_NCCL_BACKEND_H_
#define CRESCENDO_SERVICES_LEARNER_NCCL_BACKEND_H_

#include <cstdint>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "absl/status/statusor.h"

namespace crescendo {

inline constexpr char kNcclLibrary[] = "libcrescendo_nccl.so";
inline constexpr char kNcclEntry[] = "CrescendoMakeNcclBackend";

// Of this rank on `device`, a CUDA device; collective. Every operation has the timeout, and wait()
// blocks until it is done. Throws what c10d throws.
using MakeNcclBackend = void (*)(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                 int device, int64_t timeout_ms,
                                 c10::intrusive_ptr<c10d::Backend>* backend);

// Loads the library and finds the entry. FAILED_PRECONDITION says what is missing.
absl::StatusOr<MakeNcclBackend> LoadNccl();

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_NCCL_BACKEND_H_
