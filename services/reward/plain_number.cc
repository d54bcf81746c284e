#include "services/reward/plain_number.h"

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace crescendo {
namespace {

constexpr int kDigitsMax = 17;

// Digits from the front of `text`, put behind those of `value`, with well-formed thousands
// separators ("1,234,567") when `separators`. `digits` counts those of the value.
bool ConsumeDigits(absl::string_view* text, bool separators, int64_t* value, int* digits) {
  int group = 0;
  bool grouped = false;
  const int before = *digits;
  while (!text->empty()) {
    const char c = (*text)[0];
    if (absl::ascii_isdigit(c)) {
      if (++*digits > kDigitsMax) return false;
      *value = *value * 10 + (c - '0');
      ++group;
    } else if (c == ',' && separators) {
      if (group == 0 || group > 3 || (grouped && group != 3) || (!grouped && *value == 0))
        return false;
      grouped = true;
      group = 0;
    } else {
      break;
    }
    text->remove_prefix(1);
  }
  return *digits > before && (!grouped || group == 3);
}

bool ConsumeMinus(absl::string_view* text) {
  if (!absl::ConsumePrefix(text, "-")) return false;
  *text = absl::StripLeadingAsciiWhitespace(*text);
  return true;
}

// "{12}" or "{-12}".
bool ConsumeBraced(absl::string_view* text, int64_t* value) {
  if (!absl::ConsumePrefix(text, "{")) return false;
  const bool negative = ConsumeMinus(text);
  int digits = 0;
  if (!ConsumeDigits(text, false, value, &digits)) return false;
  if (negative) *value = -*value;
  return absl::ConsumePrefix(text, "}");
}

std::optional<PlainNumber> Normalised(PlainNumber number, bool negative) {
  if (number.denominator == 0) return std::nullopt;
  if (number.denominator < 0) {
    number.denominator = -number.denominator;
    number.numerator = -number.numerator;
  }
  if (negative) number.numerator = -number.numerator;
  return number;
}

}  // namespace

std::optional<PlainNumber> ParsePlainNumber(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (text.size() > 2 && text.front() == '$' && text.back() == '$') {
    text = absl::StripAsciiWhitespace(text.substr(1, text.size() - 2));
  }
  const bool negative = ConsumeMinus(&text);
  PlainNumber number;
  if (absl::ConsumePrefix(&text, "\\frac") || absl::ConsumePrefix(&text, "\\dfrac")) {
    if (!ConsumeBraced(&text, &number.numerator)) return std::nullopt;
    number.denominator = 0;
    if (!ConsumeBraced(&text, &number.denominator)) return std::nullopt;
  } else {
    int digits = 0;
    const bool starts_with_point = !text.empty() && text[0] == '.';
    if (!starts_with_point && !ConsumeDigits(&text, true, &number.numerator, &digits)) {
      return std::nullopt;
    }
    if (text.size() > 1 && text[0] == '.' && absl::ascii_isdigit(text[1])) {
      text.remove_prefix(1);
      const int whole = digits;
      if (!ConsumeDigits(&text, false, &number.numerator, &digits)) return std::nullopt;
      for (int i = whole; i < digits; ++i) number.denominator *= 10;
      number.decimal = true;
    } else if (!text.empty() && text[0] == '/') {
      text.remove_prefix(1);
      number.denominator = 0;
      digits = 0;
      if (!ConsumeDigits(&text, false, &number.denominator, &digits)) return std::nullopt;
    }
  }
  absl::ConsumePrefix(&text, ".");
  if (!text.empty()) return std::nullopt;
  return Normalised(number, negative);
}

bool SameNumber(const PlainNumber& a, const PlainNumber& b) {
  return static_cast<__int128>(a.numerator) * b.denominator ==
         static_cast<__int128>(b.numerator) * a.denominator;
}

}  // namespace crescendo
