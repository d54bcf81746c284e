#include "services/reward/expression.h"

#include <algorithm>
#include <utility>

#include "common/base/rng.h"

namespace crescendo {
namespace {

uint64_t HashString(absl::string_view text) {
  uint64_t hash = 0x9e3779b97f4a7c15u ^ text.size();
  for (char c : text) hash = MixSeed(hash, static_cast<uint8_t>(c));
  return hash;
}

uint64_t HashInteger(const fmpz* value) {
  constexpr uint64_t kPrime = 0x1fffffffffffffffu;  // 2^61 - 1
  return MixSeed(fmpz_fdiv_ui(value, kPrime), static_cast<uint64_t>(fmpz_get_si(value)));
}

bool IsStructure(Op op) { return op >= Op::kList && op != Op::kNone; }

bool IsAlgebraic(Function function) {
  switch (function) {
    case Function::kAbs:
    case Function::kFloor:
    case Function::kCeil:
    case Function::kBinomial:
    case Function::kFactorial:
    case Function::kDoubleFactorial:
    case Function::kGcd:
    case Function::kLcm:
    case Function::kMax:
    case Function::kMin:
    case Function::kMod:
      return true;
    default:
      return false;
  }
}

}  // namespace

void Expressions::Clear() {
  nodes_.clear();
  children_.clear();
  numbers_.clear();
  strings_.clear();
  units_.clear();
  index_.clear();
  full_ = false;
}

uint32_t Expressions::Intern(absl::string_view text) {
  for (size_t i = 0; i < strings_.size(); ++i) {
    if (strings_[i] == text) return static_cast<uint32_t>(i);
  }
  strings_.emplace_back(text);
  return static_cast<uint32_t>(strings_.size() - 1);
}

NodeId Expressions::MakeNumber(Number number) {
  // An equal number is found by its hash, as Make would compute it.
  numbers_.push_back(std::move(number));
  const size_t size = nodes_.size();
  const NodeId id = Make(Op::kNumber, static_cast<uint32_t>(numbers_.size() - 1), {});
  if (id == kNoNode || id < size) numbers_.pop_back();
  return id;
}

NodeId Expressions::MakeInteger(int64_t value) {
  Number number;
  number.value = Rational(value);
  return MakeNumber(std::move(number));
}

NodeId Expressions::MakeRational(const Rational& value) {
  Number number;
  number.value = value;
  return MakeNumber(std::move(number));
}

NodeId Expressions::MakeNegation(NodeId x) {
  if (x == kNoNode) return kNoNode;
  if (op(x) == Op::kNumber) {
    Number number = this->number(x);
    fmpq_neg(number.value.get(), number.value.get());
    number.base_digits = -1;
    return MakeNumber(std::move(number));
  }
  return MakeMul({MakeInteger(-1), x});
}

NodeId Expressions::MakeDifference(NodeId a, NodeId b) { return MakeAdd({a, MakeNegation(b)}); }

NodeId Expressions::MakeQuotient(NodeId a, NodeId b) {
  return MakeMul({a, MakePow(b, MakeInteger(-1))});
}

NodeId Expressions::MakeQuantity(NodeId x, Unit unit) {
  for (size_t i = 0; i < units_.size(); ++i) {
    if (units_[i] == unit) return Make(Op::kQuantity, static_cast<uint32_t>(i), {x});
  }
  units_.push_back(std::move(unit));
  return Make(Op::kQuantity, static_cast<uint32_t>(units_.size() - 1), {x});
}

NodeId Expressions::MakeRelation(absl::Span<const NodeId> sides, absl::string_view relations) {
  return Make(Op::kRelation, Intern(relations), sides);
}

NodeId Expressions::MakeFlat(Op op, absl::Span<const NodeId> parts) {
  absl::InlinedVector<NodeId, 16> flat;
  for (NodeId part : parts) {
    if (part == kNoNode) return kNoNode;
    if (nodes_[part].op == op) {
      for (NodeId inner : children(part)) flat.push_back(inner);
    } else {
      flat.push_back(part);
    }
    if (flat.size() > kNodesMax) return kNoNode;
  }
  if (flat.empty()) return MakeInteger(op == Op::kMul ? 1 : 0);
  if (flat.size() == 1) return flat[0];
  std::sort(flat.begin(), flat.end(),
            [&](NodeId a, NodeId b) { return nodes_[a].hash < nodes_[b].hash; });
  return Make(op, 0, flat);
}

Traits Expressions::TraitsOf(Op op, uint32_t payload, absl::Span<const NodeId> children) const {
  Traits traits = {};
  for (NodeId id : children) {
    const Traits& below = nodes_[id].traits;
    traits.symbols |= below.symbols;
    traits.decimal |= below.decimal;
    traits.plus_minus |= below.plus_minus;
    traits.transcendental |= below.transcendental;
    traits.radical |= below.radical;
    traits.infinite |= below.infinite;
    traits.structure |= below.structure;
    traits.units |= below.units;
  }
  traits.symbols |= op == Op::kSymbol;
  traits.decimal |= op == Op::kNumber && numbers_[payload].decimals >= 0;
  traits.plus_minus |= op == Op::kPlusMinus;
  traits.infinite |= op == Op::kInfinity;
  traits.structure |= IsStructure(op);
  traits.units |= op == Op::kQuantity || op == Op::kPercent;
  traits.transcendental |=
      op == Op::kPi || op == Op::kE || (op == Op::kQuantity && units_[payload].degrees);
  traits.transcendental |= op == Op::kFunction && !IsAlgebraic(static_cast<Function>(payload));
  traits.radical |= op == Op::kRoot || op == Op::kI;
  if (op == Op::kPow) {
    const Node& exponent = nodes_[children[1]];
    const bool whole = exponent.op == Op::kNumber && numbers_[exponent.payload].value.is_integer();
    traits.radical |= !whole;
    traits.transcendental |= !whole && (exponent.traits.symbols || exponent.traits.radical);
  }
  return traits;
}

bool Expressions::Same(NodeId id, Op op, uint32_t payload,
                       absl::Span<const NodeId> children) const {
  const Node& node = nodes_[id];
  if (node.op != op || this->children(id) != children) return false;
  if (op != Op::kNumber || node.payload == payload) return node.payload == payload;
  const Number& a = numbers_[node.payload];
  const Number& b = numbers_[payload];
  return a.decimals == b.decimals && a.digits == b.digits && a.base_digits == b.base_digits &&
         a.value == b.value;
}

NodeId Expressions::Make(Op op, uint32_t payload, absl::Span<const NodeId> children) {
  uint64_t hash = MixSeed(static_cast<uint64_t>(op) + 0x51ed27, children.size());
  uint16_t depth = 0;
  for (NodeId id : children) {
    if (id == kNoNode) return kNoNode;
    hash = MixSeed(hash, nodes_[id].hash);
    depth = std::max<uint16_t>(depth, nodes_[id].depth);
  }
  switch (op) {  // The hash is of the contents, so that it does not depend on the order of
                 // construction.
    case Op::kNumber: {
      const Number& number = numbers_[payload];
      hash = MixSeed(hash, HashInteger(number.value.numerator()));
      hash = MixSeed(hash, HashInteger(number.value.denominator()));
      hash = MixSeed(hash, static_cast<uint64_t>(number.decimals) * 4096 + number.digits);
      hash = MixSeed(hash, static_cast<uint64_t>(number.base_digits));
      break;
    }
    case Op::kSymbol:
    case Op::kText:
    case Op::kRelation:
      hash = MixSeed(hash, HashString(strings_[payload]));
      break;
    default:
      hash = MixSeed(hash, payload);
  }
  auto at = index_.find(hash);
  while (at != index_.end()) {
    if (Same(at->second, op, payload, children)) return at->second;
    hash = MixSeed(hash, 1);  // two contents with one hash: never seen, but never taken for equal
    at = index_.find(hash);
  }
  if (full_ || nodes_.size() >= kNodesMax || depth >= kDepthMax) {
    full_ = true;
    return kNoNode;
  }
  index_.emplace(hash, static_cast<NodeId>(nodes_.size()));
  Node node;
  node.op = op;
  node.traits = TraitsOf(op, payload, children);
  node.depth = static_cast<uint16_t>(depth + 1);
  node.payload = payload;
  // `children` may point into children_, which grows.
  const absl::InlinedVector<NodeId, 16> copy(children.begin(), children.end());
  node.first_child = static_cast<uint32_t>(children_.size());
  node.children = static_cast<uint32_t>(copy.size());
  node.hash = hash;
  children_.insert(children_.end(), copy.begin(), copy.end());
  nodes_.push_back(node);
  return static_cast<NodeId>(nodes_.size() - 1);
}

NodeId Expressions::WithChildren(NodeId id, absl::Span<const NodeId> children) {
  const Op op = nodes_[id].op;
  if (op == Op::kAdd || op == Op::kMul) return MakeFlat(op, children);
  return Make(op, nodes_[id].payload, children);
}

}  // namespace crescendo
