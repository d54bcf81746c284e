// Units and nouns behind an expression.
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/reward/number_words.h"
#include "services/reward/parser.h"

namespace crescendo::reward_internal {

// A word that ParseTerm left: not a factor, not a connective.
bool Parser::StartsUnit() const {
  if (IsCommand("$")) return true;
  if (!IsWord()) return false;
  return !IsLowerWord("and") && !IsLowerWord("or") && !IsLowerWord("u");
}

// "^2", "^{2}", "squared", "cubed"; 1 when there is none.
int Parser::ParseUnitPower() {
  if (IsLowerWord("squared")) return ++at_, 2;
  if (IsLowerWord("cubed")) return ++at_, 3;
  if (!IsChar('^')) return 1;
  size_t ahead = 1;
  const bool brace = IsChar('{', ahead);
  if (brace) ++ahead;
  const bool negative = IsChar('-', ahead);
  if (negative) ++ahead;
  int power = 0;
  if (!IsNumber(ahead) || !absl::SimpleAtoi(Peek(ahead).text, &power)) {
    Fail();
    return 1;
  }
  ++ahead;
  if (brace && !IsChar('}', ahead++)) Fail();
  at_ += ahead;
  return negative ? -power : power;
}

// One unit with its power, or one noun; "square" and "cubic" stand in front.
std::optional<Unit> Parser::ParseUnit(bool* generic) {
  int power = 1;
  if (IsLowerWord("square") || IsLowerWord("sq")) power = 2;
  if (IsLowerWord("cubic") || IsLowerWord("cu")) power = 3;
  if (power != 1 && (IsWord(1) || (IsChar('.', 1) && IsWord(2)))) {
    ++at_;
    AcceptChar('.');
  } else {
    power = 1;
  }
  const absl::string_view word = Peek().text;
  // "a.m.", "p.m."
  if (word.size() == 1 && IsChar('.', 1) && IsLowerWord("m", 2)) {
    Unit unit;
    unit.noun = absl::StrCat(absl::AsciiStrToLower(word), "m");
    at_ += 3;
    AcceptChar('.');
    return unit;
  }
  ++at_;
  AcceptChar('.');
  if (IsGenericUnit(word)) {
    *generic = true;
    ParseUnitPower();
    return std::nullopt;
  }
  std::optional<Unit> unit = FindUnit(word);
  if (!unit) {
    unit.emplace();
    unit->noun = SingularNoun(word);
    return unit;
  }
  return UnitPower(*unit, power * ParseUnitPower());
}

// All words that follow: "feet per second", "m/s^2", "distinct integers". Generic words leave the
// quantity as it is.
NodeId Parser::ParseUnits(NodeId quantity) {
  if (failed()) return kNoNode;
  if (AcceptCommand("$")) return ex_.MakeQuantity(quantity, *FindUnit("dollar"));
  if (IsLowerWord("for") &&
      (IsLowerWord("all", 1) || IsLowerWord("any", 1) || IsLowerWord("every", 1)) &&
      brackets_ == 0) {
    while (!IsEnd()) ++at_;  // "for all x" adds nothing
    return quantity;
  }
  if (IsLowerWord("percent") || IsLowerWord("pct")) {
    ++at_;
    return ex_.Make(Op::kPercent, 0, {quantity});
  }
  while (IsWord() && (IsLowerWord("hundred") || IsLowerWord("thousand") || IsLowerWord("million") ||
                      IsLowerWord("billion") || IsLowerWord("trillion"))) {
    const auto scale = ParseNumberWords({"one", Peek().text});  // 1.5 million
    quantity = ex_.MakeMul({quantity, ex_.MakeInteger(scale.value_or(1))});
    ++at_;
  }
  if (!StartsUnit()) return quantity;
  Unit unit;
  bool any = false, generic = false;
  for (int words = 0; words < 16 && !failed(); ++words) {
    bool divide = false;
    if (any && (IsChar('/') || IsLowerWord("per")) && IsWord(1)) {
      divide = true;
      ++at_;
    } else if (any && IsCommand("cdot") && IsWord(1)) {
      ++at_;
    }
    if (!StartsUnit() || IsCommand("$")) break;
    const std::optional<Unit> next = ParseUnit(&generic);
    if (!next) continue;
    std::optional<Unit> factor = divide ? UnitPower(*next, -1) : next;
    if (!factor) return Fail();
    unit = UnitProduct(unit, *factor);
    any = true;
  }
  if (failed()) return kNoNode;
  if (!any) return quantity;
  // A unit in front of nouns counts, the nouns do not: "3 feet of rope".
  bool measured = unit.degrees;
  for (int8_t power : unit.powers) measured |= power != 0;
  if (measured) unit.noun.clear();
  const NodeId result = ex_.MakeQuantity(quantity, unit);
  return measured ? ParseCompound(result) : result;
}

// "7 minutes and 5 seconds", "5 feet 3 inches": the sum, in the first one's base unit.
NodeId Parser::ParseCompound(NodeId quantity) {
  Level level(this);
  if (failed()) return kNoNode;
  const size_t start = at_;
  if (IsLowerWord("and") || IsChar(',')) ++at_;
  if (!IsNumber()) {
    at_ = start;
    return quantity;
  }
  const ParseFailure before = failure_;
  NodeId next = ParseTerm();
  if (!failed() && StartsUnit()) next = ParseUnits(next);
  const bool good = !failed() && next != kNoNode && ex_.op(next) == Op::kQuantity &&
                    ex_.unit(next).powers == ex_.unit(quantity).powers && !ex_.unit(next).degrees &&
                    !ex_.unit(quantity).degrees &&
                    !(ex_.unit(next).factor == ex_.unit(quantity).factor);
  if (!good) {
    failure_ = before;
    at_ = start;
    return quantity;
  }
  Unit base = ex_.unit(quantity);
  const NodeId a = ex_.MakeMul({ex_.child(quantity, 0), ex_.MakeRational(base.factor)});
  const NodeId b = ex_.MakeMul({ex_.child(next, 0), ex_.MakeRational(ex_.unit(next).factor)});
  base.factor = Rational(1);
  return ex_.MakeQuantity(ex_.MakeAdd({a, b}), base);
}

}  // namespace crescendo::reward_internal
