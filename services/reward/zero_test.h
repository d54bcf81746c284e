// Whether an algebraic constant is zero, proven: by a separation bound and a ball of enough
// precision.
//
// The bound is BFMSS (Burnikel, Funke, Mehlhorn, Schirra, Schmitt, "A separation bound for real
// algebraic expressions", Algorithmica 55, 2009, theorem 1): an expression of whole numbers, sums,
// products, quotients and k-th roots with parameters u, l (its table 1) and D, the product of the
// indices of its distinct roots, is zero or at least (u^(D-1) l)^-1 in size. Extended by 2 sin and
// 2 cos of rational multiples of pi: algebraic integers whose conjugates are at most 2 in size and
// whose degree is at most twice the denominator; complex values need nothing more, since u and l
// bound conjugates by their size. Thread-compatible.
#ifndef CRESCENDO_SERVICES_REWARD_ZERO_TEST_H_
#define CRESCENDO_SERVICES_REWARD_ZERO_TEST_H_

#include <cstdint>

#include "services/reward/expression.h"
#include "services/reward/work_budget.h"

namespace crescendo {

enum class ZeroTest : uint8_t { kZero, kNotZero, kUnknown };

inline constexpr int64_t kZeroTestBitsMax = 12'000;

// `id` must be folded. kUnknown for what is not algebraic, or needs more than kZeroTestBitsMax bits
// or the budget.
ZeroTest TestZero(const Expressions& expressions, NodeId id, WorkBudget* budget);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_ZERO_TEST_H_
