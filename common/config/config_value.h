// One TOML value into one field, checked; and a field's value as TOML. Private to common/config.
#ifndef CRESCENDO_COMMON_CONFIG_CONFIG_VALUE_H_
#define CRESCENDO_COMMON_CONFIG_CONFIG_VALUE_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "common/config/config_fields.h"
#include "common/config/toml.h"

namespace crescendo {

// Sets the field and returns nullopt, or leaves it alone and returns what was expected and found.
std::optional<std::string> AssignNode(const ConfigField& field, const toml::node& node);
// The same from the text behind --section.key=. Texts and durations come without quotes.
std::optional<std::string> AssignText(const ConfigField& field, absl::string_view text);
// The field's value in TOML syntax; reads back to the same value.
std::string FieldToml(const ConfigField& field);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_CONFIG_CONFIG_VALUE_H_
