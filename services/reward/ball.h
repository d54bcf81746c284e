// Values in rigorous complex balls (Arb): the true value lies in the ball, so balls that do not
// overlap prove a difference.
//
// Thread-compatible. Arb keeps caches by thread: FlintThreadCleanup at the end of each thread that
// used it.
#ifndef CRESCENDO_SERVICES_REWARD_BALL_H_
#define CRESCENDO_SERVICES_REWARD_BALL_H_

#include <acb.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "services/reward/expression.h"
#include "services/reward/work_budget.h"

namespace crescendo {

class Ball {
 public:
  Ball() { acb_init(value_); }
  Ball(const Ball& other) {
    acb_init(value_);
    acb_set(value_, other.value_);
  }
  Ball& operator=(const Ball& other) {
    acb_set(value_, other.value_);
    return *this;
  }
  ~Ball() { acb_clear(value_); }

  acb_struct* get() { return value_; }
  const acb_struct* get() const { return value_; }

  bool Overlaps(const Ball& other) const { return acb_overlaps(value_, other.value_); }
  bool ContainsZero() const { return acb_contains_zero(value_); }
  bool is_finite() const { return acb_is_finite(value_); }
  // Exactly real.
  bool is_real() const { return acb_is_real(value_); }
  // Of a real ball: 1 or -1 when it lies on one side of zero, else 0.
  int sign() const;
  // The size is certainly below 2^-bits.
  bool IsBelow(int64_t bits) const;
  // All of a real ball lies within one whole step: sets its floor (or its ceiling).
  bool IsWithinOne(bool floor, fmpz* whole) const;

 private:
  acb_t value_;
};

// Where variables have values: small rationals that depend on the seed and the variable's name.
struct SamplePoint {
  enum class Region : uint8_t {
    kUnit,
    kAboveOne,
    kNegative,
    kWhole
  };  // (0, 1), (1, 9), (-9, 0), {1, ..., 9}
  uint64_t seed = 0;
  Region region = Region::kUnit;
};

class BallEvaluator {
 public:
  // `point` may be null: then an expression with variables has no value. It must outlive the
  // evaluator.
  BallEvaluator(const Expressions& expressions, int64_t precision_bits, WorkBudget* budget,
                const SamplePoint* point)
      : ex_(expressions), precision_(precision_bits), budget_(*budget), point_(point) {}

  // The ball of a scalar; null when it is not finite, too large, not a scalar, or the budget is
  // spent. The result lives as long as the evaluator.
  const Ball* Evaluate(NodeId id);

 private:
  bool Compute(NodeId id, Ball* result);
  bool ComputePow(NodeId id, Ball* result);
  bool ComputeRoot(NodeId id, Ball* result);
  bool ComputeFunction(NodeId id, Ball* result);
  bool Whole(NodeId id, fmpz* value) const;

  const Expressions& ex_;
  const int64_t precision_;
  WorkBudget& budget_;
  const SamplePoint* point_;
  std::vector<std::unique_ptr<Ball>> memo_;
  std::vector<bool> failed_;
};

// Frees what FLINT and Arb keep for the calling thread. Requires that no Rational or Ball of this
// thread lives on.
void FlintThreadCleanup();

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_BALL_H_
