// A token among the most probable ones of a position, with its log-probability.
#ifndef CRESCENDO_COMMON_BASE_TOP_TOKEN_H_
#define CRESCENDO_COMMON_BASE_TOP_TOKEN_H_

#include <cstdint>

namespace crescendo {

struct TopToken {
  int32_t token = 0;
  float log_prob = 0;  // as the drawn token's: at the request's temperature, before truncation
};

// Of one position at most.
inline constexpr int kTopTokensMax = 20;

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_BASE_TOP_TOKEN_H_
