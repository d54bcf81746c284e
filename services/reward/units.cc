#include "services/reward/units.h"

#include <algorithm>
#include <cstdlib>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace crescendo {
namespace {

struct Entry {
  const char* name;
  Dimension dimension;
  int8_t power;
  int64_t numerator;
  uint64_t denominator;
};

using D = Dimension;
// Base units: metre, gram, second, dollar, radian. US customary measures are exact (1959
// agreement).
constexpr Entry kEntries[] = {
    {"m", D::kLength, 1, 1, 1},
    {"meter", D::kLength, 1, 1, 1},
    {"metre", D::kLength, 1, 1, 1},
    {"cm", D::kLength, 1, 1, 100},
    {"centimeter", D::kLength, 1, 1, 100},
    {"centimetre", D::kLength, 1, 1, 100},
    {"mm", D::kLength, 1, 1, 1000},
    {"millimeter", D::kLength, 1, 1, 1000},
    {"dm", D::kLength, 1, 1, 10},
    {"decimeter", D::kLength, 1, 1, 10},
    {"km", D::kLength, 1, 1000, 1},
    {"kilometer", D::kLength, 1, 1000, 1},
    {"kilometre", D::kLength, 1, 1000, 1},
    {"in", D::kLength, 1, 254, 10000},
    {"inch", D::kLength, 1, 254, 10000},
    {"ft", D::kLength, 1, 3048, 10000},
    {"foot", D::kLength, 1, 3048, 10000},
    {"feet", D::kLength, 1, 3048, 10000},
    {"yd", D::kLength, 1, 9144, 10000},
    {"yard", D::kLength, 1, 9144, 10000},
    {"mi", D::kLength, 1, 1609344, 1000},
    {"mile", D::kLength, 1, 1609344, 1000},
    {"acre", D::kLength, 2, 40468564224, 10000000},
    {"hectare", D::kLength, 2, 10000, 1},
    {"l", D::kLength, 3, 1, 1000},
    {"liter", D::kLength, 3, 1, 1000},
    {"litre", D::kLength, 3, 1, 1000},
    {"ml", D::kLength, 3, 1, 1000000},
    {"milliliter", D::kLength, 3, 1, 1000000},
    {"cl", D::kLength, 3, 1, 100000},
    {"gallon", D::kLength, 3, 3785411784, 1000000000000},
    {"gal", D::kLength, 3, 3785411784, 1000000000000},
    {"quart", D::kLength, 3, 946352946, 1000000000000},
    {"pint", D::kLength, 3, 473176473, 1000000000000},
    {"g", D::kMass, 1, 1, 1},
    {"gram", D::kMass, 1, 1, 1},
    {"kg", D::kMass, 1, 1000, 1},
    {"kilogram", D::kMass, 1, 1000, 1},
    {"mg", D::kMass, 1, 1, 1000},
    {"milligram", D::kMass, 1, 1, 1000},
    {"lb", D::kMass, 1, 45359237, 100000},
    {"pound", D::kMass, 1, 45359237, 100000},
    {"oz", D::kMass, 1, 45359237, 1600000},
    {"ounce", D::kMass, 1, 45359237, 1600000},
    {"tonne", D::kMass, 1, 1000000, 1},
    {"s", D::kTime, 1, 1, 1},
    {"sec", D::kTime, 1, 1, 1},
    {"second", D::kTime, 1, 1, 1},
    {"ms", D::kTime, 1, 1, 1000},
    {"millisecond", D::kTime, 1, 1, 1000},
    {"min", D::kTime, 1, 60, 1},
    {"minute", D::kTime, 1, 60, 1},
    {"h", D::kTime, 1, 3600, 1},
    {"hr", D::kTime, 1, 3600, 1},
    {"hour", D::kTime, 1, 3600, 1},
    {"day", D::kTime, 1, 86400, 1},
    {"week", D::kTime, 1, 604800, 1},
    {"dollar", D::kMoney, 1, 1, 1},
    {"usd", D::kMoney, 1, 1, 1},
    {"cent", D::kMoney, 1, 1, 100},
    {"penny", D::kMoney, 1, 1, 100},
    {"pennies", D::kMoney, 1, 1, 100},
    {"dime", D::kMoney, 1, 1, 10},
    {"nickel", D::kMoney, 1, 1, 20},
    {"rad", D::kAngle, 1, 1, 1},
    {"radian", D::kAngle, 1, 1, 1},
    {"degree", D::kAngle, 1, 1, 1},
    {"deg", D::kAngle, 1, 1, 1},
    {"coulomb", D::kCharge, 1, 1, 1},
};

Unit FromEntry(const Entry& entry) {
  Unit unit;
  unit.powers[static_cast<size_t>(entry.dimension)] = entry.power;
  unit.factor = Rational(entry.numerator, entry.denominator);
  const absl::string_view name = entry.name;
  unit.degrees = name == "degree" || name == "deg";
  return unit;
}

std::optional<Unit> FindExact(absl::string_view lower) {
  for (const Entry& entry : kEntries) {
    if (lower == entry.name) return FromEntry(entry);
  }
  const auto per_hour = [](Unit length) {
    length.powers[static_cast<size_t>(D::kTime)] = -1;
    fmpq_div(length.factor.get(), length.factor.get(), Rational(3600).get());
    return length;
  };
  if (lower == "mph") return per_hour(*FindExact("mile"));
  if (lower == "kph" || lower == "kmh") return per_hour(*FindExact("km"));
  return std::nullopt;
}

}  // namespace

