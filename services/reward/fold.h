// Constant folding, plainly or at a point.
//
// Without a point: arithmetic of rationals is carried out exactly, and the value of the expression
// does not change. With a point: every variable becomes a random whole number of 61 bits, and so
// does every transcendental constant and every value of a transcendental function, keyed by the
// function and its argument's value at the point; what comes out is an algebraic constant. Two
// expressions that agree at such a point (and were not constant there) are identical as rational
// functions in those quantities, but for a probability of at most degree / 2^61 (Schwartz 1980,
// Zippel 1979), hence equal. The reverse does not hold when transcendental functions are involved
// (sin^2 + cos^2 = 1 is not seen).
//
// Exact powers: b^(m + n) = b^m b^n, (2^a)^m = (2^m)^a, n! = n (n-1)!, ln(ab) = ln a + ln b for
// rational a, b > 0. Thread-compatible. Bounds: kRationalBitsMax for each number, the budget.
#ifndef CRESCENDO_SERVICES_REWARD_FOLD_H_
#define CRESCENDO_SERVICES_REWARD_FOLD_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "services/reward/expression.h"
#include "services/reward/work_budget.h"

namespace crescendo {

struct Point {
  uint64_t seed = 0;
  bool negative = false;  // variables are negative
};

class Folder {
 public:
  // `point` may be null; it must outlive the folder.
  Folder(Expressions* expressions, WorkBudget* budget, const Point* point)
      : ex_(*expressions), budget_(*budget), point_(point) {}

  // kNoNode when the value is undefined (1/0), infinite, too large, not a scalar, or the budget is
  // spent.
  NodeId Fold(NodeId id);
  bool too_large() const { return too_large_; }

 private:
  NodeId FoldUncached(NodeId id);
  NodeId FoldAdd(NodeId id);
  NodeId FoldMul(NodeId id);
  NodeId FoldPow(NodeId id);
  NodeId FoldRoot(NodeId radicand, NodeId index);
  NodeId FoldFunction(NodeId id);
  NodeId FoldIntegerFunction(Function function, const std::vector<const Rational*>& arguments);
  NodeId SymbolicBinomial(NodeId n, NodeId k);
  NodeId FoldFactorial(const Rational& n, bool twice);
  NodeId FoldTrigonometric(NodeId id, NodeId argument);
  NodeId FoldLogarithm(NodeId argument);
  NodeId OpaqueAngle(Function function, NodeId angle);
  NodeId OpaqueFunction(Function function, const std::vector<NodeId>& arguments);
  NodeId FoldSign(NodeId id, Function function, NodeId argument);
  NodeId RationalPower(const Rational& base, const Rational& exponent);
  NodeId OpaquePower(NodeId base, NodeId exponent);
  NodeId OpaqueFactorial(NodeId argument);
  NodeId PrimePowers(const Rational& base, uint64_t key, const Rational& coefficient);
  NodeId Opaque(uint64_t key);
  NodeId Made(Rational value);
  const Rational* NumberOf(NodeId id) const;

  Expressions& ex_;
  WorkBudget& budget_;
  const Point* point_;
  std::vector<NodeId> memo_;   // by id; kNoNode: not yet
  std::vector<bool> visited_;  // by id
  bool too_large_ = false;
};

// q when the node is q * pi for a rational q (in folded form, without a point); nullopt for
// anything else.
std::optional<Rational> RationalMultipleOfPi(const Expressions& expressions, NodeId id);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_FOLD_H_
