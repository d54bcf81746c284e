#include "services/reward/zero_test.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "services/reward/ball.h"
#include "services/reward/fold.h"

namespace crescendo {
namespace {

constexpr double kDegreeMax = 1 << 13;

// log2 of u and l.
struct Bound {
  double u = 0;
  double l = 0;
};

class BoundVisitor {
 public:
  BoundVisitor(const Expressions& expressions, WorkBudget* budget)
      : ex_(expressions), budget_(*budget) {}

  std::optional<Bound> Visit(NodeId id) {
    if (memo_.size() < ex_.size()) memo_.resize(ex_.size());
    if (memo_[id]) return memo_[id];
    if (!budget_.Charge(1)) return std::nullopt;
    memo_[id] = Compute(id);
    if (memo_[id] && (memo_[id]->u > 1e9 || memo_[id]->l > 1e9)) memo_[id].reset();
    return memo_[id];
  }
  double degree() const { return degree_; }

 private:
  static Bound Product(const Bound& a, const Bound& b) { return {a.u + b.u, a.l + b.l}; }

  static Bound Sum(const Bound& a, const Bound& b) {
    const double x = a.u + b.l, y = b.u + a.l;
    return {std::max(x, y) + std::log2(1 + std::exp2(-std::fabs(x - y))) + 1e-9, a.l + b.l};
  }

  Bound Root(const Bound& x, double index) {
    degree_ *= index;
    if (x.u >= x.l) return {(x.u + (index - 1) * x.l) / index + 1e-9, x.l};
    return {x.u, ((index - 1) * x.u + x.l) / index + 1e-9};
  }

  std::optional<Bound> Compute(NodeId id) {
    switch (ex_.op(id)) {
      case Op::kNumber: {
        const Rational& value = ex_.number(id).value;
        return Bound{static_cast<double>(fmpz_bits(value.numerator())),
                     static_cast<double>(fmpz_bits(value.denominator())) -
                         (fmpz_is_one(value.denominator()) ? 1 : 0)};
      }
      case Op::kI:
        degree_ *= 2;
        return Bound{0, 0};
      case Op::kAdd:
      case Op::kMul: {
        std::optional<Bound> total;
        for (NodeId child : ex_.children(id)) {
          const auto bound = Visit(child);
          if (!bound) return std::nullopt;
          total = !total                   ? *bound
                  : ex_.op(id) == Op::kAdd ? Sum(*total, *bound)
                                           : Product(*total, *bound);
        }
        return total;
      }
      case Op::kRoot: {
        const auto bound = Visit(ex_.child(id, 0));
        if (!bound || ex_.op(ex_.child(id, 1)) != Op::kNumber) return std::nullopt;
        return Root(*bound, fmpz_get_d(ex_.number(ex_.child(id, 1)).value.numerator()));
      }
      case Op::kPow:
        return Power(id);
      case Op::kFunction:
        return Trigonometric(id);
      default:
        return std::nullopt;
    }
  }

  std::optional<Bound> Power(NodeId id) {
    const auto base = Visit(ex_.child(id, 0));
    if (!base || ex_.op(ex_.child(id, 1)) != Op::kNumber) return std::nullopt;
    const Rational& exponent = ex_.number(ex_.child(id, 1)).value;
    if (exponent.bits() > 16) return std::nullopt;
    Bound bound = exponent.sign() < 0 ? Bound{base->l, base->u} : *base;
    const double power = std::fabs(fmpz_get_d(exponent.numerator()));
    bound = {bound.u * power, bound.l * power};
    return exponent.is_integer() ? bound : Root(bound, fmpz_get_d(exponent.denominator()));
  }

  std::optional<Bound> Trigonometric(NodeId id) {
    if (ex_.function(id) != Function::kSin && ex_.function(id) != Function::kCos)
      return std::nullopt;
    const auto multiple = RationalMultipleOfPi(ex_, ex_.child(id, 0));
    if (!multiple || fmpz_bits(multiple->denominator()) > 12) return std::nullopt;
    // In the field of the roots of unity of order 4 q.
    degree_ *= 4 * fmpz_get_d(multiple->denominator());
    return Bound{1, 1};
  }

  const Expressions& ex_;
  WorkBudget& budget_;
  std::vector<std::optional<Bound>> memo_;
  double degree_ = 1;
};

}  // namespace

ZeroTest TestZero(const Expressions& expressions, NodeId id, WorkBudget* budget) {
  if (id == kNoNode) return ZeroTest::kUnknown;
  BoundVisitor visitor(expressions, budget);
  const auto bound = visitor.Visit(id);
  if (!bound || visitor.degree() > kDegreeMax) return ZeroTest::kUnknown;
  const double bits = bound->l + (visitor.degree() - 1) * std::max(bound->u, 0.0) + 2;
  if (!(bits <= kZeroTestBitsMax)) return ZeroTest::kUnknown;
  const auto needed = static_cast<int64_t>(bits) + 1;
  for (int64_t precision = 128;; precision = std::min(precision * 4, needed + 256)) {
    BallEvaluator balls(expressions, precision, budget, nullptr);
    const Ball* ball = balls.Evaluate(id);
    if (ball == nullptr) return ZeroTest::kUnknown;
    if (!ball->ContainsZero()) return ZeroTest::kNotZero;
    if (ball->IsBelow(needed)) return ZeroTest::kZero;
    if (precision >= needed + 256) return ZeroTest::kUnknown;
  }
}

}  // namespace crescendo
