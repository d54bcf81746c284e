// The one boundary where LibTorch's exceptions become Status, and where its threads are bounded.
#ifndef CRESCENDO_COMMON_MODEL_TORCH_GUARD_H_
#define CRESCENDO_COMMON_MODEL_TORCH_GUARD_H_

#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace crescendo {

// The exception in flight as a Status: RESOURCE_EXHAUSTED when memory ran out, else INTERNAL, with
// `operation` in front. Call it in a catch block only.
absl::Status CurrentTorchException(absl::string_view operation);

// Runs `fn` and turns what it throws into a Status that names `operation` (put the shapes into it).
// `fn` returns void, absl::Status or absl::StatusOr<T>; the result is absl::Status for void, else
// the type of `fn`.
template <typename F>
auto CatchTorch(absl::string_view operation, F&& fn) {
  using Result = std::invoke_result_t<F>;
  if constexpr (std::is_void_v<Result>) {
    try {
      std::forward<F>(fn)();
      return absl::OkStatus();
    } catch (...) {
      return CurrentTorchException(operation);
    }
  } else {
    try {
      return Result(std::forward<F>(fn)());
    } catch (...) {
      return Result(CurrentTorchException(operation));
    }
  }
}

// Bounds the threads that compute (LibTorch's, MKL's and our kernels' are one pool). Call it once,
// early, from the thread that will compute. Requires n >= 1.
void SetComputeThreads(int n);
int ComputeThreads();

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_TORCH_GUARD_H_
