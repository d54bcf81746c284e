// The one way that convert*.cc words what is wrong with a field.
#ifndef CRESCENDO_COMMON_CONVERT_FIELD_CHECK_H_
#define CRESCENDO_COMMON_CONVERT_FIELD_CHECK_H_

#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace crescendo {

// OK when low <= value <= high.
inline absl::Status CheckRange(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": expected ", low, " to ", high, ", found ", value));
}

// OK when `value` is a number within [low, high].
inline absl::Status CheckNumber(absl::string_view field, double value, double low, double high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": expected a number from ", low, " to ", high, ", found ", value));
}

inline absl::Status CheckBytes(absl::string_view field, size_t bytes, size_t bytes_max) {
  if (bytes <= bytes_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": expected at most ", bytes_max, " bytes, found ", bytes));
}

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_CONVERT_FIELD_CHECK_H_
