// The nearest of some names to one that is not among them: for "did you mean" in error messages.
#ifndef CRESCENDO_COMMON_CONFIG_EDIT_DISTANCE_H_
#define CRESCENDO_COMMON_CONFIG_EDIT_DISTANCE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace crescendo {

// Insertions, deletions, replacements and swaps of neighbours that make `b` of `a` (optimal string
// alignment).
int EditDistance(absl::string_view a, absl::string_view b);

// The candidate with the least distance (the first among equals); empty when there is none, or when
// even the nearest shares too little with `name` to be meant (a distance above 60% of the longer).
std::string Nearest(absl::string_view name, const std::vector<std::string>& candidates);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_CONFIG_EDIT_DISTANCE_H_
