// Sets of real numbers as disjoint intervals in order: what intervals, unions and inequalities come
// down to.
//
// Plain values; the builder is thread-compatible.
#ifndef CRESCENDO_SERVICES_REWARD_REAL_SET_H_
#define CRESCENDO_SERVICES_REWARD_REAL_SET_H_

#include <optional>
#include <vector>

#include "services/reward/expression.h"
#include "services/reward/scalar_equal.h"

namespace crescendo {

struct Interval {
  NodeId low = kNoNode;
  NodeId high = kNoNode;
  bool closed_low = false;
  bool closed_high = false;
};

using RealSet = std::vector<Interval>;  // disjoint, not touching, ascending
inline constexpr size_t kIntervalsMax = 64;

class RealSetBuilder {
 public:
  RealSetBuilder(Expressions* expressions, ScalarComparer* scalars)
      : ex_(*expressions), scalars_(*scalars) {}

  // The set that a node stands for; nullopt when it stands for none, or ends cannot be ordered.
  // After that, variable() is the name that its inequalities use, or kNoNode.
  std::optional<RealSet> Build(NodeId id);
  NodeId variable() const { return variable_; }

 private:
  std::optional<RealSet> FromRelation(NodeId id);
  std::optional<RealSet> FromPair(NodeId left, char relation, NodeId right);
  std::optional<RealSet> Normalised(RealSet intervals);
  std::optional<RealSet> Intersect(const RealSet& a, const RealSet& b);
  RealSet Complement(const RealSet& set);
  NodeId Infinity(bool negative);

  Expressions& ex_;
  ScalarComparer& scalars_;
  NodeId variable_ = kNoNode;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_REAL_SET_H_
