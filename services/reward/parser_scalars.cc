// Sums, products, powers: what a calculator knows.
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "services/reward/number_words.h"
#include "services/reward/parser.h"

namespace crescendo::reward_internal {
namespace {

bool IsOrdinal(absl::string_view word) {
  return word == "th" || word == "st" || word == "nd" || word == "rd";
}

}  // namespace

// A sign in front; "\pm" and "\mp" set their flags.
NodeId Parser::ParseSignedTerm(bool* plus_minus, bool* minus_first) {
  bool negative = false;
  *plus_minus = false;
  for (int signs = 0; signs < 8; ++signs) {
    if (AcceptChar('-')) {
      negative = !negative;
    } else if (IsCommand("pm") || IsCommand("mp")) {
      if (*plus_minus) return Fail();
      *plus_minus = true;
      *minus_first = IsCommand("mp") != negative;
      negative = false;
      ++at_;
    } else if (!AcceptChar('+')) {
      break;
    }
  }
  const NodeId term = ParseTerm();
  if (failed()) return kNoNode;
  if (!negative) return term;
  if (ex_.op(term) == Op::kQuantity || ex_.op(term) == Op::kPercent) {  // -$5 is a quantity too
    return ex_.WithChildren(term, {ex_.MakeNegation(ex_.child(term, 0))});
  }
  return ex_.MakeNegation(term);
}

NodeId Parser::ParseSum() {
  Level level(this);
  if (failed()) return kNoNode;
  NodeList terms;
  do {
    bool plus_minus = false, minus_first = false;
    NodeId term = ParseSignedTerm(&plus_minus, &minus_first);
    if (failed()) return kNoNode;
    if (plus_minus) term = ex_.Make(Op::kPlusMinus, minus_first ? 1 : 0, {term});
    terms.push_back(term);
    budget_.Charge(1);
  } while (IsChar('+') || IsChar('-') || IsCommand("pm") || IsCommand("mp"));
  return ex_.MakeAdd(terms);
}

bool Parser::StartsFactor() const {
  const Token& token = Peek();
  switch (token.kind) {
    case Token::Kind::kNumber: {  // (n - 1) 2^n is a product, two numbers side by side are not
      if (at_ == 0) return false;
      const Token& before = tokens_[at_ - 1];
      const bool letter =
          before.kind == Token::Kind::kWord && !before.in_text && before.text.size() == 1;
      const bool pi = before.kind == Token::Kind::kCommand && before.text == "pi";
      return before.text == ")" || before.text == "}" || before.text == "!" || pi ||
             (letter && (token.space_before || IsChar('^', 1)));
    }
    case Token::Kind::kWord: {
      const std::string lower = absl::AsciiStrToLower(token.text);
      if (lower == "and" || lower == "or" || lower == "am" || lower == "pm") return false;
      if ((lower == "a" || lower == "p") && IsChar('.', 1) && IsLowerWord("m", 2)) return false;
      if (FindFunction(lower) || lower == "pi" || lower == "sqrt") return true;
      if (token.text.size() == 1) {
        const bool is_union = lower == "u" && (IsChar('(', 1) || IsChar('[', 1)) && at_ > 0 &&
                              (tokens_[at_ - 1].text == ")" || tokens_[at_ - 1].text == "]");
        return !is_union && (!token.in_text || token.text == "e" || token.text == "i");
      }
      if (token.in_text) return false;
      if (token.text.size() == 4 && FindFunction(token.text.substr(0, 3))) return true;
      return token.text.size() <= 3 && !FindUnit(token.text) && !IsNumberWord(lower) &&
             lower != "per" && !(IsWord(1) && Peek(1).text.size() > 1);
    }
    case Token::Kind::kCommand:
      for (absl::string_view stop :
           {"pm",    "mp",     "cup",    "cap",   "setminus",   "le",     "ge",       "ne",
            "equiv", "approx", "in",     "to",    "}",          "{",      "rangle",   "end",
            "\\",    "{,}",    "and",    "or",    "rfloor",     "rceil",  "choose",   "cdot",
            "times", "div",    "$",      "sim",   "Rightarrow", "subset", "subseteq", "notin",
            "mod",   "pmod",   "langle", "begin", "ldots",      "circ",   "over"}) {
        if (token.text == stop) return false;
      }
      return true;
    case Token::Kind::kChar:
      if (token.text == "(" && IsWord(1) && IsCommand("in", 2)) return false;  // (k \in \mathbb{Z})
      return token.text == "(" || token.text == "{" || (token.text == "|" && absolutes_ == 0);
    default:
      return false;
  }
}

NodeId Parser::ParseTerm() {
  Level level(this);
  if (failed()) return kNoNode;
  size_t start = at_;
  NodeId product = ParsePower();
  while (!failed()) {
    budget_.Charge(1);
    const bool literal = at_ == start + 1 && tokens_[start].kind == Token::Kind::kNumber;
    if (AcceptChar('*') || AcceptCommand("cdot") || AcceptCommand("times") ||
        (IsLowerWord("x") && IsNumber(1) && at_ > 0 &&
         tokens_[at_ - 1].kind == Token::Kind::kNumber && ++at_)) {
      const bool negative = AcceptChar('-');
      start = at_;
      const NodeId factor = ParsePower();
      product = ex_.MakeMul({product, negative ? ex_.MakeNegation(factor) : factor});
    } else if (AcceptChar('/') || AcceptCommand("div")) {
      const bool negative = AcceptChar('-');
      const NodeId divisor = ParsePower();
      product = ex_.MakeQuotient(product, negative ? ex_.MakeNegation(divisor) : divisor);
      start = at_;
    } else {
      const size_t before = at_;
      product = ParseJuxtaposed(product, literal);
      if (at_ == before) break;
      start = at_;
    }
  }
  return failed() ? kNoNode : product;
}

// A factor without a sign of multiplication, or the fraction of a mixed number. Consumes nothing
// when there is neither.
NodeId Parser::ParseJuxtaposed(NodeId left, bool literal) {
  const bool whole = literal && ex_.op(left) == Op::kNumber && ex_.number(left).decimals < 0 &&
                     ex_.number(left).value.is_integer();
  if (whole && IsNumber() && IsChar('/', 1) && IsNumber(2)) {  // 1 1/2
    const NodeId above = ParseNumber();
    ++at_;
    const NodeId below = ParseNumber();
    if (failed() || ex_.op(above) != Op::kNumber || ex_.op(below) != Op::kNumber) return Fail();
    if (!(ex_.number(above).value < ex_.number(below).value)) return Fail();
    return ParsePostfix(ex_.MakeAdd({left, ex_.MakeQuotient(above, below)}));
  }
  if (whole && IsCommand("frac")) {
    ++at_;
    const NodeId fraction = ParseFraction();
    if (failed()) return kNoNode;
    // A proper fraction of whole numbers makes a mixed number, any other one a product.
    if (ex_.op(fraction) == Op::kMul && ex_.children(fraction).size() == 2) {
      NodeId above = ex_.child(fraction, 0), inverse = ex_.child(fraction, 1);
      if (ex_.op(above) == Op::kPow) std::swap(above, inverse);
      if (ex_.op(above) == Op::kNumber && ex_.op(inverse) == Op::kPow) {
        const NodeId below = ex_.child(inverse, 0);
        if (ex_.op(below) == Op::kNumber && ex_.number(above).value.sign() > 0 &&
            ex_.number(above).value.is_integer() && ex_.number(below).value.is_integer() &&
            ex_.number(above).value < ex_.number(below).value) {
          return ParsePostfix(ex_.MakeAdd({left, fraction}));
        }
      }
    }
    return ex_.MakeMul({left, ParsePostfix(fraction)});
  }
  if (!StartsFactor()) return left;
  if ((ex_.op(left) == Op::kTuple || ex_.op(left) == Op::kList) &&
      IsChar('(')) {  // (2,3)(2,7) are two points
    NodeList points(1, left);
    if (ex_.op(left) == Op::kList)
      points.assign(ex_.children(left).begin(), ex_.children(left).end());
    points.push_back(ParsePower());
    return failed() ? kNoNode : ex_.Make(Op::kList, 0, points);
  }
  return ex_.MakeMul({left, ParsePower()});
}

NodeId Parser::ParsePower() {
  Level level(this);
  if (failed()) return kNoNode;
  const NodeId base = ParsePrimary();
  return failed() ? kNoNode : ParsePostfix(base);
}

// After a degree sign: an angle, or a temperature when C or F follows.
NodeId Parser::ParseDegrees(NodeId value) {
  if (IsWord() && (Peek().text == "C" || Peek().text == "F")) {
    Unit unit;
    unit.noun = tokens_[at_++].text == "C" ? "celsius" : "fahrenheit";
    return ex_.MakeQuantity(value, std::move(unit));
  }
  return ex_.MakeQuantity(value, *FindUnit("degree"));
}

// C_{10}^{3} is a binomial coefficient.
NodeId Parser::MakePower(NodeId base, NodeId exponent) {
  int64_t n = 0;
  if (exponent != kNoNode && ex_.op(base) == Op::kSymbol && ex_.op(exponent) == Op::kNumber &&
      absl::StartsWith(ex_.text(base), "C_") && absl::SimpleAtoi(ex_.text(base).substr(2), &n) &&
      n > 0) {
    const Rational& k = ex_.number(exponent).value;
    if (k.is_integer() && k.sign() >= 0 && !(Rational(n) < k)) {
      return ex_.MakeFunction(Function::kBinomial, {ex_.MakeInteger(n), exponent});
    }
  }
  return ex_.MakePow(base, exponent);
}

NodeId Parser::ParsePostfix(NodeId base) {
  while (!failed() && base != kNoNode) {
    if (IsChar('!') && !IsChar('=', 1)) {
      ++at_;
      const bool twice = AcceptChar('!');
      base = ex_.MakeFunction(twice ? Function::kDoubleFactorial : Function::kFactorial, {base});
    } else if (AcceptChar('%')) {
      base = ex_.Make(Op::kPercent, 0, {base});
    } else if (IsCommand("circ")) {
      ++at_;
      base = ParseDegrees(base);
    } else if (IsChar('^') && (IsCommand("circ", 1) ||
                               (IsChar('{', 1) && IsCommand("circ", 2) && IsChar('}', 3)))) {
      at_ += IsCommand("circ", 1) ? 2 : 4;
      base = ParseDegrees(base);
    } else if (IsChar('^') && IsChar('{', 1) && IsWord(2) && Peek(2).in_text && IsChar('}', 3) &&
               IsOrdinal(Peek(2).text)) {
      at_ += 4;  // 11^{\text{th}}
    } else if (AcceptChar('^')) {
      base = MakePower(base, ParseExponent());
    } else {
      break;
    }
  }
  return failed() ? kNoNode : base;
}

NodeId Parser::ParseExponent() {
  Level level(this);
  if (failed()) return kNoNode;
  const bool negative = AcceptChar('-');
  NodeId exponent = kNoNode;
  if (AcceptChar('{')) {
    exponent = ParseGroup(true);
  } else {
    exponent = ParsePrimary();
    if (!failed() && IsChar('^')) {  // a^b^c is a^(b^c)
      ++at_;
      exponent = ex_.MakePow(exponent, ParseExponent());
    }
  }
  if (failed()) return kNoNode;
  return negative ? ex_.MakeNegation(exponent) : exponent;
}

}  // namespace crescendo::reward_internal
