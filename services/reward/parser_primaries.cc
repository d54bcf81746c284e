// What stands between operators: names, commands, fractions, roots, functions.
#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/reward/number_words.h"
#include "services/reward/parser.h"

namespace crescendo::reward_internal {

std::optional<Function> FindFunction(absl::string_view name) {
  static constexpr struct {
    absl::string_view name;
    Function function;
  } kNames[] = {
      {"sin", Function::kSin},     {"cos", Function::kCos},        {"tan", Function::kTan},
      {"cot", Function::kCot},     {"sec", Function::kSec},        {"csc", Function::kCsc},
      {"arcsin", Function::kAsin}, {"arccos", Function::kAcos},    {"arctan", Function::kAtan},
      {"asin", Function::kAsin},   {"acos", Function::kAcos},      {"atan", Function::kAtan},
      {"sinh", Function::kSinh},   {"cosh", Function::kCosh},      {"tanh", Function::kTanh},
      {"ln", Function::kLn},       {"log", Function::kLog},        {"lg", Function::kLog},
      {"exp", Function::kExp},     {"abs", Function::kAbs},        {"floor", Function::kFloor},
      {"ceil", Function::kCeil},   {"gcd", Function::kGcd},        {"lcm", Function::kLcm},
      {"max", Function::kMax},     {"binom", Function::kBinomial},
  };
  for (const auto& entry : kNames) {
    if (entry.name == name) return entry.function;
  }
  return std::nullopt;
}

NodeId Parser::ParsePrimary() {
  Level level(this);
  if (failed()) return kNoNode;
  budget_.Charge(1);
  if (IsNumber() || IsChar('(') || IsWord()) {
    if (const NodeId based = TryBasedNumber(); based != kNoNode) return based;
  }
  const Token& token = Peek();
  switch (token.kind) {
    case Token::Kind::kNumber:
      return ParseNumber();
    case Token::Kind::kWord:
      return ParseWord();
    case Token::Kind::kCommand:
      return ParseCommand();
    case Token::Kind::kChar:
      break;
    default:
      return Fail();
  }
  if (AcceptChar('(')) return ParseParenthesis(false);
  if (AcceptChar('[')) return ParseParenthesis(true);
  if (AcceptChar('{')) return ParseGroup(false);
  if (AcceptChar('|')) return ParseAbsolute();
  return Fail();
}

std::string Parser::ParseSubscript() {
  if (!AcceptChar('_')) return "";
  std::string name = "_";
  if (AcceptChar('{')) {
    int depth = 1;
    while (!IsEnd() && name.size() < 64) {
      if (IsChar('{')) ++depth;
      if (IsChar('}') && --depth == 0) break;
      absl::StrAppend(&name, tokens_[at_++].text);
    }
    ExpectChar('}');
  } else if (IsNumber() || IsWord()) {
    absl::StrAppend(&name, tokens_[at_++].text);
  } else {
    Fail();
  }
  return name;
}

NodeId Parser::ParseSymbol(std::string name) {
  if (IsChar('_')) absl::StrAppend(&name, ParseSubscript());
  while (AcceptChar('\'')) name.push_back('\'');
  if (failed()) return kNoNode;
  return ex_.MakeSymbol(name);
}

// Letters side by side are a product of variables; "e" and "i" are the numbers.
NodeId Parser::ParseLetters(absl::string_view letters) {
  NodeList factors;
  for (size_t i = 0; i < letters.size(); ++i) {
    const absl::string_view letter = letters.substr(i, 1);
    const bool last = i + 1 == letters.size();
    const bool subscripted = last && IsChar('_');
    if (letter == "e" && !subscripted) {
      factors.push_back(ex_.MakeConstant(Op::kE));
    } else if (letter == "i" && !subscripted) {
      factors.push_back(ex_.MakeConstant(Op::kI));
    } else {
      factors.push_back(last ? ParseSymbol(std::string(letter)) : ex_.MakeSymbol(letter));
    }
    if (last && factors.size() > 1 && IsChar('^')) {  // xy^2 is x * y^2
      factors.back() = ParsePostfix(factors.back());
    }
  }
  return failed() ? kNoNode : ex_.MakeMul(factors);
}

NodeId Parser::ParseWord() {
  const Token& token = Peek();
  const absl::string_view word = token.text;
  const std::string lower = absl::AsciiStrToLower(word);
  if (const auto function = FindFunction(lower)) {
    ++at_;
    return ParseFunction(*function);
  }
  if (lower == "pi" && word != "PI") {
    ++at_;
    return ex_.MakeConstant(Op::kPi);
  }
  if (lower == "infinity" || lower == "inf" || lower == "infty" || lower == "oo") {
    ++at_;
    return ex_.MakeConstant(Op::kInfinity);
  }
  if (lower == "sqrt") {
    ++at_;
    return ParseRoot();
  }
  if (IsNumberWord(word)) return ParseNumberWord();
  if (token.in_text && IsNumber(1)) {  // a currency in front of its number
    const bool euro = lower == "euros", yen = lower == "yen", sterling = lower == "poundsterling";
    if (euro || yen || sterling) {
      ++at_;
      Unit unit;
      unit.noun = SingularNoun(lower);
      return ex_.MakeQuantity(ParsePower(), std::move(unit));
    }
  }
  if (word.size() == 4 && FindFunction(word.substr(0, 3)) && !token.in_text) {  // sinx
    const Function function = *FindFunction(word.substr(0, 3));
    ++at_;
    return ex_.MakeFunction(function, {ParseLetters(word.substr(3))});
  }
  if (word.size() > 3) return Fail();
  ++at_;
  return ParseLetters(word);
}

NodeId Parser::ParseCurrency() {
  const NodeId amount = ParsePower();
  if (failed()) return kNoNode;
  return ex_.MakeQuantity(amount, *FindUnit("dollar"));
}

NodeId Parser::ParseCommand() {
  const absl::string_view name = Peek().text;
  ++at_;
  if (name == "frac") return ParseFraction();
  if (name == "sqrt") return ParseRoot();
  if (name == "pi") return ex_.MakeConstant(Op::kPi);
  if (name == "infty") return ex_.MakeConstant(Op::kInfinity);
  if (name == "emptyset") return ex_.MakeConstant(Op::kEmptySet);
  if (name == "{") return ParseSetBraces();
  if (name == "langle") return ParseAngle();
  if (name == "lfloor") return ParseBetween("rfloor", Function::kFloor);
  if (name == "lceil") return ParseBetween("rceil", Function::kCeil);
  if (name == "$") return ParseCurrency();
  if (name == "binom") {
    const NodeId n = ParseArgument();
    const NodeId k = ParseArgument();
    return failed() ? kNoNode : ex_.MakeFunction(Function::kBinomial, {n, k});
  }
  if (name == "begin") {
    return tokens_[at_ - 1].in_text ? Fail() : ParseMatrix();
  }
  if (name == "overline" || name == "bar" || name == "vec" || name == "hat" ||
      name == "overrightarrow") {
    std::string symbol = absl::StrCat("\\", name, "{");
    if (AcceptChar('{')) {
      while (!IsEnd() && !IsChar('}') && symbol.size() < 64)
        absl::StrAppend(&symbol, tokens_[at_++].text);
      ExpectChar('}');
    } else {
      absl::StrAppend(&symbol, tokens_[at_].text);
      if (!IsEnd()) ++at_;
    }
    return failed() ? kNoNode : ParseSymbol(symbol + "}");
  }
  if (const auto function = FindFunction(name)) return ParseFunction(*function);
  if (name == "angle" || name == "triangle") {
    if (!IsWord()) return Fail();
    const absl::string_view points = tokens_[at_++].text;
    return ParseSymbol(absl::StrCat("\\", name, " ", points));
  }
  static constexpr absl::string_view kGreek[] = {
      "alpha", "beta",   "gamma", "delta", "epsilon", "zeta",  "eta",   "theta",  "iota",
      "kappa", "lambda", "mu",    "nu",    "xi",      "rho",   "sigma", "tau",    "upsilon",
      "phi",   "chi",    "psi",   "omega", "Gamma",   "Delta", "Theta", "Lambda", "Xi",
      "Pi",    "Sigma",  "Phi",   "Psi",   "Omega",   "ell",   "hbar"};
  for (absl::string_view greek : kGreek) {
    if (name == greek) return ParseSymbol(absl::StrCat("\\", name));
  }
  return Fail();
}

// A group, or else one digit, one letter or one command.
NodeId Parser::ParseArgument() {
  Level level(this);
  if (failed()) return kNoNode;
  if (AcceptChar('{')) return ParseGroup(true);
  if (IsNumber() && Peek().text.find_first_not_of("0123456789") == absl::string_view::npos) {
    Token& token = tokens_[at_];
    const NodeId digit = ex_.MakeInteger(token.text[0] - '0');
    token.text.remove_prefix(1);
    if (token.text.empty()) ++at_;
    return digit;
  }
  if (IsWord() && Peek().text.size() > 1 && !FindFunction(Peek().text) && Peek().text != "pi") {
    Token& token = tokens_[at_];
    const absl::string_view letter = token.text.substr(0, 1);
    token.text.remove_prefix(1);
    return letter == "e"   ? ex_.MakeConstant(Op::kE)
           : letter == "i" ? ex_.MakeConstant(Op::kI)
                           : ex_.MakeSymbol(letter);
  }
  return ParsePrimary();
}

NodeId Parser::ParseFraction() {
  const NodeId above = ParseArgument();
  const NodeId below = ParseArgument();
  return failed() ? kNoNode : ex_.MakeQuotient(above, below);
}

// \sqrt{x}, \sqrt[3]{x}, \sqrt 13, sqrt(x).
NodeId Parser::ParseRoot() {
  NodeId index = kNoNode;
  if (AcceptChar('[')) {
    index = ParseSum();
    ExpectChar(']');
  } else {
    index = ex_.MakeInteger(2);
  }
  if (failed()) return kNoNode;
  const NodeId radicand = IsNumber()                           ? ParseNumber()
                          : IsWord() && Peek().text.size() > 1 ? ParseArgument()
                                                               : ParsePrimary();
  return failed() ? kNoNode : ex_.MakeRoot(radicand, index);
}

NodeId Parser::ParseBetween(absl::string_view close, Function function) {
  const NodeId inside = ParseSum();
  if (failed() || !AcceptCommand(close)) return Fail();
  return ex_.MakeFunction(function, {inside});
}

NodeId Parser::ParseAbsolute() {
  Level level(this);
  ++absolutes_;
  const NodeId inside = ParseSum();
  --absolutes_;
  ExpectChar('|');
  return failed() ? kNoNode : ex_.MakeFunction(Function::kAbs, {inside});
}

NodeId Parser::ParseFunctionArguments(NodeList* arguments) {
  if (AcceptChar('(')) {
    const int absolutes = absolutes_;
    absolutes_ = 0;
    ++brackets_;
    ParseList(arguments);
    --brackets_;
    absolutes_ = absolutes;
    ExpectChar(')');
    return failed() ? kNoNode : arguments->front();
  }
  // Without parentheses: a product of factors, up to the next function.
  NodeId argument = AcceptChar('-') ? ex_.MakeNegation(ParsePower()) : ParsePower();
  while (!failed() && StartsFactor()) {
    const bool function =
        (IsWord() || Peek().kind == Token::Kind::kCommand) && FindFunction(Peek().text);
    if (function || IsChar('(')) break;
    argument = ex_.MakeMul({argument, ParsePower()});
  }
  arguments->push_back(argument);
  return failed() ? kNoNode : argument;
}

// By exponentials.
NodeId Parser::Hyperbolic(Function function, NodeId x) {
  const NodeId up = ex_.MakePow(ex_.MakeConstant(Op::kE), x);
  const NodeId down = ex_.MakePow(ex_.MakeConstant(Op::kE), ex_.MakeNegation(x));
  const NodeId difference = ex_.MakeDifference(up, down), sum = ex_.MakeAdd({up, down});
  if (function == Function::kTanh) return ex_.MakeQuotient(difference, sum);
  return ex_.MakeQuotient(function == Function::kSinh ? difference : sum, ex_.MakeInteger(2));
}

NodeId Parser::ParseFunction(Function function) {
  Level level(this);
  if (failed()) return kNoNode;
  NodeId base = kNoNode, power = kNoNode;
  if (IsChar('_')) {
    if (function != Function::kLog) return Fail();
    ++at_;
    base = IsNumber() ? ParseNumber() : ParseArgument();
  }
  if (AcceptChar('^')) power = ParseExponent();
  NodeList arguments;
  ParseFunctionArguments(&arguments);
  if (failed()) return kNoNode;
  const bool binary = function == Function::kBinomial || function == Function::kGcd ||
                      function == Function::kLcm || function == Function::kMax;
  if (binary ? arguments.size() < 2 : arguments.size() != 1) return Fail();
  if (base != kNoNode) {  // log_b a = ln a / ln b
    const NodeId above = ex_.MakeFunction(Function::kLn, arguments);
    const NodeId below = ex_.MakeFunction(Function::kLn, {base});
    const NodeId quotient = ex_.MakeQuotient(above, below);
    return power == kNoNode ? quotient : ex_.MakePow(quotient, power);
  }
  if (power != kNoNode && ex_.op(power) == Op::kNumber && ex_.number(power).value == Rational(-1)) {
    if (function == Function::kSin) return ex_.MakeFunction(Function::kAsin, arguments);
    if (function == Function::kCos) return ex_.MakeFunction(Function::kAcos, arguments);
    if (function == Function::kTan) return ex_.MakeFunction(Function::kAtan, arguments);
  }
  if (function == Function::kExp) {
    const NodeId exp = ex_.MakePow(ex_.MakeConstant(Op::kE), arguments[0]);
    return power == kNoNode ? exp : ex_.MakePow(exp, power);
  }
  const NodeId value = function >= Function::kSinh && function <= Function::kTanh
                           ? Hyperbolic(function, arguments[0])
                           : ex_.MakeFunction(function, arguments);
  return power == kNoNode ? value : ex_.MakePow(value, power);
}

}  // namespace crescendo::reward_internal
