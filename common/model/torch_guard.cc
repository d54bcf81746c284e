#include "common/model/torch_guard.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

bool IsOutOfMemory(absl::string_view text) {
  return text.find("not enough memory") != absl::string_view::npos ||
         text.find("out of memory") != absl::string_view::npos ||
         text.find("can't allocate memory") != absl::string_view::npos;
}

}  // namespace

absl::Status CurrentTorchException(absl::string_view operation) {
  try {
    throw;
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    if (IsOutOfMemory(what))
      return absl::ResourceExhaustedError(absl::StrCat(operation, ": ", what));
    return absl::InternalError(absl::StrCat(operation, ": ", what));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(operation, ": out of memory"));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(operation, ": ", error.what()));
  } catch (...) {
    return absl::InternalError(absl::StrCat(operation, ": an exception of unknown type"));
  }
}

void SetComputeThreads(int n) {
  CRESCENDO_CHECK(n >= 1);
  at::set_num_threads(n);
}

int ComputeThreads() { return at::get_num_threads(); }

}  // namespace crescendo
