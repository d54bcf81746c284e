#include "services/reward/fold.h"

#include <algorithm>
#include <utility>

#include "common/base/rng.h"
#include "services/reward/ball.h"

namespace crescendo {
namespace {

constexpr int64_t kFactorialMax = 5000;

}  // namespace

std::optional<Rational> RationalMultipleOfPi(const Expressions& ex, NodeId id) {
  if (ex.op(id) == Op::kPi) return Rational(1);
  if (ex.op(id) == Op::kNumber && ex.number(id).value.is_zero()) return Rational(0);
  if (ex.op(id) != Op::kMul || ex.children(id).size() != 2) return std::nullopt;
  NodeId number = ex.child(id, 0), pi = ex.child(id, 1);
  if (ex.op(number) == Op::kPi) std::swap(number, pi);
  if (ex.op(number) != Op::kNumber || ex.op(pi) != Op::kPi) return std::nullopt;
  return ex.number(number).value;
}

const Rational* Folder::NumberOf(NodeId id) const {
  return id != kNoNode && ex_.op(id) == Op::kNumber ? &ex_.number(id).value : nullptr;
}

NodeId Folder::Made(Rational value) {
  const int64_t bits = value.bits();
  if (bits > kRationalBitsMax) {
    too_large_ = true;
    return kNoNode;
  }
  if (!budget_.Charge(1 + bits / 32)) return kNoNode;
  return ex_.MakeRational(value);
}

NodeId Folder::Opaque(uint64_t key) {
  const uint64_t value = (MixSeed(point_->seed, key) >> 3) | 1;
  Rational number;
  fmpz_set_ui(number.numerator(), value);
  return Made(std::move(number));
}

NodeId Folder::Fold(NodeId id) {
  if (id == kNoNode || budget_.spent()) return kNoNode;
  if (id < visited_.size() && visited_[id]) return memo_[id];
  const NodeId result = FoldUncached(id);
  if (visited_.size() < ex_.size()) {
    visited_.resize(ex_.size(), false);
    memo_.resize(ex_.size(), kNoNode);
  }
  visited_[id] = true;
  memo_[id] = result;
  return result;
}

NodeId Folder::FoldUncached(NodeId id) {
  budget_.Charge(1);
  switch (ex_.op(id)) {
    case Op::kNumber:
      return Made(ex_.number(id).value);
    case Op::kSymbol: {
      if (point_ == nullptr) return id;
      const NodeId value = Opaque(ex_.node(id).hash);
      return point_->negative ? ex_.MakeNegation(value) : value;
    }
    case Op::kPi:
    case Op::kE:
      return point_ == nullptr ? id : Opaque(ex_.node(id).hash);
    case Op::kI:
      return id;
    case Op::kAdd:
      return FoldAdd(id);
    case Op::kMul:
      return FoldMul(id);
    case Op::kPow:
      return FoldPow(id);
    case Op::kRoot:
      return FoldRoot(Fold(ex_.child(id, 0)), Fold(ex_.child(id, 1)));
    case Op::kFunction:
      return FoldFunction(id);
    case Op::kQuantity: {
      const Unit& unit = ex_.unit(id);
      if (!unit.degrees) return kNoNode;
      const NodeId pi_over_180 =
          ex_.MakeMul({ex_.MakeConstant(Op::kPi), ex_.MakeRational(Rational(1, 180))});
      return Fold(ex_.MakeMul({ex_.child(id, 0), pi_over_180}));
    }
    case Op::kPercent:
      return Fold(ex_.MakeMul({ex_.child(id, 0), ex_.MakeRational(Rational(1, 100))}));
    default:
      return kNoNode;
  }
}

NodeId Folder::FoldAdd(NodeId id) {
  const std::vector<NodeId> terms(ex_.children(id).begin(), ex_.children(id).end());
  Rational sum;
  std::vector<NodeId> rest;
  for (NodeId term : terms) {
    const NodeId folded = Fold(term);
    if (folded == kNoNode) return kNoNode;
    std::vector<NodeId> parts = {folded};
    if (ex_.op(folded) == Op::kAdd)
      parts.assign(ex_.children(folded).begin(), ex_.children(folded).end());
    for (NodeId part : parts) {
      if (const Rational* number = NumberOf(part)) {
        fmpq_add(sum.get(), sum.get(), number->get());
        if (sum.bits() > kRationalBitsMax) too_large_ = true;
        if (!budget_.Charge(1 + sum.bits() / 32) || too_large_) return kNoNode;
      } else {
        rest.push_back(part);
      }
    }
  }
  if (!sum.is_zero() || rest.empty()) rest.push_back(Made(std::move(sum)));
  return ex_.MakeAdd(rest);
}

NodeId Folder::FoldMul(NodeId id) {
  const std::vector<NodeId> factors(ex_.children(id).begin(), ex_.children(id).end());
  Rational product(1);
  std::vector<NodeId> rest;
  for (NodeId factor : factors) {
    const NodeId folded = Fold(factor);
    if (folded == kNoNode) return kNoNode;
    std::vector<NodeId> parts = {folded};
    if (ex_.op(folded) == Op::kMul)
      parts.assign(ex_.children(folded).begin(), ex_.children(folded).end());
    for (NodeId part : parts) {
      if (const Rational* number = NumberOf(part)) {
        fmpq_mul(product.get(), product.get(), number->get());
        if (product.bits() > kRationalBitsMax) too_large_ = true;
        if (!budget_.Charge(1 + product.bits() / 32) || too_large_) return kNoNode;
      } else {
        rest.push_back(part);
      }
    }
  }
  if (product.is_zero()) return ex_.MakeInteger(0);
  if (!product.is_one() || rest.empty()) rest.push_back(Made(std::move(product)));
  return ex_.MakeMul(rest);
}

// base^exponent for rationals: a number, a root, or kNoNode (undefined, too large).
NodeId Folder::RationalPower(const Rational& base, const Rational& exponent) {
  if (exponent.is_zero()) return ex_.MakeInteger(1);
  if (base.is_zero()) return exponent.sign() > 0 ? ex_.MakeInteger(0) : kNoNode;
  if (base.is_one()) return ex_.MakeInteger(1);
  if (fmpz_bits(exponent.denominator()) > 16) {
    too_large_ = true;
    return kNoNode;
  }
  const bool minus_one = base == Rational(-1);
  if (minus_one && exponent.is_integer())
    return ex_.MakeInteger(fmpz_is_even(exponent.numerator()) ? 1 : -1);
  const bool fits = fmpz_bits(exponent.numerator()) <= 20;
  const int64_t power = fits ? fmpz_get_si(exponent.numerator()) : 0;
  if (!fits || (power < 0 ? -power : power) * base.bits() > kRationalBitsMax) {
    too_large_ = true;
    return kNoNode;
  }
  if (exponent.is_integer()) {
    Rational result;
    fmpq_pow_si(result.get(), base.get(), power);
    return Made(std::move(result));
  }
  const int64_t index = fmpz_get_si(exponent.denominator());
  if (base.sign() > 0) {
    Rational radicand;
    fmpq_pow_si(radicand.get(), base.get(), power);
    return FoldRoot(Made(std::move(radicand)), ex_.MakeInteger(index));
  }
  // Of a negative base the principal value: for a square root i times the root of its size.
  Rational positive;
  fmpq_neg(positive.get(), base.get());
  if (index == 2) {
    const NodeId root = FoldRoot(Made(std::move(positive)), ex_.MakeInteger(2));
    return Fold(ex_.MakePow(ex_.MakeMul({ex_.MakeConstant(Op::kI), root}), ex_.MakeInteger(power)));
  }
  return ex_.MakePow(Made(Rational(base)), Made(Rational(exponent)));
}

NodeId Folder::FoldRoot(NodeId radicand, NodeId index_id) {
  const Rational* index_value = NumberOf(index_id);
  if (radicand == kNoNode || index_value == nullptr || !index_value->is_integer()) return kNoNode;
  if (fmpz_cmp_si(index_value->numerator(), 2) < 0 ||
      fmpz_cmp_si(index_value->numerator(), 65535) > 0) {
    return index_value->is_one() ? radicand : kNoNode;
  }
  const int64_t index = fmpz_get_si(index_value->numerator());
  const Rational* number = NumberOf(radicand);
  if (number == nullptr) return ex_.MakeRoot(radicand, ex_.MakeInteger(index));
  const Rational x = *number;
  if (x.is_zero()) return ex_.MakeInteger(0);
  if (x.sign() < 0) {
    Rational positive;
    fmpq_neg(positive.get(), x.get());
    const NodeId root = FoldRoot(Made(std::move(positive)), ex_.MakeInteger(index));
    if (index % 2 == 1) return Fold(ex_.MakeNegation(root));
    if (index == 2) return Fold(ex_.MakeMul({ex_.MakeConstant(Op::kI), root}));
    return ex_.MakePow(Made(Rational(x)), Made(Rational(1, static_cast<uint64_t>(index))));
  }
  if (!budget_.Charge(4 + x.bits() / 8)) return kNoNode;
  Rational root;
  if (fmpz_root(root.numerator(), x.numerator(), index) &&
      fmpz_root(root.denominator(), x.denominator(), index)) {
    return Made(std::move(root));
  }
  return ex_.MakeRoot(Made(Rational(x)), ex_.MakeInteger(index));
}

NodeId Folder::FoldPow(NodeId id) {
  const NodeId base_id = ex_.child(id, 0), exponent_id = ex_.child(id, 1);
  if (point_ == nullptr && ex_.op(base_id) == Op::kE) {  // e^(q pi i) = cos(q pi) + i sin(q pi)
    const NodeId over_i = Fold(
        ex_.MakeMul({exponent_id, ex_.MakePow(ex_.MakeConstant(Op::kI), ex_.MakeInteger(-1))}));
    if (over_i != kNoNode && RationalMultipleOfPi(ex_, over_i) && NumberOf(over_i) == nullptr) {
      return Fold(ex_.MakeAdd(
          {ex_.MakeFunction(Function::kCos, {over_i}),
           ex_.MakeMul({ex_.MakeConstant(Op::kI), ex_.MakeFunction(Function::kSin, {over_i})})}));
    }
  }
  const Traits exponent_traits = ex_.node(exponent_id).traits;
  const NodeId base = Fold(base_id);
  if (base == kNoNode) return kNoNode;
  if (point_ != nullptr &&
      (exponent_traits.symbols || exponent_traits.transcendental || exponent_traits.radical)) {
    return OpaquePower(base, exponent_id);
  }
  const NodeId exponent = Fold(exponent_id);
  const Rational* power = NumberOf(exponent);
  if (power == nullptr) return exponent == kNoNode ? kNoNode : ex_.MakePow(base, exponent);
  if (const Rational* number = NumberOf(base))
    return RationalPower(Rational(*number), Rational(*power));
  if (power->is_zero()) return ex_.MakeInteger(1);
  if (power->is_one()) return base;
  if (ex_.op(base) == Op::kI && power->is_integer()) {
    switch (fmpz_fdiv_ui(power->numerator(), 4)) {
      case 0:
        return ex_.MakeInteger(1);
      case 1:
        return base;
      case 2:
        return ex_.MakeInteger(-1);
      default:
        return ex_.MakeNegation(base);
    }
  }
  if (power->is_integer() && fmpz_bits(power->numerator()) > 12) {
    too_large_ = true;
    return kNoNode;
  }
  if (power->is_integer() && ex_.op(base) == Op::kMul) {  // (ab)^k = a^k b^k
    std::vector<NodeId> factors;
    const std::vector<NodeId> parts(ex_.children(base).begin(), ex_.children(base).end());
    factors.reserve(parts.size());
    for (NodeId part : parts) factors.push_back(ex_.MakePow(part, exponent));
    return Fold(ex_.MakeMul(factors));
  }
  return ex_.MakePow(base, exponent);
}

// Transcendental powers at a point: the exponent as a sum of rational multiples of terms.
NodeId Folder::OpaquePower(NodeId base, NodeId exponent) {
  std::vector<NodeId> terms = {exponent};
  if (ex_.op(exponent) == Op::kAdd)
    terms.assign(ex_.children(exponent).begin(), ex_.children(exponent).end());
  std::vector<NodeId> factors;
  for (NodeId term : terms) {
    Rational coefficient(1);
    std::vector<NodeId> rest, parts = {term};
    if (ex_.op(term) == Op::kMul)
      parts.assign(ex_.children(term).begin(), ex_.children(term).end());
    for (NodeId part : parts) {
      const NodeId folded = Fold(part);
      if (folded == kNoNode) return kNoNode;
      const bool constant = ex_.op(part) == Op::kNumber ||
                            (ex_.op(part) == Op::kPow && !ex_.node(part).traits.symbols);
      if (constant && NumberOf(folded) != nullptr) {
        fmpq_mul(coefficient.get(), coefficient.get(), NumberOf(folded)->get());
      } else {
        rest.push_back(folded);
      }
    }
    if (coefficient.bits() > 64) return kNoNode;
    if (rest.empty()) {
      factors.push_back(Fold(ex_.MakePow(base, Made(std::move(coefficient)))));
      continue;
    }
    const NodeId value = Fold(ex_.MakeMul(rest));
    if (value == kNoNode) return kNoNode;
    const Rational* number = NumberOf(base);
    if (number != nullptr) {
      factors.push_back(PrimePowers(Rational(*number), ex_.node(value).hash, coefficient));
    } else {
      const NodeId opaque = Opaque(MixSeed(ex_.node(value).hash, ex_.node(base).hash));
      factors.push_back(Fold(ex_.MakePow(opaque, Made(std::move(coefficient)))));
    }
  }
  return Fold(ex_.MakeMul(factors));
}

// base^(coefficient * t), t known by its key: a product of powers of opaque p^t over the small
// primes p of the base.
NodeId Folder::PrimePowers(const Rational& base, uint64_t key, const Rational& coefficient) {
  if (base.is_zero()) return kNoNode;
  std::vector<NodeId> factors;
  const auto add = [&](uint64_t prime_key, int64_t power) {
    Rational exponent;
    fmpq_mul_si(exponent.get(), coefficient.get(), power);
    const NodeId opaque = Opaque(MixSeed(key, prime_key));
    if (exponent.is_integer()) {
      factors.push_back(Fold(ex_.MakePow(opaque, Made(std::move(exponent)))));
    } else {  // the fraction belongs to the key: 2^(n/2) is its own quantity
      const NodeId fraction = ex_.MakeRational(exponent);
      factors.push_back(Opaque(
          MixSeed(MixSeed(key, prime_key), fraction == kNoNode ? 0 : ex_.node(fraction).hash)));
    }
  };
  if (base.sign() < 0) add(~uint64_t{0}, 1);
  for (int side = 0; side < 2; ++side) {
    Rational left;
    fmpz_abs(left.numerator(), side == 0 ? base.numerator() : base.denominator());
    for (uint64_t prime = 2; prime < 1000 && !fmpz_is_one(left.numerator()); ++prime) {
      int64_t power = 0;
      while (fmpz_divisible_si(left.numerator(), static_cast<slong>(prime))) {
        fmpz_divexact_ui(left.numerator(), left.numerator(), prime);
        ++power;
      }
      if (power > 0) add(prime, side == 0 ? power : -power);
    }
    budget_.Charge(100);
    if (!fmpz_is_one(left.numerator())) {
      const NodeId rest = Made(std::move(left));
      if (rest == kNoNode) return kNoNode;
      add(ex_.node(rest).hash, side == 0 ? 1 : -1);
    }
  }
  return Fold(ex_.MakeMul(factors));
}

// (n + c)! at a point, for a small whole c: n! (n + 1) ... (n + c).
NodeId Folder::OpaqueFactorial(NodeId argument) {
  std::vector<NodeId> terms = {argument};
  if (ex_.op(argument) == Op::kAdd)
    terms.assign(ex_.children(argument).begin(), ex_.children(argument).end());
  int64_t shift = 0;
  std::vector<NodeId> rest;
  for (NodeId term : terms) {
    const Rational* number = NumberOf(term);
    if (number != nullptr && number->is_integer() && fmpz_bits(number->numerator()) < 6) {
      shift += fmpz_get_si(number->numerator());
    } else {
      rest.push_back(term);
    }
  }
  const NodeId base = ex_.MakeAdd(rest), value = Fold(base);
  if (value == kNoNode) return kNoNode;
  std::vector<NodeId> factors = {Opaque(MixSeed(ex_.node(value).hash, 0xfac7))};
  for (int64_t i = 1; i <= shift; ++i) factors.push_back(ex_.MakeAdd({base, ex_.MakeInteger(i)}));
  for (int64_t i = 0; i > shift; --i) {
    factors.push_back(ex_.MakePow(ex_.MakeAdd({base, ex_.MakeInteger(i)}), ex_.MakeInteger(-1)));
  }
  std::vector<NodeId> folded;
  folded.reserve(factors.size());
  for (NodeId factor : factors) folded.push_back(Fold(factor));
  return Fold(ex_.MakeMul(folded));
}

NodeId Folder::FoldFactorial(const Rational& n, bool twice) {
  if (!n.is_integer() || n.sign() < 0) return kNoNode;
  if (fmpz_cmp_si(n.numerator(), kFactorialMax) > 0) {
    too_large_ = true;
    return kNoNode;
  }
  const auto value = static_cast<ulong>(fmpz_get_ui(n.numerator()));
  if (!budget_.Charge(static_cast<int64_t>(value))) return kNoNode;
  Rational result;
  if (twice) {
    fmpz_one(result.numerator());
    for (ulong i = value; i > 1; i -= 2) fmpz_mul_ui(result.numerator(), result.numerator(), i);
  } else {
    fmpz_fac_ui(result.numerator(), value);
  }
  return Made(std::move(result));
}

}  // namespace crescendo
