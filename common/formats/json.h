// JSON from outside: parsed without exceptions, with a bound on nesting, and without repeated keys.
#ifndef CRESCENDO_COMMON_FORMATS_JSON_H_
#define CRESCENDO_COMMON_FORMATS_JSON_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace crescendo {

using Json = nlohmann::json;

// INVALID_ARGUMENT, starting with `place` (a file, a line), for text that is not one JSON value in
// UTF-8, that nests deeper than 64, or that has an object with the same key twice. The caller
// bounds the text's length.
absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view place);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_FORMATS_JSON_H_
