// Text cut for people. Pure.
#ifndef CRESCENDO_COMMON_BASE_SHORTEN_H_
#define CRESCENDO_COMMON_BASE_SHORTEN_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace crescendo {

// The text with its middle left out when it has more than `bytes_max` bytes (a mark says how much);
// the end, where an answer stands, keeps twice as much as the beginning. Cut at UTF-8 characters.
// The result has at most bytes_max bytes when bytes_max is 64 or more.
std::string ShortenMiddle(absl::string_view text, size_t bytes_max);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_BASE_SHORTEN_H_
