// What a gold answer is: whether the grader understands it, and of which type. For checking data
// sets before a run. Pure, thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_GOLD_CHECK_H_
#define CRESCENDO_SERVICES_REWARD_GOLD_CHECK_H_

#include "absl/strings/string_view.h"

namespace crescendo {

struct GoldCheck {
  bool parsable = false;
  // "integer", "rational", "decimal", "constant", "expression", "equation", "inequality", "tuple",
  // "set", "list", "interval", "matrix", "ratio", "quantity", "percent", "choice", "text"; "empty"
  // or "unparsable" when it is not parsable.
  absl::string_view type;
};

GoldCheck CheckGold(absl::string_view gold);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_GOLD_CHECK_H_
