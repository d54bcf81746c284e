// Numbers as answers: units, percentages, decimals.
#include <string>

#include "services/reward/fold.h"
#include "services/reward/math_equal.h"

namespace crescendo {
namespace {

constexpr int kDepthWithin = 8;         // of structures inside quantities
constexpr int64_t kCorrectDigits = 12;  // of a decimal that stands for an exact gold

Rational PowerOfTen(int64_t exponent) {
  Rational power, ten(10);
  fmpq_pow_si(power.get(), ten.get(), exponent);
  return power;
}

}  // namespace

std::optional<DecimalForm> DecimalFormOf(const Expressions& ex, NodeId id) {
  if (ex.op(id) == Op::kNumber) {
    const Number& number = ex.number(id);
    if (number.decimals < 0) return std::nullopt;
    return DecimalForm{number.decimals, number.digits};
  }
  // A number times 10^k.
  if (ex.op(id) != Op::kMul || ex.children(id).size() != 2) return std::nullopt;
  for (size_t i = 0; i < 2; ++i) {
    const NodeId number = ex.child(id, i), power = ex.child(id, 1 - i);
    if (ex.op(number) != Op::kNumber || ex.number(number).decimals < 0 || ex.op(power) != Op::kPow)
      continue;
    const NodeId base = ex.child(power, 0), exponent = ex.child(power, 1);
    if (ex.op(base) != Op::kNumber || ex.op(exponent) != Op::kNumber) continue;
    const Rational& k = ex.number(exponent).value;
    if (!(ex.number(base).value == Rational(10)) || !k.is_integer() || k.bits() > 12) continue;
    return DecimalForm{ex.number(number).decimals - fmpz_get_si(k.numerator()),
                       ex.number(number).digits};
  }
  return std::nullopt;
}

// "5 m", "3 m^2", "10 m/s" as quantities: a number times powers of letters that are units, each.
NodeId MathComparer::SymbolsAsUnit(NodeId id) {
  if (ex_.op(id) != Op::kMul) return kNoNode;
  Unit unit;
  bool any = false;
  Nodes rest;
  for (const NodeId factor : ChildrenOf(id)) {
    if (!ex_.node(factor).traits.symbols) {
      rest.push_back(factor);
      continue;
    }
    const bool power = ex_.op(factor) == Op::kPow;
    const NodeId symbol = power ? ex_.child(factor, 0) : factor;
    if (ex_.op(symbol) != Op::kSymbol || ex_.text(symbol).size() != 1) return kNoNode;
    int exponent = 1;
    if (power) {
      const NodeId node = ex_.child(factor, 1);
      if (ex_.op(node) != Op::kNumber) return kNoNode;
      const Rational& value = ex_.number(node).value;
      if (!value.is_integer() || value.bits() > 4) return kNoNode;
      exponent = static_cast<int>(fmpz_get_si(value.numerator()));
    }
    auto letter = FindUnit(ex_.text(symbol));
    if (letter) letter = UnitPower(*letter, exponent);
    if (!letter) return kNoNode;
    unit = UnitProduct(unit, *letter);
    any = true;
  }
  const NodeId value = any && !rest.empty() ? ex_.MakeMul(rest) : kNoNode;
  return value == kNoNode ? kNoNode : ex_.MakeQuantity(value, unit);
}

NodeId MathComparer::InBaseUnit(NodeId quantity) {
  const Unit unit = ex_.unit(quantity);
  const NodeId value = ex_.MakeMul({ex_.child(quantity, 0), ex_.MakeRational(unit.factor)});
  if (!unit.degrees) return value;
  return ex_.MakeMul({value, ex_.MakeConstant(Op::kPi), ex_.MakeRational(Rational(1, 180))});
}

Comparison MathComparer::CompareScalars(NodeId gold, NodeId answer) {
  const Op gold_op = ex_.op(gold), answer_op = ex_.op(answer);
  if (gold_op == Op::kPercent || answer_op == Op::kPercent) return ComparePercent(gold, answer);
  // A letter may be a unit: beside a quantity it is one, a bare number forgives it.
  const auto as_unit = [&](NodeId id) {
    const NodeId quantity = ex_.node(id).traits.symbols ? SymbolsAsUnit(id) : kNoNode;
    return quantity == kNoNode ? id : quantity;
  };
  if (gold_op == Op::kQuantity || answer_op == Op::kQuantity) {
    if (ex_.op(gold) == Op::kQuantity) return CompareQuantities(gold, as_unit(answer));
    return CompareQuantities(as_unit(gold), answer);
  }
  if (!ex_.node(gold).traits.symbols && ex_.node(answer).traits.symbols) {
    const NodeId quantity = as_unit(answer);
    if (quantity != answer) return CompareQuantities(gold, quantity);
  }
  if (ex_.node(gold).traits.symbols && !ex_.node(answer).traits.symbols) {
    const NodeId quantity = as_unit(gold);
    // "2m" as a gold answer may as well be twice the variable m.
    if (quantity != gold && CompareQuantities(quantity, answer).verdict != Verdict::kIncorrect) {
      return {Verdict::kUndecided, ReasonCode::kAmbiguous};
    }
  }
  return CompareValues(gold, answer);
}

// p percent is p and p / 100; two percentages are compared as such.
Comparison MathComparer::ComparePercent(NodeId gold, NodeId answer) {
  const bool both = ex_.op(gold) == Op::kPercent && ex_.op(answer) == Op::kPercent;
  if (both) return CompareScalars(ex_.child(gold, 0), ex_.child(answer, 0));
  const bool gold_percent = ex_.op(gold) == Op::kPercent;
  const NodeId percent = ex_.child(gold_percent ? gold : answer, 0);
  const NodeId other = gold_percent ? answer : gold;
  if (ex_.op(other) == Op::kQuantity) return {Verdict::kIncorrect, ReasonCode::kUnitDiffers};
  const Comparison as_written =
      gold_percent ? CompareValues(percent, other) : CompareValues(other, percent);
  if (as_written.verdict == Verdict::kCorrect) return as_written;
  // As a fraction: the decimal places move by two, so that 44.44% stands for 0.4444.
  NodeId fraction = ex_.MakeMul({percent, ex_.MakeRational(Rational(1, 100))});
  if (ex_.op(percent) == Op::kNumber) {
    Number number = ex_.number(percent);
    fmpq_div(number.value.get(), number.value.get(), Rational(100).get());
    number.decimals = number.decimals >= 0        ? number.decimals + 2
                      : number.value.is_integer() ? -1
                                                  : 2;
    fraction = ex_.MakeNumber(std::move(number));
  }
  const Comparison as_fraction =
      gold_percent ? CompareValues(fraction, other) : CompareValues(other, fraction);
  if (as_fraction.verdict == Verdict::kCorrect) return as_fraction;
  return as_written.verdict == Verdict::kUndecided ? as_written : as_fraction;
}

Comparison MathComparer::CompareQuantities(NodeId gold, NodeId answer) {
  const bool unit_gold = ex_.op(gold) == Op::kQuantity,
             unit_answer = ex_.op(answer) == Op::kQuantity;
  if (unit_gold != unit_answer) {
    const NodeId quantity = unit_gold ? gold : answer, bare = unit_gold ? answer : gold;
    const NodeId value = ex_.child(quantity, 0);
    const Unit unit = ex_.unit(quantity);
    if (ex_.op(value) == Op::kQuantity) return {Verdict::kUndecided, ReasonCode::kUnproven};
    if (ex_.node(value).traits.structure) {  // 7:55 p.m.
      return unit_gold ? Compare(value, bare, kDepthWithin) : Compare(bare, value, kDepthWithin);
    }
    const Comparison same = unit_gold ? CompareValues(value, bare) : CompareValues(bare, value);
    if (same.verdict == Verdict::kCorrect || !unit.degrees) return same;
    const NodeId radians = InBaseUnit(quantity);  // exactly: 0.5 is not 29 degrees
    return unit_gold ? scalars_.Compare(radians, bare) : scalars_.Compare(bare, radians);
  }
  const Unit a = ex_.unit(gold), b = ex_.unit(answer);
  const NodeId value_a = ex_.child(gold, 0), value_b = ex_.child(answer, 0);
  if (ex_.node(value_a).traits.structure || ex_.node(value_b).traits.structure) {
    if (a == b) return Compare(value_a, value_b, kDepthWithin);
    return {Verdict::kIncorrect, ReasonCode::kUnitDiffers};
  }
  if (a == b) return CompareScalars(value_a, value_b);
  if (a.powers != b.powers) return {Verdict::kIncorrect, ReasonCode::kUnitDiffers};
  if (a.noun != b.noun) {
    const Comparison values = CompareValues(value_a, value_b);
    if (values.verdict == Verdict::kIncorrect) return values;
    return {Verdict::kUndecided, ReasonCode::kUnitDiffers};
  }
  return CompareValues(InBaseUnit(gold), InBaseUnit(answer));
}

NodeId MathComparer::ReplaceLog(NodeId id, int depth) {
  if (id == kNoNode || depth > 400 || !budget_.Charge(1)) return kNoNode;
  absl::InlinedVector<NodeId, 8> children(ex_.children(id).begin(), ex_.children(id).end());
  for (NodeId& child : children) child = ReplaceLog(child, depth + 1);
  if (ex_.op(id) == Op::kFunction && ex_.function(id) == Function::kLog)
    return ex_.MakeFunction(Function::kLn, children);
  return children.empty() ? id : ex_.WithChildren(id, children);
}

Comparison MathComparer::CompareValues(NodeId gold, NodeId answer) {
  const Comparison exact = scalars_.Compare(gold, answer);
  if (exact.verdict == Verdict::kCorrect) return exact;
  const Comparison rounded = CompareRounded(gold, answer, exact);
  if (rounded.verdict != Verdict::kIncorrect) return rounded;
  // The same digits where one has a base and the other has none: which base was meant is not said.
  if (ex_.op(gold) == Op::kNumber && ex_.op(answer) == Op::kNumber) {
    const Number &a = ex_.number(gold), &b = ex_.number(answer);
    if ((a.base_digits >= 0) != (b.base_digits >= 0)) {
      const Number &based = a.base_digits >= 0 ? a : b, &bare = a.base_digits >= 0 ? b : a;
      char* digits = fmpz_get_str(nullptr, 10, bare.value.numerator());
      const bool same =
          bare.value.is_integer() && ex_.string(static_cast<uint32_t>(based.base_digits)) == digits;
      flint_free(digits);
      if (same) return {Verdict::kUndecided, ReasonCode::kAmbiguous};
    }
    return rounded;
  }
  // A logarithm without a base is decimal or natural.
  const NodeId natural_gold = ReplaceLog(gold, 0), natural_answer = ReplaceLog(answer, 0);
  if ((natural_gold != gold || natural_answer != answer) &&
      scalars_.Compare(natural_gold, natural_answer).verdict == Verdict::kCorrect) {
    return {Verdict::kUndecided, ReasonCode::kAmbiguous};
  }
  return rounded;
}

// Whether the answer rounds to the gold at so many decimals, ties away from zero: 1 yes, 0 no, -1
// cannot be told.
int MathComparer::RoundsTo(NodeId gold, NodeId answer, int64_t decimals) {
  Rational half = PowerOfTen(-decimals);
  fmpq_div_2exp(half.get(), half.get(), 1);
  const NodeId step = ex_.MakeRational(half);
  const int below = scalars_.Order(answer, ex_.MakeDifference(gold, step));
  const int above = scalars_.Order(answer, ex_.MakeAdd({gold, step}));
  if (below == 2 || above == 2) return -1;
  const bool negative = scalars_.Order(gold, ex_.MakeInteger(0)) < 0;
  return (negative ? below > 0 && above <= 0 : below >= 0 && above < 0) ? 1 : 0;
}

// Decimals: a decimal answer to an exact gold needs 12 correct digits; an exact answer to a decimal
// gold must round to it.
Comparison MathComparer::CompareRounded(NodeId gold, NodeId answer, Comparison exact) {
  if (ex_.node(gold).traits.symbols || ex_.node(answer).traits.symbols) return exact;
  if (ex_.node(gold).traits.infinite || ex_.node(answer).traits.infinite) return exact;
  const Comparison rounds = {Verdict::kCorrect, ReasonCode::kRounds};
  const auto gold_form = DecimalFormOf(ex_, gold), answer_form = DecimalFormOf(ex_, answer);
  if (gold_form) {
    const int within = RoundsTo(gold, answer, gold_form->decimals);
    if (!answer_form && !ex_.node(answer).traits.decimal) {
      if (within == 1) return rounds;
      return within == 0 ? exact : Comparison{Verdict::kUndecided, exact.reason};
    }
    // A longer decimal that rounds to the gold may be right or a slip.
    const bool longer = answer_form && answer_form->decimals > gold_form->decimals;
    if (within == 1 && longer) return {Verdict::kUndecided, ReasonCode::kAmbiguous};
    return exact;
  }
  if (answer_form && answer_form->digits >= kCorrectDigits) {
    const int64_t leading = answer_form->digits - 1 - answer_form->decimals;
    if (scalars_.Within(gold, answer, PowerOfTen(leading - (kCorrectDigits - 1))) == 1)
      return rounds;
    return exact;
  }
  // A gold with one decimal factor ("583.33 pi"): the rest is divided off.
  if (ex_.op(gold) == Op::kMul && ex_.node(gold).traits.decimal &&
      !ex_.node(answer).traits.decimal) {
    NodeId decimal = kNoNode;
    Nodes rest;
    for (NodeId factor : ChildrenOf(gold)) {
      if (decimal == kNoNode && DecimalFormOf(ex_, factor)) {
        decimal = factor;
      } else {
        rest.push_back(factor);
      }
    }
    if (decimal != kNoNode && !ex_.node(ex_.MakeMul(rest)).traits.decimal) {
      return CompareRounded(decimal, ex_.MakeQuotient(answer, ex_.MakeMul(rest)), exact);
    }
  }
  return exact;
}

}  // namespace crescendo
