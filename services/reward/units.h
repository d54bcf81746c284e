// Units of measure: what an answer's unit is, and whether two are of one dimension.
//
// A unit is a product of powers of base dimensions with an exact factor to the base unit (metre,
// gram, second, dollar, radian). A noun that is no unit ("ways", "dogs") is kept as words. Plain
// values; pure functions, thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_UNITS_H_
#define CRESCENDO_SERVICES_REWARD_UNITS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "services/reward/rational.h"

namespace crescendo {

enum class Dimension : uint8_t { kLength, kMass, kTime, kMoney, kAngle, kCharge, kCount };
inline constexpr int kDimensions = static_cast<int>(Dimension::kCount);

struct Unit {
  std::array<int8_t, kDimensions> powers = {};
  Rational factor = Rational(1);
  bool degrees = false;  // the factor is further multiplied by pi / 180
  std::string noun;      // lower case, singular; empty for a unit of measure

  bool operator==(const Unit& other) const {
    return powers == other.powers && factor == other.factor && degrees == other.degrees &&
           noun == other.noun;
  }
};

// A unit of measure by its name or sign ("cm", "Feet", "mph"); nullopt for any other word.
std::optional<Unit> FindUnit(absl::string_view word);

// Words that stand for no unit in particular: "units", "unit".
bool IsGenericUnit(absl::string_view word);

// Lower case and singular: "Dogs" and "dog" are one noun.
std::string SingularNoun(absl::string_view word);

// unit^power; nullopt for a power whose size is not in [1, 9].
std::optional<Unit> UnitPower(const Unit& unit, int power);
Unit UnitProduct(const Unit& a, const Unit& b);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_UNITS_H_
