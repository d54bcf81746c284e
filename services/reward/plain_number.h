// The fast path: numbers as they are mostly written (42, -1,234.50, 3/4, \frac{3}{4}), compared
// without allocation. Pure, thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_PLAIN_NUMBER_H_
#define CRESCENDO_SERVICES_REWARD_PLAIN_NUMBER_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace crescendo {

// numerator / denominator, not necessarily in lowest terms; denominator > 0, both below 10^18 in
// size.
struct PlainNumber {
  int64_t numerator = 0;
  int64_t denominator = 1;
  bool decimal = false;  // written with a decimal point: a rounding, perhaps
};

// nullopt for anything but a whole number, a decimal or a fraction of whole numbers that fits.
// Dollar signs of mathematics around it and a full stop at the end are allowed; a currency sign, a
// unit or a percent sign is not.
std::optional<PlainNumber> ParsePlainNumber(absl::string_view text);

// Equal as rational numbers.
bool SameNumber(const PlainNumber& a, const PlainNumber& b);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_PLAIN_NUMBER_H_
