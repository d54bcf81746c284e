// Functions of the folder: see fold.h.
#include <utility>

#include "common/base/rng.h"
#include "services/reward/ball.h"
#include "services/reward/fold.h"

namespace crescendo {
namespace {

constexpr ulong kBinomialTermsMax = 4000;

}  // namespace

NodeId Folder::FoldIntegerFunction(Function function,
                                   const std::vector<const Rational*>& arguments) {
  if (function == Function::kMax || function == Function::kMin) {
    const Rational* best = arguments[0];
    for (const Rational* each : arguments) {
      if (function == Function::kMax ? *best < *each : *each < *best) best = each;
    }
    return Made(Rational(*best));
  }
  for (const Rational* each : arguments) {
    if (!each->is_integer()) return kNoNode;
  }
  Rational result;
  if (function == Function::kBinomial) {
    if (arguments.size() != 2 || arguments[0]->sign() < 0 || arguments[1]->sign() < 0)
      return kNoNode;
    const fmpz *n = arguments[0]->numerator(), *k = arguments[1]->numerator();
    if (fmpz_cmp(k, n) > 0) return ex_.MakeInteger(0);
    Rational other;
    fmpz_sub(other.numerator(), n, k);
    const fmpz* smaller = fmpz_cmp(other.numerator(), k) < 0 ? other.numerator() : k;
    if (fmpz_bits(n) > 40 || fmpz_cmp_ui(smaller, kBinomialTermsMax) > 0) {
      too_large_ = true;
      return kNoNode;
    }
    if (!budget_.Charge(16 + static_cast<int64_t>(fmpz_get_ui(smaller)) * 4)) return kNoNode;
    fmpz_bin_uiui(result.numerator(), fmpz_get_ui(n), fmpz_get_ui(smaller));
    return Made(std::move(result));
  }
  fmpz_abs(result.numerator(), arguments[0]->numerator());
  for (const Rational* each : arguments) {
    if (function == Function::kGcd) {
      fmpz_gcd(result.numerator(), result.numerator(), each->numerator());
    } else {
      fmpz_lcm(result.numerator(), result.numerator(), each->numerator());
    }
    if (fmpz_bits(result.numerator()) > kRationalBitsMax) return kNoNode;
  }
  return Made(std::move(result));
}

// For a small whole k: n (n - 1) ... (n - k + 1) / k!; else n! / (k! (n - k)!).
NodeId Folder::SymbolicBinomial(NodeId n, NodeId k) {
  const Rational* number = NumberOf(Fold(k));
  if (number != nullptr && number->is_integer() && number->sign() >= 0 &&
      fmpz_cmp_si(number->numerator(), 32) <= 0) {
    const int64_t count = fmpz_get_si(number->numerator());
    std::vector<NodeId> factors;
    for (int64_t i = 0; i < count; ++i) {
      factors.push_back(ex_.MakeDifference(n, ex_.MakeInteger(i)));
      factors.push_back(ex_.MakeRational(Rational(1, static_cast<uint64_t>(i + 1))));
    }
    return Fold(ex_.MakeMul(factors));
  }
  const auto inverse_factorial = [&](NodeId x) {
    return ex_.MakePow(ex_.MakeFunction(Function::kFactorial, {x}), ex_.MakeInteger(-1));
  };
  return Fold(ex_.MakeMul({ex_.MakeFunction(Function::kFactorial, {n}), inverse_factorial(k),
                           inverse_factorial(ex_.MakeDifference(n, k))}));
}

NodeId Folder::FoldFunction(NodeId id) {
  const Function function = ex_.function(id);
  const std::vector<NodeId> originals(ex_.children(id).begin(), ex_.children(id).end());
  if (point_ != nullptr && ex_.node(id).traits.symbols && function == Function::kFactorial) {
    return OpaqueFactorial(originals[0]);
  }
  if (point_ != nullptr && ex_.node(id).traits.symbols && function == Function::kBinomial &&
      originals.size() == 2) {
    return SymbolicBinomial(originals[0], originals[1]);
  }
  // Sines and cosines of rational multiples of pi are algebraic: they stay as they are.
  if (point_ != nullptr && function <= Function::kCsc && RationalMultipleOfPi(ex_, originals[0]))
    return id;
  std::vector<NodeId> arguments;
  std::vector<const Rational*> numbers;
  for (NodeId original : originals) {
    arguments.push_back(Fold(original));
    if (arguments.back() == kNoNode) return kNoNode;
  }
  for (NodeId argument : arguments) {
    if (const Rational* number = NumberOf(argument)) numbers.push_back(number);
  }
  if (point_ != nullptr && (function == Function::kSin || function == Function::kCos)) {
    return OpaqueAngle(function, originals[0]);
  }
  const bool all_numbers = numbers.size() == arguments.size();
  // What is not analytic says nothing at one point: floor(x) = x at every whole number, and |x| = x
  // at every positive one. Those without variables have been carried out before.
  if (point_ != nullptr && function >= Function::kAbs && function != Function::kFactorial &&
      function != Function::kBinomial) {
    return OpaqueFunction(function, arguments);
  }
  switch (function) {
    case Function::kFactorial:
    case Function::kDoubleFactorial:
      if (all_numbers)
        return FoldFactorial(Rational(*numbers[0]), function == Function::kDoubleFactorial);
      break;
    case Function::kBinomial:
    case Function::kGcd:
    case Function::kLcm:
    case Function::kMax:
    case Function::kMin:
      if (all_numbers) return FoldIntegerFunction(function, numbers);
      break;
    case Function::kAbs:
    case Function::kFloor:
    case Function::kCeil:
      return FoldSign(id, function, arguments[0]);
    case Function::kLn:
      return FoldLogarithm(arguments[0]);
    case Function::kLog: {
      const NodeId quotient =
          ex_.MakeQuotient(ex_.MakeFunction(Function::kLn, {arguments[0]}),
                           ex_.MakeFunction(Function::kLn, {ex_.MakeInteger(10)}));
      return Fold(quotient);
    }
    default:
      if (function <= Function::kCsc && point_ == nullptr)
        return FoldTrigonometric(id, arguments[0]);
  }
  return point_ == nullptr ? ex_.WithChildren(id, arguments) : OpaqueFunction(function, arguments);
}

// Sine and cosine at a point: of each term of the angle by a random tangent t of its half, so that
// every identity of addition theorems holds: cos = (1 - t^2) / (1 + t^2), sin = 2 t / (1 + t^2).
NodeId Folder::OpaqueAngle(Function function, NodeId angle) {
  std::vector<NodeId> terms = {angle};
  if (ex_.op(angle) == Op::kAdd)
    terms.assign(ex_.children(angle).begin(), ex_.children(angle).end());
  NodeId cosine = ex_.MakeInteger(1), sine = ex_.MakeInteger(0);
  const auto rotate = [&](NodeId c, NodeId s) {
    const NodeId next = Fold(ex_.MakeDifference(ex_.MakeMul({cosine, c}), ex_.MakeMul({sine, s})));
    sine = Fold(ex_.MakeAdd({ex_.MakeMul({sine, c}), ex_.MakeMul({cosine, s})}));
    cosine = next;
  };
  for (NodeId term : terms) {
    if (RationalMultipleOfPi(ex_, term)) {
      rotate(ex_.MakeFunction(Function::kCos, {term}), ex_.MakeFunction(Function::kSin, {term}));
      continue;
    }
    int64_t times = 1;
    std::vector<NodeId> rest, factors = {term};
    if (ex_.op(term) == Op::kMul)
      factors.assign(ex_.children(term).begin(), ex_.children(term).end());
    for (NodeId factor : factors) {
      const Rational* number = NumberOf(factor);
      if (number != nullptr && number->is_integer() && fmpz_bits(number->numerator()) <= 4 &&
          times == 1) {
        times = fmpz_get_si(number->numerator());
      } else {
        rest.push_back(factor);
      }
    }
    const NodeId value = Fold(ex_.MakeMul(rest));
    if (value == kNoNode) return kNoNode;
    const NodeId t = Opaque(MixSeed(ex_.node(value).hash, 0xa9));
    const NodeId square = ex_.MakePow(t, ex_.MakeInteger(2));
    const NodeId inverse =
        ex_.MakePow(ex_.MakeAdd({ex_.MakeInteger(1), square}), ex_.MakeInteger(-1));
    const NodeId c = Fold(ex_.MakeMul({ex_.MakeDifference(ex_.MakeInteger(1), square), inverse}));
    NodeId s = Fold(ex_.MakeMul({ex_.MakeInteger(2), t, inverse}));
    if (times < 0) s = Fold(ex_.MakeNegation(s));
    for (int64_t i = 0; i < (times < 0 ? -times : times); ++i) rotate(c, s);
  }
  return function == Function::kCos ? cosine : sine;
}

// A quantity of its own for each function and arguments; |x| and |-x| are one.
NodeId Folder::OpaqueFunction(Function function, const std::vector<NodeId>& arguments) {
  uint64_t key = MixSeed(static_cast<uint64_t>(function), arguments.size());
  for (NodeId argument : arguments) {
    if (function == Function::kAbs) {
      const NodeId negated = Fold(ex_.MakeNegation(argument));
      if (negated == kNoNode) return kNoNode;
      if (ex_.node(negated).hash < ex_.node(argument).hash) argument = negated;
    }
    key = MixSeed(key, ex_.node(argument).hash);
  }
  return Opaque(key);
}

// Reduced to sine and cosine of an argument in folded form; exact at whole multiples of pi / 2.
NodeId Folder::FoldTrigonometric(NodeId id, NodeId argument) {
  const Function function = ex_.function(id);
  const auto of = [&](Function f) { return Fold(ex_.MakeFunction(f, {argument})); };
  switch (function) {
    case Function::kTan:
      return Fold(ex_.MakeQuotient(of(Function::kSin), of(Function::kCos)));
    case Function::kCot:
      return Fold(ex_.MakeQuotient(of(Function::kCos), of(Function::kSin)));
    case Function::kSec:
      return Fold(ex_.MakePow(of(Function::kCos), ex_.MakeInteger(-1)));
    case Function::kCsc:
      return Fold(ex_.MakePow(of(Function::kSin), ex_.MakeInteger(-1)));
    default:
      break;
  }
  if (const auto multiple = RationalMultipleOfPi(ex_, argument)) {
    Rational halves;
    fmpq_mul_si(halves.get(), multiple->get(), 2);
    if (halves.is_integer()) {
      const ulong quarter =
          (fmpz_fdiv_ui(halves.numerator(), 4) + (function == Function::kCos ? 1 : 0)) % 4;
      return ex_.MakeInteger(quarter == 1 ? 1 : quarter == 3 ? -1 : 0);
    }
  }
  return ex_.MakeFunction(function, {argument});
}

// ln of a rational is a sum over primes; of a root or power of a positive number a multiple.
NodeId Folder::FoldLogarithm(NodeId argument) {
  if (ex_.op(argument) == Op::kE && point_ == nullptr) return ex_.MakeInteger(1);
  if (ex_.op(argument) == Op::kRoot && NumberOf(ex_.child(argument, 0)) != nullptr) {
    const NodeId inside = ex_.MakeFunction(Function::kLn, {ex_.child(argument, 0)});
    return Fold(ex_.MakeQuotient(inside, ex_.child(argument, 1)));
  }
  const Rational* number = NumberOf(argument);
  if (number != nullptr && number->sign() == 0) return kNoNode;
  if (number != nullptr && number->is_one()) return ex_.MakeInteger(0);
  if (number == nullptr || number->sign() < 0) {
    if (point_ == nullptr) return ex_.MakeFunction(Function::kLn, {argument});
    return Opaque(MixSeed(ex_.node(argument).hash, 0x109));
  }
  if (point_ == nullptr) return ex_.MakeFunction(Function::kLn, {argument});
  const Rational value = *number;
  std::vector<NodeId> terms;
  for (int side = 0; side < 2; ++side) {
    Rational left;
    fmpz_set(left.numerator(), side == 0 ? value.numerator() : value.denominator());
    for (uint64_t prime = 2; prime < 1000 && !fmpz_is_one(left.numerator()); ++prime) {
      int64_t power = 0;
      while (fmpz_divisible_si(left.numerator(), static_cast<slong>(prime))) {
        fmpz_divexact_ui(left.numerator(), left.numerator(), prime);
        ++power;
      }
      if (power == 0) continue;
      const NodeId count = ex_.MakeInteger(side == 0 ? power : -power);
      terms.push_back(ex_.MakeMul({count, Opaque(MixSeed(prime, 0x109))}));
    }
    budget_.Charge(100);
    if (fmpz_is_one(left.numerator())) continue;
    const NodeId rest = Made(std::move(left));
    if (rest == kNoNode) return kNoNode;
    const NodeId opaque = Opaque(MixSeed(ex_.node(rest).hash, 0x109));
    terms.push_back(side == 0 ? opaque : ex_.MakeNegation(opaque));
  }
  return Fold(ex_.MakeAdd(terms));
}

// Absolute value, floor and ceiling: of numbers exactly, of other constants where a ball decides.
NodeId Folder::FoldSign(NodeId id, Function function, NodeId argument) {
  if (const Rational* number = NumberOf(argument)) {
    Rational result = *number;
    if (function == Function::kAbs) {
      fmpq_abs(result.get(), result.get());
    } else {
      Rational whole;
      if (function == Function::kFloor) {
        fmpz_fdiv_q(whole.numerator(), result.numerator(), result.denominator());
      } else {
        fmpz_cdiv_q(whole.numerator(), result.numerator(), result.denominator());
      }
      result = std::move(whole);
    }
    return Made(std::move(result));
  }
  if (!ex_.node(argument).traits.symbols) {
    BallEvaluator balls(ex_, 256, &budget_, nullptr);
    if (const Ball* ball = balls.Evaluate(argument); ball != nullptr && ball->is_real()) {
      if (function == Function::kAbs && ball->sign() != 0) {
        return ball->sign() > 0 ? argument : Fold(ex_.MakeNegation(argument));
      }
      Rational whole;
      if (function != Function::kAbs &&
          ball->IsWithinOne(function == Function::kFloor, whole.numerator())) {
        return Made(std::move(whole));
      }
    }
  }
  return ex_.WithChildren(id, {argument});
}

}  // namespace crescendo
