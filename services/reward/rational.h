// An exact rational number: FLINT's fmpq with an owner. Value type; a moved-from one is 0.
//
// FLINT ends the process when memory for a number cannot be had, so whoever computes bounds
// magnitudes before (kRationalBitsMax).
#ifndef CRESCENDO_SERVICES_REWARD_RATIONAL_H_
#define CRESCENDO_SERVICES_REWARD_RATIONAL_H_

#include <flint/fmpq.h>
#include <flint/fmpz.h>

#include <cstdint>

namespace crescendo {

// No numerator or denominator of a computed number is longer.
inline constexpr int64_t kRationalBitsMax = 1 << 16;

class Rational {
 public:
  Rational() { fmpq_init(value_); }
  explicit Rational(int64_t numerator, uint64_t denominator = 1) {
    fmpq_init(value_);
    fmpq_set_si(value_, numerator, denominator);
  }
  Rational(const Rational& other) {
    fmpq_init(value_);
    fmpq_set(value_, other.value_);
  }
  Rational(Rational&& other) noexcept {
    fmpq_init(value_);
    fmpq_swap(value_, other.value_);
  }
  Rational& operator=(const Rational& other) {
    if (this != &other) fmpq_set(value_, other.value_);
    return *this;
  }
  Rational& operator=(Rational&& other) noexcept {
    fmpq_swap(value_, other.value_);
    return *this;
  }
  ~Rational() { fmpq_clear(value_); }

  fmpq* get() { return value_; }
  const fmpq* get() const { return value_; }
  fmpz* numerator() { return fmpq_numref(value_); }
  const fmpz* numerator() const { return fmpq_numref(value_); }
  fmpz* denominator() { return fmpq_denref(value_); }
  const fmpz* denominator() const { return fmpq_denref(value_); }

  bool is_zero() const { return fmpq_is_zero(value_); }
  bool is_one() const { return fmpq_is_one(value_); }
  bool is_integer() const { return fmpz_is_one(denominator()); }
  int sign() const { return fmpq_sgn(value_); }
  // The longer of numerator and denominator, in bits.
  int64_t bits() const {
    const int64_t above = static_cast<int64_t>(fmpz_bits(numerator()));
    const int64_t below = static_cast<int64_t>(fmpz_bits(denominator()));
    return above > below ? above : below;
  }
  bool operator==(const Rational& other) const { return fmpq_equal(value_, other.value_); }
  bool operator<(const Rational& other) const { return fmpq_cmp(value_, other.value_) < 0; }

 private:
  fmpq_t value_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_RATIONAL_H_
