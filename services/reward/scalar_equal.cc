#include "services/reward/scalar_equal.h"

#include <utility>
#include <vector>

#include "common/base/rng.h"
#include "services/reward/ball.h"
#include "services/reward/calcium_bridge.h"
#include "services/reward/fold.h"
#include "services/reward/zero_test.h"

namespace crescendo {
namespace {

constexpr Comparison kExact = {Verdict::kCorrect, ReasonCode::kExactEqual};
constexpr Comparison kIdentical = {Verdict::kCorrect, ReasonCode::kIdentity};
constexpr Comparison kCertified = {Verdict::kIncorrect, ReasonCode::kCertifiedDiffers};
constexpr Comparison kNotIdentical = {Verdict::kIncorrect, ReasonCode::kNotIdentical};

constexpr int64_t kCalciumOperations = 60'000;
constexpr uint64_t kSeed = 0x63726573'63656e64;

// A constant for Calcium: small in every respect, since its cost grows fast in each.
class CalciumBuilder {
 public:
  CalciumBuilder(const Expressions& expressions, CrescendoExact* exact)
      : ex_(expressions), exact_(exact) {}

  // -1 when it is not for Calcium.
  int Build(NodeId id) {
    if (++nodes_ > 60) return -1;
    const auto children = ex_.children(id);
    switch (ex_.op(id)) {
      case Op::kNumber:
        if (ex_.number(id).value.bits() > 64) return -1;
        return CrescendoExactRational(exact_, ex_.number(id).value.get());
      case Op::kPi:
        return CrescendoExactPi(exact_);
      case Op::kE:
        return CrescendoExactE(exact_);
      case Op::kI:
        return CrescendoExactI(exact_);
      case Op::kAdd:
      case Op::kMul: {
        int total = Build(children[0]);
        for (size_t i = 1; i < children.size() && total >= 0; ++i) {
          const int next = Build(children[i]);
          total = ex_.op(id) == Op::kAdd ? CrescendoExactAdd(exact_, total, next)
                                         : CrescendoExactMul(exact_, total, next);
        }
        return total;
      }
      case Op::kPow:
        return BuildPow(children[0], children[1]);
      case Op::kRoot:
        return BuildRoot(children[0], children[1]);
      case Op::kFunction:
        return BuildFunction(ex_.function(id), children[0]);
      default:
        return -1;
    }
  }

 private:
  int BuildPow(NodeId base, NodeId exponent) {
    const bool number = ex_.op(exponent) == Op::kNumber;
    if (number && ex_.number(exponent).value.bits() > 4) return -1;
    if (!number && ++functions_ > 4) return -1;
    if (number && !ex_.number(exponent).value.is_integer() && ++roots_ > 3) return -1;
    const int below = Build(base);
    const int above = below < 0 ? -1 : Build(exponent);
    return above < 0 ? -1 : CrescendoExactPow(exact_, below, above);
  }

  int BuildRoot(NodeId radicand, NodeId index) {
    if (++roots_ > 3 || ex_.op(index) != Op::kNumber || ex_.number(index).value.bits() > 3)
      return -1;
    const int inside = Build(radicand);
    if (inside < 0) return -1;
    if (ex_.number(index).value == Rational(2))
      return CrescendoExactApply(exact_, kCrescendoExactSqrt, inside);
    Rational power;
    fmpq_inv(power.get(), ex_.number(index).value.get());
    const int exponent = CrescendoExactRational(exact_, power.get());
    // A real root of a negative number is not the principal power.
    BallEvaluator balls(ex_, 64, &budget_, nullptr);
    const Ball* ball = balls.Evaluate(radicand);
    if (ball == nullptr || !ball->is_real() || ball->sign() <= 0) return -1;
    return CrescendoExactPow(exact_, inside, exponent);
  }

