// Whether two scalar expressions are equal: the ladder from the cheapest proof to the dearest.
//
//   1. the same node, or the same node after folding;
//   2. rational numbers, exactly;
//   3. balls of 128 bits that do not overlap: different, certified;
//   4. algebraic constants by zero_test.h: equal or different, proven;
//   5. constants with pi, e, logarithms: identity at random points (fold.h), then Calcium; then
//   balls of 1024 bits;
//   6. with variables: identity at two random points, error at most 2^-60; different where a point
//   certifies it.
//
// Only proofs and the stated identity test say "equal"; only certificates say "different".
// Thread-compatible.
#ifndef CRESCENDO_SERVICES_REWARD_SCALAR_EQUAL_H_
#define CRESCENDO_SERVICES_REWARD_SCALAR_EQUAL_H_

#include "services/reward/expression.h"
#include "services/reward/grade.h"
#include "services/reward/work_budget.h"

namespace crescendo {

struct Comparison {
  Verdict verdict = Verdict::kUndecided;
  ReasonCode reason = ReasonCode::kUnproven;
};

class ScalarComparer {
 public:
  // Both outlive the comparer. It adds nodes to the expressions.
  ScalarComparer(Expressions* expressions, WorkBudget* budget)
      : ex_(*expressions), budget_(*budget) {}

  // Are a and b equal? Requires scalars without kPlusMinus.
  Comparison Compare(NodeId a, NodeId b);

  // -1, 0, 1: the sign of a - b for real constants; 2 when it cannot be told. Infinities are
  // allowed.
  int Order(NodeId a, NodeId b);

  // |a - b| <= bound (a rational, > 0): 1 yes, 0 no, -1 cannot be told. Constants.
  int Within(NodeId a, NodeId b, const Rational& bound);

 private:
  Comparison CompareConstants(NodeId a, NodeId b);
  Comparison CompareTranscendental(NodeId difference);
  Comparison CompareWithVariables(NodeId a, NodeId b);
  // The difference at a random point: zero, not zero, or unknown.
  enum class AtPoint : uint8_t { kZero, kNotZero, kUnknown };
  AtPoint DifferenceAt(NodeId a, NodeId b, uint64_t seed, bool negative);
  Comparison Undecided() const;
  bool DiffersInBalls(NodeId a, NodeId b, bool negative);
  int CalciumIsZero(NodeId difference);
  int InfinitySign(NodeId id) const;

  Expressions& ex_;
  WorkBudget& budget_;
  bool too_large_ = false;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_SCALAR_EQUAL_H_
