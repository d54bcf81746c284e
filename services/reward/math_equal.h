// Whether an answer is the gold answer, by the gold's type: the conventions of
// services/reward/README.md.
//
// Thread-compatible; one for each question. Adds nodes to the expressions.
#ifndef CRESCENDO_SERVICES_REWARD_MATH_EQUAL_H_
#define CRESCENDO_SERVICES_REWARD_MATH_EQUAL_H_

#include <optional>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "services/reward/expression.h"
#include "services/reward/real_set.h"
#include "services/reward/scalar_equal.h"
#include "services/reward/work_budget.h"

namespace crescendo {

// More elements than these are not matched without order.
inline constexpr size_t kUnorderedMax = 128;

class MathComparer {
 public:
  // Both outlive the comparer.
  MathComparer(Expressions* expressions, WorkBudget* budget)
      : ex_(*expressions), budget_(*budget), scalars_(expressions, budget) {}

  Comparison Compare(NodeId gold, NodeId answer) { return Compare(gold, answer, 0); }

 private:
  using Nodes = absl::InlinedVector<NodeId, 8>;

  Comparison Compare(NodeId gold, NodeId answer, int depth);
  Comparison CompareTexts(NodeId gold, NodeId answer);
  std::optional<Comparison> CompareAsText(NodeId gold, NodeId answer);

  // Structures (math_equal_structures.cc).
  std::optional<Comparison> CompareRelations(NodeId gold, NodeId answer, int depth);
  Comparison CompareEquations(NodeId gold, NodeId answer, int depth);
  Comparison CompareInequalities(NodeId gold, NodeId answer);
  bool Proportional(NodeId f, NodeId g);
  NodeId RenameVariables(NodeId id, int depth);
  std::optional<Comparison> CompareRealSets(NodeId gold, NodeId answer);
  Comparison CompareUnordered(const Nodes& gold, const Nodes& answer, bool sets, int depth);
  Comparison CompareInOrder(const Nodes& gold, const Nodes& answer, int depth);
  Comparison CompareTuple(NodeId gold, NodeId answer, int depth);
  Comparison CompareList(NodeId gold, NodeId answer, int depth);
  Comparison CompareSet(NodeId gold, NodeId answer, int depth);
  Comparison CompareMatrix(NodeId gold, NodeId answer, int depth);
  Comparison CompareRatio(NodeId gold, NodeId answer, int depth);
  Comparison ComparePlusMinus(NodeId gold, NodeId answer, int depth);
  Nodes Expand(NodeId id, bool linked);
  NodeId Choose(NodeId id, const std::vector<NodeId>& signs, uint32_t choice, int depth);
  void CollectPlusMinus(NodeId id, std::vector<NodeId>* found, int depth);

  // Scalars (math_equal_scalars.cc).
  Comparison CompareScalars(NodeId gold, NodeId answer);
  Comparison CompareQuantities(NodeId gold, NodeId answer);
  Comparison ComparePercent(NodeId gold, NodeId answer);
  Comparison CompareValues(NodeId gold, NodeId answer);
  int RoundsTo(NodeId gold, NodeId answer, int64_t decimals);
  Comparison CompareRounded(NodeId gold, NodeId answer, Comparison exact);
  NodeId InBaseUnit(NodeId quantity);
  NodeId SymbolsAsUnit(NodeId id);
  NodeId ReplaceLog(NodeId id, int depth);

  Nodes ChildrenOf(NodeId id) const {
    return Nodes(ex_.children(id).begin(), ex_.children(id).end());
  }
  // The last side of a chain of equalities that begins with a name; the node itself when it is
  // none.
  NodeId WithoutName(NodeId id) const;
  bool IsName(NodeId id) const;
  bool IsEquation(NodeId id) const;
  bool IsRealSet(NodeId id) const;

  Expressions& ex_;
  WorkBudget& budget_;
  ScalarComparer scalars_;
};

// The digits of a number that is written as a decimal, perhaps times a power of ten: a unit of its
// last place is 10^-decimals.
struct DecimalForm {
  int64_t decimals = 0;
  int64_t digits = 0;
};
std::optional<DecimalForm> DecimalFormOf(const Expressions& expressions, NodeId id);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_MATH_EQUAL_H_
