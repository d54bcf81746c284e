// Expressions and answers as nodes of an arena.
//
// Equal subtrees are one node (hash-consing): the same id is the same expression, and every pass
// over a tree can remember its result by id and so is linear in the number of nodes. Sums and
// products are flat and their children sorted, so that a + b and b + a are one node. Children have
// smaller ids than their parents.
//
// Invariants: at most kNodesMax nodes; ids are dense from 0. Thread-compatible; copies are deep.
#ifndef CRESCENDO_SERVICES_REWARD_EXPRESSION_H_
#define CRESCENDO_SERVICES_REWARD_EXPRESSION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "services/reward/rational.h"
#include "services/reward/units.h"

namespace crescendo {

inline constexpr int kNodesMax = 4096;
inline constexpr int kDepthMax = 1000;

enum class Op : uint8_t {
  // Scalars.
  kNumber,  // payload: index of a Number
  kSymbol,  // payload: index of a string
  kPi,
  kE,
  kI,
  kInfinity,  // positive
  kAdd,
  kMul,
  kPow,        // base, exponent; the principal value
  kRoot,       // radicand, index: real for a negative radicand and an odd index
  kFunction,   // payload: Function; arguments
  kPlusMinus,  // child with both signs; payload 0: plus above, 1: minus above
  kQuantity,   // child; payload: index of a Unit
  kPercent,    // child
  // Structures.
  kList,   // alternatives or several answers, without order
  kTuple,  // payload: bit 0 closed at the left, bit 1 closed at the right
  kSet,
  kUnion,
  kIntersection,
  kDifference,
  kRelation,  // a chain: children; payload: index of a string of relation characters, one between
              // each two children
  kMatrix,    // payload: columns
  kRatio,     // a : b : ...
  kText,      // payload: index of a string, normalised words
  kEmptySet,
  kReals,
  kNone,  // no node: the result of a failed construction
};

enum class Function : uint8_t {
  kSin,
  kCos,
  kTan,
  kCot,
  kSec,
  kCsc,
  kAsin,
  kAcos,
  kAtan,
  kSinh,
  kCosh,
  kTanh,
  kLn,
  kLog,  // kLog without a base: base 10
  kExp,
  kAbs,
  kFloor,
  kCeil,
  kFactorial,
  kDoubleFactorial,
  kBinomial,
  kGcd,
  kLcm,
  kMax,
  kMin,
  kMod,
  kRe,
  kIm,
  kConj,
  kArg,
};

using NodeId = uint32_t;
inline constexpr NodeId kNoNode = ~NodeId{0};

struct Number {
  Rational value;
  int32_t decimals = -1;     // digits after the point as written; -1: not written as a decimal
  int32_t digits = 0;        // significant digits as written
  int32_t base_digits = -1;  // index of the digits' string when a base was given (1011_2)
};

// What is known of a node, with what is below it.
struct Traits {
  bool symbols : 1;  // has a variable
  bool decimal : 1;  // has a number written as a decimal
  bool plus_minus : 1;
  bool transcendental : 1;  // has pi, e, or a function that is not algebraic
  bool radical : 1;         // has a root or a power that is not whole
  bool infinite : 1;
  bool structure : 1;  // is not a scalar
  bool units : 1;      // has a quantity or a percentage
};

struct Node {
  Op op = Op::kNone;
  Traits traits = {};
  uint16_t depth = 0;
  uint32_t payload = 0;
  uint32_t first_child = 0;
  uint32_t children = 0;
  uint64_t hash = 0;
};

class Expressions {
 public:
  const Node& node(NodeId id) const { return nodes_[id]; }
  Op op(NodeId id) const { return nodes_[id].op; }
  absl::Span<const NodeId> children(NodeId id) const {
    return {children_.data() + nodes_[id].first_child, nodes_[id].children};
  }
  NodeId child(NodeId id, size_t i) const { return children_[nodes_[id].first_child + i]; }
  const Number& number(NodeId id) const { return numbers_[nodes_[id].payload]; }
  const std::string& text(NodeId id) const { return strings_[nodes_[id].payload]; }
  const Unit& unit(NodeId id) const { return units_[nodes_[id].payload]; }
  const std::string& string(uint32_t index) const { return strings_[index]; }
  Function function(NodeId id) const { return static_cast<Function>(nodes_[id].payload); }
  size_t size() const { return nodes_.size(); }
  // More was asked for than kNodesMax; constructions since then returned kNoNode.
  bool full() const { return full_; }
  void Clear();

  // Constructors. kNoNode as a child, or an arena that is full, gives kNoNode.
  NodeId MakeNumber(Number number);
  NodeId MakeInteger(int64_t value);
  NodeId MakeRational(const Rational& value);
  NodeId MakeSymbol(absl::string_view name) { return MakeNamed(Op::kSymbol, name); }
  NodeId MakeText(absl::string_view words) { return MakeNamed(Op::kText, words); }
  NodeId MakeConstant(Op op) { return Make(op, 0, {}); }
  NodeId MakeAdd(absl::Span<const NodeId> terms) { return MakeFlat(Op::kAdd, terms); }
  NodeId MakeMul(absl::Span<const NodeId> factors) { return MakeFlat(Op::kMul, factors); }
  NodeId MakeNegation(NodeId x);
  NodeId MakeDifference(NodeId a, NodeId b);
  NodeId MakeQuotient(NodeId a, NodeId b);
  NodeId MakePow(NodeId base, NodeId exponent) { return Make(Op::kPow, 0, {base, exponent}); }
  NodeId MakeRoot(NodeId radicand, NodeId index) { return Make(Op::kRoot, 0, {radicand, index}); }
  NodeId MakeFunction(Function function, absl::Span<const NodeId> arguments) {
    return Make(Op::kFunction, static_cast<uint32_t>(function), arguments);
  }
  NodeId MakeQuantity(NodeId x, Unit unit);
  NodeId MakeRelation(absl::Span<const NodeId> sides, absl::string_view relations);
  NodeId Make(Op op, uint32_t payload, absl::Span<const NodeId> children);
  NodeId Make(Op op, uint32_t payload, std::initializer_list<NodeId> children) {
    return Make(op, payload, absl::MakeConstSpan(children.begin(), children.size()));
  }
  uint32_t Intern(absl::string_view text);

  // The same node with other children.
  NodeId WithChildren(NodeId id, absl::Span<const NodeId> children);

 private:
  NodeId MakeNamed(Op op, absl::string_view name) { return Make(op, Intern(name), {}); }
  NodeId MakeFlat(Op op, absl::Span<const NodeId> parts);
  bool Same(NodeId id, Op op, uint32_t payload, absl::Span<const NodeId> children) const;
  Traits TraitsOf(Op op, uint32_t payload, absl::Span<const NodeId> children) const;

  std::vector<Node> nodes_;
  std::vector<NodeId> children_;
  std::vector<Number> numbers_;
  std::vector<std::string> strings_;
  std::vector<Unit> units_;
  absl::flat_hash_map<uint64_t, NodeId> index_;
  bool full_ = false;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_EXPRESSION_H_
