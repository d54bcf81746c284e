#include "services/reward/number_words.h"

#include <string>

#include "absl/strings/ascii.h"

namespace crescendo {
namespace {

struct Word {
  absl::string_view name;
  int64_t value;
};
constexpr Word kSmall[] = {{"zero", 0},     {"one", 1},        {"two", 2},       {"three", 3},
                           {"four", 4},     {"five", 5},       {"six", 6},       {"seven", 7},
                           {"eight", 8},    {"nine", 9},       {"ten", 10},      {"eleven", 11},
                           {"twelve", 12},  {"thirteen", 13},  {"fourteen", 14}, {"fifteen", 15},
                           {"sixteen", 16}, {"seventeen", 17}, {"eighteen", 18}, {"nineteen", 19},
                           {"twenty", 20},  {"thirty", 30},    {"forty", 40},    {"fifty", 50},
                           {"sixty", 60},   {"seventy", 70},   {"eighty", 80},   {"ninety", 90}};
constexpr Word kScales[] = {{"thousand", 1'000},
                            {"million", 1'000'000},
                            {"billion", 1'000'000'000},
                            {"trillion", 1'000'000'000'000}};

template <size_t n>
std::optional<int64_t> Find(absl::string_view lower, const Word (&words)[n]) {
  for (const Word& word : words) {
    if (word.name == lower) return word.value;
  }
  return std::nullopt;
}

}  // namespace

bool IsNumberWord(absl::string_view word) {
  const std::string lower = absl::AsciiStrToLower(word);
  return Find(lower, kSmall) || Find(lower, kScales) || lower == "hundred";
}

std::optional<int64_t> ParseNumberWords(absl::Span<const absl::string_view> words) {
  int64_t total = 0, part = 0;
  int64_t room = 1000;  // the next small word must be below this: "twenty one", not "one twenty"
  int64_t scale_max = 1'000'000'000'000'000;
  bool any = false;
  for (absl::string_view word : words) {
    const std::string lower = absl::AsciiStrToLower(word);
    if (lower == "and" && any) continue;
    if (const auto small = Find(lower, kSmall)) {
      if (*small >= room || (any && *small == 0)) return std::nullopt;
      part += *small;
      room = *small >= 20 ? 10 : 1;
    } else if (lower == "hundred") {
      if (part == 0 || part >= 100) return std::nullopt;
      part *= 100;
      room = 100;
    } else if (const auto scale = Find(lower, kScales)) {
      if (part == 0 || *scale >= scale_max) return std::nullopt;
      total += part * *scale;
      scale_max = *scale;
      part = 0;
      room = 1000;
    } else {
      return std::nullopt;
    }
    any = true;
  }
  if (!any) return std::nullopt;
  return total + part;
}

}  // namespace crescendo