std::string SingularNoun(absl::string_view word) {
  std::string noun = absl::AsciiStrToLower(word);
  if (noun.size() > 4 && absl::EndsWith(noun, "ies"))
    return absl::StrCat(noun.substr(0, noun.size() - 3), "y");
  if (noun.size() > 3 && (absl::EndsWith(noun, "ches") || absl::EndsWith(noun, "shes") ||
                          absl::EndsWith(noun, "xes"))) {
    return noun.substr(0, noun.size() - 2);
  }
  if (noun.size() > 2 && noun.back() == 's' && noun[noun.size() - 2] != 's') noun.pop_back();
  return noun;
}

std::optional<Unit> FindUnit(absl::string_view word) {
  const std::string lower = absl::AsciiStrToLower(word);
  if (auto unit = FindExact(lower)) return unit;
  if (lower.size() <= 2 && lower != "ls") return std::nullopt;  // "ms" is above; "hs" is no unit
  return FindExact(SingularNoun(lower));
}

bool IsGenericUnit(absl::string_view word) {
  const std::string lower = absl::AsciiStrToLower(word);
  return lower == "unit" || lower == "units" || lower == "un";
}

std::optional<Unit> UnitPower(const Unit& unit, int power) {
  if (power == 0 || std::abs(power) > 9 || unit.degrees) {
    if (power != 1) return std::nullopt;
  }
  Unit result = unit;
  for (int8_t& each : result.powers) {
    const int product = each * power;
    if (std::abs(product) > 27) return std::nullopt;
    each = static_cast<int8_t>(product);
  }
  fmpq_pow_si(result.factor.get(), unit.factor.get(), power);
  return result;
}

Unit UnitProduct(const Unit& a, const Unit& b) {
  Unit result = a;
  for (size_t i = 0; i < result.powers.size(); ++i) {
    result.powers[i] = static_cast<int8_t>(std::clamp(a.powers[i] + b.powers[i], -100, 100));
  }
  fmpq_mul(result.factor.get(), a.factor.get(), b.factor.get());
  result.degrees = a.degrees || b.degrees;
  if (!b.noun.empty()) result.noun = a.noun.empty() ? b.noun : absl::StrCat(a.noun, " ", b.noun);
  return result;
}

}  // namespace crescendo
