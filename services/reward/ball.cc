#include "services/reward/ball.h"

#include <flint/flint.h>

#include <utility>

#include "common/base/rng.h"

namespace crescendo {
namespace {

// Values beyond 2^kExponentMax are not followed: a power of one would have an exponent that fills
// the memory.
constexpr int64_t kExponentMax = int64_t{1} << 40;
constexpr int64_t kArgumentExponentMax = 25;  // of exp and of exponents: below 2^25

// Whether the size of a ball is below 2^exponent.
bool SizeBelow(const Ball& ball, int64_t exponent) {
  mag_t size;
  mag_init(size);
  acb_get_mag(size, ball.get());
  const bool below = mag_cmp_2exp_si(size, exponent) < 0;
  mag_clear(size);
  return below;
}

}  // namespace

void FlintThreadCleanup() { flint_cleanup(); }

int Ball::sign() const {
  if (arb_is_positive(acb_realref(value_))) return 1;
  if (arb_is_negative(acb_realref(value_))) return -1;
  return 0;
}

bool Ball::IsBelow(int64_t bits) const { return SizeBelow(*this, -bits); }

bool Ball::IsWithinOne(bool floor, fmpz* whole) const {
  arb_t step;
  arb_init(step);
  if (floor) {
    arb_floor(step, acb_realref(value_), 512);
  } else {
    arb_ceil(step, acb_realref(value_), 512);
  }
  const bool unique = SizeBelow(*this, 400) && arb_get_unique_fmpz(whole, step);
  arb_clear(step);
  return unique;
}

const Ball* BallEvaluator::Evaluate(NodeId id) {
  if (id == kNoNode) return nullptr;
  if (memo_.size() < ex_.size()) {
    memo_.resize(ex_.size());
    failed_.resize(ex_.size(), false);
  }
  if (memo_[id] != nullptr) return memo_[id].get();
  if (failed_[id]) return nullptr;
  auto ball = std::make_unique<Ball>();
  const int64_t words = precision_ / 64 + 1;
  if (!budget_.Charge(8 + words * words / 8 + words) || !Compute(id, ball.get()) ||
      !ball->is_finite() || !SizeBelow(*ball, kExponentMax)) {
    failed_[id] = true;
    return nullptr;
  }
  memo_[id] = std::move(ball);
  return memo_[id].get();
}

bool BallEvaluator::Compute(NodeId id, Ball* result) {
  acb_struct* out = result->get();
  switch (ex_.op(id)) {
    case Op::kNumber:
      acb_set_fmpq(out, ex_.number(id).value.get(), precision_);
      return true;
    case Op::kSymbol: {
      if (point_ == nullptr) return false;
      const uint64_t draw = MixSeed(point_->seed, ex_.node(id).hash);
      Rational value(static_cast<int64_t>(draw >> 45) | 1, 1u << 19);  // in (0, 1)
      if (point_->region == SamplePoint::Region::kAboveOne ||
          point_->region == SamplePoint::Region::kNegative) {
        fmpq_mul_si(value.get(), value.get(), 8);
        if (point_->region == SamplePoint::Region::kNegative) {
          fmpq_neg(value.get(), value.get());
        } else {
          fmpq_add_si(value.get(), value.get(), 1);
        }
      } else if (point_->region == SamplePoint::Region::kWhole) {
        value = Rational(static_cast<int64_t>(draw % 9) + 1);
      }
      acb_set_fmpq(out, value.get(), precision_);
      return true;
    }
    case Op::kPi:
      acb_const_pi(out, precision_);
      return true;
    case Op::kE:
      arb_const_e(acb_realref(out), precision_);
      return true;
    case Op::kI:
      acb_onei(out);
      return true;
    case Op::kAdd:
    case Op::kMul: {
      const bool add = ex_.op(id) == Op::kAdd;
      if (!add) acb_one(out);
      for (NodeId child : ex_.children(id)) {
        const Ball* value = Evaluate(child);
        if (value == nullptr || !SizeBelow(*result, kExponentMax)) return false;
        if (add) {
          acb_add(out, out, value->get(), precision_);
        } else {
          acb_mul(out, out, value->get(), precision_);
        }
      }
      return true;
    }
    case Op::kPow:
      return ComputePow(id, result);
    case Op::kRoot:
      return ComputeRoot(id, result);
    case Op::kFunction:
      return ComputeFunction(id, result);
    case Op::kQuantity:
    case Op::kPercent: {
      const Ball* value = Evaluate(ex_.child(id, 0));
      if (value == nullptr) return false;
      if (ex_.op(id) == Op::kPercent) {
        acb_div_ui(out, value->get(), 100, precision_);
        return true;
      }
      if (!ex_.unit(id).degrees) return false;
      acb_const_pi(out, precision_);
      acb_mul(out, out, value->get(), precision_);
      acb_div_ui(out, out, 180, precision_);
      return true;
    }
    default:
      return false;
  }
}

bool BallEvaluator::Whole(NodeId id, fmpz* value) const {
  if (ex_.op(id) != Op::kNumber || !ex_.number(id).value.is_integer()) return false;
  fmpz_set(value, ex_.number(id).value.numerator());
  return true;
}

bool BallEvaluator::ComputePow(NodeId id, Ball* result) {
  const Ball *base = Evaluate(ex_.child(id, 0)), *exponent = Evaluate(ex_.child(id, 1));
  if (base == nullptr || exponent == nullptr) return false;
  // |base|^|exponent| must stay in range: log2 of it is exponent * log2(base).
  if (!SizeBelow(*exponent, kArgumentExponentMax)) return false;
  Ball inverse;
  acb_inv(inverse.get(), base->get(), 30);
  const bool moderate = SizeBelow(*base, 2) && (SizeBelow(inverse, 2) || base->ContainsZero());
  if (!moderate &&
      !(SizeBelow(*base, 1 << 16) && (SizeBelow(inverse, 1 << 16) || base->ContainsZero()) &&
        SizeBelow(*exponent, 10)) &&
      !(SizeBelow(*base, 64) && SizeBelow(inverse, 64) && SizeBelow(*exponent, 20))) {
    return false;
  }
  Rational whole;
  if (Whole(ex_.child(id, 1), whole.numerator())) {
    acb_pow_fmpz(result->get(), base->get(), whole.numerator(), precision_);
  } else {
    acb_pow(result->get(), base->get(), exponent->get(), precision_);
  }
  return true;
}

bool BallEvaluator::ComputeRoot(NodeId id, Ball* result) {
  const Ball* radicand = Evaluate(ex_.child(id, 0));
  Rational index;
  if (radicand == nullptr || !Whole(ex_.child(id, 1), index.numerator())) return false;
  if (fmpz_cmp_si(index.numerator(), 1) < 0 || fmpz_cmp_si(index.numerator(), 65535) > 0)
    return false;
  const ulong n = fmpz_get_ui(index.numerator());
  acb_struct* out = result->get();
  if (radicand->is_real() && radicand->sign() < 0 && n % 2 == 1) {
    arb_neg(acb_realref(out), acb_realref(radicand->get()));
    arb_root_ui(acb_realref(out), acb_realref(out), n, precision_);
    arb_neg(acb_realref(out), acb_realref(out));
  } else if (n == 2) {
    acb_sqrt(out, radicand->get(), precision_);
  } else {
    acb_root_ui(out, radicand->get(), n, precision_);
  }
  return true;
}

bool BallEvaluator::ComputeFunction(NodeId id, Ball* result) {
  const Ball* x = Evaluate(ex_.child(id, 0));
  if (x == nullptr || !SizeBelow(*x, 4096)) return false;
  acb_struct* out = result->get();
  const acb_struct* in = x->get();
  const bool small = SizeBelow(*x, kArgumentExponentMax);
  switch (ex_.function(id)) {
    case Function::kSin:
      acb_sin(out, in, precision_);
      return small;
    case Function::kCos:
      acb_cos(out, in, precision_);
      return small;
    case Function::kTan:
      acb_tan(out, in, precision_);
      return small;
    case Function::kCot:
      acb_cot(out, in, precision_);
      return small;
    case Function::kSec:
      acb_sec(out, in, precision_);
      return small;
    case Function::kCsc:
      acb_csc(out, in, precision_);
      return small;
    case Function::kAsin:
      acb_asin(out, in, precision_);
      return small;
    case Function::kAcos:
      acb_acos(out, in, precision_);
      return small;
    case Function::kAtan:
      acb_atan(out, in, precision_);
      return true;
    case Function::kLn:
      acb_log(out, in, precision_);
      return true;
    case Function::kLog: {
      Ball ten;
      arb_const_log10(acb_realref(ten.get()), precision_);
      acb_log(out, in, precision_);
      acb_div(out, out, ten.get(), precision_);
      return true;
    }
    case Function::kAbs:
      acb_abs(acb_realref(out), in, precision_);
      return true;
    case Function::kFloor:
    case Function::kCeil:
      if (!x->is_real()) return false;
      if (ex_.function(id) == Function::kFloor) {
        arb_floor(acb_realref(out), acb_realref(in), precision_);
      } else {
        arb_ceil(acb_realref(out), acb_realref(in), precision_);
      }
      return true;
    case Function::kFactorial: {
      if (!SizeBelow(*x, 32)) return false;
      if (!budget_.Charge(precision_)) return false;
      Ball next;
      acb_add_ui(next.get(), in, 1, precision_);
      acb_gamma(out, next.get(), precision_);
      return true;
    }
    case Function::kBinomial: {
      const Ball* k = Evaluate(ex_.child(id, 1));
      if (k == nullptr || !SizeBelow(*x, 32) || !SizeBelow(*k, 32) ||
          !budget_.Charge(3 * precision_))
        return false;
      Ball n1, k1, d1;  // n! / (k! (n - k)!)
      acb_add_ui(n1.get(), in, 1, precision_);
      acb_add_ui(k1.get(), k->get(), 1, precision_);
      acb_sub(d1.get(), n1.get(), k->get(), precision_);
      acb_gamma(out, n1.get(), precision_);
      acb_rgamma(k1.get(), k1.get(), precision_);
      acb_rgamma(d1.get(), d1.get(), precision_);
      acb_mul(out, out, k1.get(), precision_);
      acb_mul(out, out, d1.get(), precision_);
      return true;
    }
    default:
      return false;
  }
}

}  // namespace crescendo
