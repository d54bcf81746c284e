// Propagation of absl::Status, and CHECK for bugs.
//
// Expected failures are values of absl::Status that name the operation, the place (peer, file,
// field), what was expected and what was found. A broken invariant of our own is a bug:
// CRESCENDO_CHECK ends the process, in release builds too.
#ifndef CRESCENDO_COMMON_BASE_STATUS_MACROS_H_
#define CRESCENDO_COMMON_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace crescendo {

// The same code, with `context` and ": " in front of the message. OK stays OK.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace crescendo

#define CRESCENDO_CONCAT_INNER(a, b) a##b
#define CRESCENDO_CONCAT(a, b) CRESCENDO_CONCAT_INNER(a, b)

// Returns the status from the enclosing function when it is not OK.
#define RETURN_IF_ERROR(expression)                                     \
  do {                                                                  \
    if (absl::Status status_macro = (expression); !status_macro.ok()) { \
      return status_macro;                                              \
    }                                                                   \
  } while (false)

// ASSIGN_OR_RETURN(auto x, F()): moves the value out of a StatusOr, or returns its status.
#define ASSIGN_OR_RETURN(declaration, expression) \
  ASSIGN_OR_RETURN_IMPL(CRESCENDO_CONCAT(status_or_, __LINE__), declaration, expression)
#define ASSIGN_OR_RETURN_IMPL(name, declaration, expression) \
  auto name = (expression);                                  \
  if (!name.ok()) return name.status();                      \
  declaration = std::move(name).value()

#define CRESCENDO_CHECK(condition) \
  ((condition) ? (void)0 : ::crescendo::CheckFailed(__FILE__, __LINE__, #condition))

#endif  // CRESCENDO_COMMON_BASE_STATUS_MACROS_H_
