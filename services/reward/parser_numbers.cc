// Numbers as they are written: separators, decimals, repeating decimals, bases, words.
#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/reward/number_words.h"
#include "services/reward/parser.h"

namespace crescendo::reward_internal {
namespace {

constexpr size_t kDigitsMax = 4096;
constexpr int64_t kExponentMax = 10000;

bool AllDigits(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

}  // namespace

// At a number of one to three digits: "," and exactly three digits, once or more, make one number
// of it. Within brackets commas separate, unless another comma of the same bracket has a space
// behind it.
bool Parser::CommaGroups() const {
  const absl::string_view first = Peek().text;
  if (!AllDigits(first) || first.size() > 3 || first[0] == '0') return false;
  size_t ahead = 1;
  bool explicit_group = false;
  const auto group_at = [&](size_t i) {
    if (!IsChar(',', i) && !IsCommand("{,}", i)) return false;
    const Token& digits = Peek(i + 1);
    const absl::string_view whole = digits.text.substr(0, digits.text.find('.'));
    return digits.kind == Token::Kind::kNumber && AllDigits(whole) && whole.size() == 3 &&
           (!digits.space_before || IsCommand("{,}", i)) && !Peek(i).space_before;
  };
  if (!group_at(1)) return false;
  while (group_at(ahead)) {
    explicit_group |= IsCommand("{,}", ahead);
    ahead += 2;
    if (Peek(ahead - 1).text.find('.') != absl::string_view::npos) break;
  }
  if (IsChar(',', ahead) && IsNumber(ahead + 1) && !Peek(ahead + 1).space_before &&
      !explicit_group) {
    return false;  // 1,234,5 is a list
  }
  if (explicit_group) return true;
  if (brackets_ == 0) return !options_.commas_separate;
  int depth = 0;
  for (size_t i = ahead; i < ahead + 64 && !IsEnd(i); ++i) {
    if (IsChar('(', i) || IsChar('[', i) || IsChar('{', i)) ++depth;
    if ((IsChar(')', i) || IsChar(']', i) || IsChar('}', i)) && --depth < 0) break;
    if (depth == 0 && IsChar(',', i) && Peek(i + 1).space_before) return true;
  }
  return false;
}

// "1 000 000": groups of three digits behind white space.
bool Parser::SpaceGroups() const {
  const absl::string_view first = Peek().text;
  const absl::string_view second = Peek(1).text.substr(0, Peek(1).text.find('.'));
  return AllDigits(first) && first.size() <= 3 && first[0] != '0' && IsNumber(1) &&
         Peek(1).space_before && AllDigits(second) && second.size() == 3 && !IsChar('/', 2);
}

bool Parser::CollectDigits(std::string* digits, int* decimals, int64_t* exponent, bool* decimal) {
  absl::string_view text = tokens_[at_++].text;
  *exponent = 0;
  if (const size_t e = text.find_first_of("eE"); e != absl::string_view::npos) {
    if (!absl::SimpleAtoi(text.substr(e + 1), exponent)) return false;
    text = text.substr(0, e);
    *decimal = true;
  }
  const size_t point = text.find('.');
  if (point == absl::string_view::npos) {
    absl::StrAppend(digits, text);
  } else {
    absl::StrAppend(digits, text.substr(0, point), text.substr(point + 1));
    *decimals = static_cast<int>(text.size() - point - 1);
    *decimal = true;
  }
  return digits->size() <= kDigitsMax;
}

// \overline{36}, \dot{3}, (3) right behind a point or its digits.
bool Parser::AcceptRepeating(std::string* repeating) {
  if ((IsCommand("overline") || IsCommand("bar") || IsCommand("dot")) && IsChar('{', 1) &&
      IsNumber(2) && IsChar('}', 3) && AllDigits(Peek(2).text)) {
    repeating->assign(Peek(2).text.data(), Peek(2).text.size());
    at_ += 4;
    return true;
  }
  if ((IsCommand("overline") || IsCommand("bar") || IsCommand("dot")) && IsNumber(1) &&
      AllDigits(Peek(1).text)) {
    Token& digits = tokens_[at_ + 1];
    repeating->assign(digits.text.data(), 1);
    digits.text.remove_prefix(1);
    at_ += digits.text.empty() ? 2 : 1;
    return true;
  }
  return false;
}

NodeId Parser::NumberFromDigits(absl::string_view digits, int decimals, absl::string_view repeating,
                                int64_t exponent, bool decimal) {
  if (digits.size() + repeating.size() > kDigitsMax || exponent > kExponentMax ||
      exponent < -kExponentMax) {
    return Fail(ParseFailure::kTooLong);
  }
  budget_.Charge(static_cast<int64_t>(digits.size() + repeating.size()) +
                 (exponent < 0 ? -exponent : exponent) / 16);
  Number number;
  const std::string text = digits.empty() ? "0" : std::string(digits);
  fmpz_set_str(number.value.numerator(), text.c_str(), 10);
  Rational ten(10), power;
  if (!repeating.empty()) {  // (all digits - those before the repetition) / (99...900...0)
    const std::string all = absl::StrCat(digits, repeating);
    Rational whole;
    fmpz_set_str(whole.numerator(), all.c_str(), 10);
    fmpq_sub(number.value.get(), whole.get(), number.value.get());
    fmpq_pow_si(power.get(), ten.get(), static_cast<slong>(repeating.size()));
    fmpq_sub_si(power.get(), power.get(), 1);
    fmpq_div(number.value.get(), number.value.get(), power.get());
  }
  fmpq_pow_si(power.get(), ten.get(), exponent - decimals);
  fmpq_mul(number.value.get(), number.value.get(), power.get());
  if (decimal && repeating.empty()) {
    number.decimals = static_cast<int32_t>(decimals - exponent);
    if (number.decimals < 0) number.decimals = 0;
    const size_t first = text.find_first_not_of('0');
    number.digits = first == std::string::npos ? 1 : static_cast<int32_t>(text.size() - first);
    if (decimals == 0 && exponent >= 0) number.decimals = -1;  // 2e3 is exact
  }
  return ex_.MakeNumber(std::move(number));
}

// The block that repeats at the end of "0.1818": its length, or 0.
static size_t RepeatingBlock(absl::string_view decimals) {
  for (size_t block = 1; block <= 6 && 2 * block <= decimals.size(); ++block) {
    const absl::string_view last = decimals.substr(decimals.size() - block);
    if (decimals.substr(decimals.size() - 2 * block, block) == last) return block;
  }
  return 0;
}

NodeId Parser::ParseNumber() {
  std::string digits, repeating;
  int decimals = 0;
  int64_t exponent = 0;
  bool decimal = false;
  const bool commas = CommaGroups(), spaces = !commas && SpaceGroups();
  if (!CollectDigits(&digits, &decimals, &exponent, &decimal)) return Fail(ParseFailure::kTooLong);
  if (commas) {
    grouped_commas_ |= IsChar(',');
    while (!decimal && (IsChar(',') || IsCommand("{,}")) && IsNumber(1) && !failed() &&
           Peek(1).text.substr(0, Peek(1).text.find('.')).size() == 3) {
      ++at_;
      if (!CollectDigits(&digits, &decimals, &exponent, &decimal))
        return Fail(ParseFailure::kTooLong);
    }
  }
  while (spaces && !decimal && IsNumber() && Peek().space_before &&
         Peek().text.substr(0, Peek().text.find('.')).size() == 3 &&
         AllDigits(Peek().text.substr(0, Peek().text.find('.')))) {
    if (!CollectDigits(&digits, &decimals, &exponent, &decimal))
      return Fail(ParseFailure::kTooLong);
  }
  if (!decimal && IsChar('.') && !Peek().space_before) {  // 0.\overline{3}, 0.(3)
    if (IsChar('(', 1) && IsNumber(2) && IsChar(')', 3) && AllDigits(Peek(2).text)) {
      repeating.assign(Peek(2).text.data(), Peek(2).text.size());
      at_ += 4;
    } else if (IsCommand("overline", 1) || IsCommand("bar", 1) || IsCommand("dot", 1)) {
      ++at_;
      if (!AcceptRepeating(&repeating)) return Fail();
    }
  } else if (decimal && exponent == 0) {
    AcceptRepeating(&repeating);
    if (repeating.empty() && IsCommand("ldots")) {
      const size_t block =
          RepeatingBlock(absl::string_view(digits).substr(digits.size() - decimals));
      if (block == 0) return Fail();
      repeating = digits.substr(digits.size() - block);
      ++at_;
    }
  }
  return NumberFromDigits(digits, decimals, repeating, exponent, decimal);
}

// Digits (with letters above 9) and a base: 1011_2, 2B_{16}, (3021)_4. kNoNode and nothing consumed
// when it is no such thing.
NodeId Parser::TryBasedNumber() {
  size_t ahead = 0;
  const bool parenthesis = IsChar('(');
  if (parenthesis) ++ahead;
  std::string digits;
  while ((IsNumber(ahead) || IsWord(ahead)) && digits.size() < 256 &&
         (digits.empty() || !Peek(ahead).space_before)) {
    absl::StrAppend(&digits, Peek(ahead++).text);
  }
  if (digits.empty() || !std::all_of(digits.begin(), digits.end(), absl::ascii_isalnum))
    return kNoNode;
  if (parenthesis && !IsChar(')', ahead++)) return kNoNode;
  if (!IsChar('_', ahead)) return kNoNode;
  ++ahead;
  const bool brace = IsChar('{', ahead);
  if (brace) ++ahead;
  const bool inner = IsChar('(', ahead);
  if (inner) ++ahead;
  int base = 0;
  if (IsNumber(ahead)) {
    if (!absl::SimpleAtoi(Peek(ahead).text, &base)) return kNoNode;
  } else if (IsWord(ahead)) {
    const absl::string_view word = Peek(ahead).text;
    base = static_cast<int>(std::min<int64_t>(ParseNumberWords({word}).value_or(0), 37));
  }
  ++ahead;
  if (inner && !IsChar(')', ahead++)) return kNoNode;
  if (brace && !IsChar('}', ahead++)) return kNoNode;
  if (base < 2 || base > 36) return kNoNode;
  Number number;
  for (char c : digits) {
    const int digit = absl::ascii_isdigit(c) ? c - '0' : absl::ascii_toupper(c) - 'A' + 10;
    if (digit >= base) return kNoNode;
    fmpz_mul_ui(number.value.numerator(), number.value.numerator(), static_cast<ulong>(base));
    fmpz_add_ui(number.value.numerator(), number.value.numerator(), static_cast<ulong>(digit));
  }
  budget_.Charge(static_cast<int64_t>(digits.size()));
  number.base_digits = static_cast<int32_t>(ex_.Intern(absl::AsciiStrToUpper(digits)));
  at_ += ahead;
  return ex_.MakeNumber(std::move(number));
}

NodeId Parser::ParseNumberWord() {
  absl::InlinedVector<absl::string_view, 8> words;
  size_t ahead = 0;
  while (words.size() < 16) {
    if (IsWord(ahead) && IsNumberWord(Peek(ahead).text)) {
      words.push_back(Peek(ahead++).text);
    } else if (!words.empty() && (IsChar('-', ahead) || IsLowerWord("and", ahead)) &&
               IsWord(ahead + 1) && IsNumberWord(Peek(ahead + 1).text)) {
      // "two and three" are two numbers, "two hundred and three" is one.
      const std::string last = absl::AsciiStrToLower(words.back());
      if (!IsChar('-', ahead) && last != "hundred" && last != "thousand" && last != "million")
        break;
      ++ahead;
    } else {
      break;
    }
  }
  const auto value = ParseNumberWords(words);
  if (!value) return Fail();
  at_ += ahead;
  return ex_.MakeInteger(*value);
}

}  // namespace crescendo::reward_internal