  int BuildFunction(Function function, NodeId argument) {
    if (++functions_ > 4) return -1;
    CrescendoExactFunction which = kCrescendoExactSin;
    switch (function) {
      case Function::kSin:
        which = kCrescendoExactSin;
        break;
      case Function::kCos:
        which = kCrescendoExactCos;
        break;
      case Function::kAsin:
        which = kCrescendoExactAsin;
        break;
      case Function::kAcos:
        which = kCrescendoExactAcos;
        break;
      case Function::kAtan:
        which = kCrescendoExactAtan;
        break;
      case Function::kLn:
        which = kCrescendoExactLog;
        break;
      case Function::kAbs:
        which = kCrescendoExactAbs;
        break;
      default:
        return -1;
    }
    const auto multiple = RationalMultipleOfPi(ex_, argument);
    if (multiple && fmpz_cmp_si(multiple->denominator(), 16) > 0) return -1;
    const int inside = Build(argument);
    return inside < 0 ? -1 : CrescendoExactApply(exact_, which, inside);
  }

  const Expressions& ex_;
  CrescendoExact* exact_;
  WorkBudget budget_{2000};
  int nodes_ = 0;
  int roots_ = 0;
  int functions_ = 0;
};

}  // namespace

Comparison ScalarComparer::Undecided() const {
  if (budget_.spent()) return {Verdict::kUndecided, ReasonCode::kBudget};
  return {Verdict::kUndecided, too_large_ ? ReasonCode::kTooLarge : ReasonCode::kUnproven};
}

int ScalarComparer::InfinitySign(NodeId id) const {
  if (ex_.op(id) == Op::kInfinity) return 1;
  if (ex_.op(id) != Op::kMul || ex_.children(id).size() != 2) return 0;
  NodeId number = ex_.child(id, 0), infinity = ex_.child(id, 1);
  if (ex_.op(number) == Op::kInfinity) std::swap(number, infinity);
  if (ex_.op(infinity) != Op::kInfinity || ex_.op(number) != Op::kNumber) return 0;
  return ex_.number(number).value.sign();
}

Comparison ScalarComparer::Compare(NodeId a, NodeId b) {
  if (a == kNoNode || b == kNoNode) return Undecided();
  if (a == b) return kExact;
  const bool infinite_a = ex_.node(a).traits.infinite, infinite_b = ex_.node(b).traits.infinite;
  if (infinite_a || infinite_b) {
    const int sign_a = InfinitySign(a), sign_b = InfinitySign(b);
    if ((infinite_a && sign_a == 0) || (infinite_b && sign_b == 0)) return Undecided();
    return sign_a == sign_b ? kExact : kCertified;
  }
  Folder folder(&ex_, &budget_, nullptr);
  const NodeId fa = folder.Fold(a), fb = folder.Fold(b);
  too_large_ = folder.too_large();
  if (fa == kNoNode || fb == kNoNode) {
    // Too large to carry out; perhaps the sizes alone tell.
    if (!ex_.node(a).traits.symbols && !ex_.node(b).traits.symbols && DiffersInBalls(a, b, false))
      return kCertified;
    return Undecided();
  }
  if (fa == fb)
    return ex_.op(fa) == Op::kNumber ? Comparison{Verdict::kCorrect, ReasonCode::kNumberEqual}
                                     : kExact;
  if (ex_.op(fa) == Op::kNumber && ex_.op(fb) == Op::kNumber) {
    return {Verdict::kIncorrect, ReasonCode::kNumberDiffers};
  }
  if (ex_.node(fa).traits.symbols || ex_.node(fb).traits.symbols)
    return CompareWithVariables(fa, fb);
  return CompareConstants(fa, fb);
}

Comparison ScalarComparer::CompareConstants(NodeId a, NodeId b) {
  {
    BallEvaluator balls(ex_, 128, &budget_, nullptr);
    const Ball *ball_a = balls.Evaluate(a), *ball_b = balls.Evaluate(b);
    if (ball_a != nullptr && ball_b != nullptr && !ball_a->Overlaps(*ball_b)) return kCertified;
    if (ball_a == nullptr || ball_b == nullptr) return Undecided();
  }
  Folder folder(&ex_, &budget_, nullptr);
  const NodeId difference = folder.Fold(ex_.MakeDifference(a, b));
  if (difference == kNoNode) return Undecided();
  if (ex_.op(difference) == Op::kNumber) {
    return ex_.number(difference).value.is_zero() ? kExact : kCertified;
  }
  switch (TestZero(ex_, difference, &budget_)) {
    case ZeroTest::kZero:
      return kExact;
    case ZeroTest::kNotZero:
      return kCertified;
    case ZeroTest::kUnknown:
      break;
  }
  return CompareTranscendental(difference);
}

Comparison ScalarComparer::CompareTranscendental(NodeId difference) {
  if (!ex_.node(difference).traits.transcendental) return Undecided();
  const NodeId zero = ex_.MakeInteger(0);
  const uint64_t seed = MixSeed(kSeed, ex_.node(difference).hash);
  if (DifferenceAt(difference, zero, seed, false) == AtPoint::kZero &&
      DifferenceAt(difference, zero, MixSeed(seed, 1), false) == AtPoint::kZero) {
    return kIdentical;
  }
  const int calcium = CalciumIsZero(difference);
  if (calcium == 1) return kExact;
  if (calcium == 0) return kCertified;
  BallEvaluator balls(ex_, 1024, &budget_, nullptr);
  const Ball* ball = balls.Evaluate(difference);
  return ball != nullptr && !ball->ContainsZero() ? kCertified : Undecided();
}

int ScalarComparer::CalciumIsZero(NodeId difference) {
  if (!budget_.Charge(kCalciumOperations)) return -1;
  CrescendoExact* exact = CrescendoExactNew();
  const int number = CalciumBuilder(ex_, exact).Build(difference);
  const int result = CrescendoExactIsZero(exact, number);
  CrescendoExactFree(exact);
  return result;
}

ScalarComparer::AtPoint ScalarComparer::DifferenceAt(NodeId a, NodeId b, uint64_t seed,
                                                     bool negative) {
  for (int attempt = 0; attempt < 3; ++attempt) {  // a point may lie on a pole
    const Point point = {MixSeed(seed, static_cast<uint64_t>(attempt)), negative};
    Folder folder(&ex_, &budget_, &point);
    const NodeId at_a = folder.Fold(a), at_b = folder.Fold(b);
    too_large_ |= folder.too_large();
    if (budget_.spent() || folder.too_large()) return AtPoint::kUnknown;
    if (at_a == kNoNode || at_b == kNoNode) continue;
    if (at_a == at_b) return AtPoint::kZero;
    Folder constants(&ex_, &budget_, nullptr);
    const NodeId difference = constants.Fold(ex_.MakeDifference(at_a, at_b));
    if (difference == kNoNode) return AtPoint::kUnknown;
    if (ex_.op(difference) == Op::kNumber) {
      return ex_.number(difference).value.is_zero() ? AtPoint::kZero : AtPoint::kNotZero;
    }
    switch (TestZero(ex_, difference, &budget_)) {
      case ZeroTest::kZero:
        return AtPoint::kZero;
      case ZeroTest::kNotZero:
        return AtPoint::kNotZero;
      case ZeroTest::kUnknown:
        return AtPoint::kUnknown;
    }
  }
  return AtPoint::kUnknown;
}

// Whether some sample point certifies a difference. Complex values count only where the expressions
// are single-valued.
bool ScalarComparer::DiffersInBalls(NodeId a, NodeId b, bool negative) {
  using Region = SamplePoint::Region;
  const bool branches = ex_.node(a).traits.radical || ex_.node(b).traits.radical ||
                        ex_.node(a).traits.transcendental || ex_.node(b).traits.transcendental;
  const bool variables = ex_.node(a).traits.symbols || ex_.node(b).traits.symbols;
  const std::vector<Region> regions =
      negative ? std::vector<Region>{Region::kNegative}
               : std::vector<Region>{Region::kWhole, Region::kUnit, Region::kAboveOne};
  const size_t samples = variables && branches ? 3 * regions.size()
                         : variables           ? regions.size()
                                               : 1;
  for (size_t sample = 0; sample < samples; ++sample) {
    const SamplePoint point = {MixSeed(kSeed, sample), regions[sample % regions.size()]};
    BallEvaluator balls(ex_, 128, &budget_, &point);
    const Ball *ball_a = balls.Evaluate(a), *ball_b = balls.Evaluate(b);
    if (ball_a == nullptr || ball_b == nullptr || ball_a->Overlaps(*ball_b)) continue;
    if (!variables || !branches || (ball_a->is_real() && ball_b->is_real())) return true;
  }
  return false;
}

Comparison ScalarComparer::CompareWithVariables(NodeId a, NodeId b) {
  const auto plain = [&](NodeId id) {
    return !ex_.node(id).traits.radical && !ex_.node(id).traits.transcendental;
  };
  const uint64_t seed = MixSeed(MixSeed(kSeed, ex_.node(a).hash), ex_.node(b).hash);
  const AtPoint first = DifferenceAt(a, b, seed, false);
  if (first == AtPoint::kNotZero && plain(a) && plain(b)) {
    // Rational functions that differ at a point differ; absolute values and the like are opaque
    // there.
    if (DiffersInBalls(a, b, false)) return kNotIdentical;
  }
  if (first == AtPoint::kZero && DifferenceAt(a, b, MixSeed(seed, 1), false) == AtPoint::kZero) {
    if (plain(a) && plain(b)) return kIdentical;
    // Roots have branches: equal for positive variables is not yet equal.
    if (DiffersInBalls(a, b, false)) return kNotIdentical;
    if (DiffersInBalls(a, b, true)) return {Verdict::kUndecided, ReasonCode::kAmbiguous};
    return kIdentical;
  }
  if (DiffersInBalls(a, b, false)) return kNotIdentical;
  return Undecided();
}

int ScalarComparer::Order(NodeId a, NodeId b) {
  if (a == kNoNode || b == kNoNode) return 2;
  const bool infinite_a = ex_.node(a).traits.infinite, infinite_b = ex_.node(b).traits.infinite;
  if (infinite_a || infinite_b) {
    const int sign_a = InfinitySign(a), sign_b = InfinitySign(b);
    if ((infinite_a && sign_a == 0) || (infinite_b && sign_b == 0)) return 2;
    return sign_a == sign_b ? 0 : sign_a < sign_b ? -1 : 1;
  }
  const Comparison same = Compare(a, b);
  if (same.verdict == Verdict::kCorrect) return 0;
  if (same.verdict == Verdict::kUndecided) return 2;
  for (int64_t precision : {64, 256, 2048}) {
    BallEvaluator balls(ex_, precision, &budget_, nullptr);
    const Ball* ball = balls.Evaluate(ex_.MakeDifference(a, b));
    if (ball == nullptr || !arb_contains_zero(acb_imagref(ball->get()))) return 2;
    if (ball->sign() != 0) return ball->sign();
  }
  return 2;
}

int ScalarComparer::Within(NodeId a, NodeId b, const Rational& bound) {
  Folder folder(&ex_, &budget_, nullptr);
  const NodeId difference = folder.Fold(ex_.MakeDifference(a, b));
  if (difference == kNoNode) return -1;
  if (ex_.op(difference) == Op::kNumber) {
    Rational size;
    fmpq_abs(size.get(), ex_.number(difference).value.get());
    return bound < size ? 0 : 1;
  }
  Ball limit;
  acb_set_fmpq(limit.get(), bound.get(), 256);
  for (int64_t precision : {128, 512}) {
    BallEvaluator balls(ex_, precision, &budget_, nullptr);
    const Ball* ball = balls.Evaluate(difference);
    if (ball == nullptr) return -1;
    Ball size;
    acb_abs(acb_realref(size.get()), ball->get(), 256);
    if (arb_le(acb_realref(size.get()), acb_realref(limit.get()))) return 1;
    if (arb_gt(acb_realref(size.get()), acb_realref(limit.get()))) return 0;
  }
  return -1;
}

}  // namespace crescendo
