#include "common/config/config_value.h"

#include <cmath>
#include <cstdlib>
#include <map>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace crescendo {
namespace {

constexpr size_t kTextBytesMax = 64 << 10;
constexpr size_t kListMax = 4096;

std::string_view StdView(absl::string_view text) { return {text.data(), text.size()}; }

std::string Quoted(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          absl::StrAppendFormat(&out, "\\u%04X", static_cast<int>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

// A number as TOML that reads back to the same bits, in as few digits as that takes.
std::string NumberToml(double value) {
  std::string text;
  for (int digits = 6; digits <= 17; ++digits) {
    text = absl::StrFormat("%.*g", digits, value);
    if (std::strtod(text.c_str(), nullptr) == value) break;
  }
  if (std::isfinite(value) && text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// What a node holds, in words for "found ...".
std::string Found(const toml::node& node) {
  if (const auto* text = node.as_string()) return Quoted(text->get().substr(0, 80));
  if (const auto* number = node.as_integer()) return absl::StrCat(number->get());
  if (const auto* number = node.as_floating_point()) return NumberToml(number->get());
  if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  if (node.is_array()) return "a list";
  if (node.is_table()) return "a table";
  return "a date or time";
}

bool InRange(const ConfigField& field, double value) {
  return std::isfinite(value) && value <= field.max &&
         (field.min_open ? value > field.min : value >= field.min);
}

bool IsName(absl::string_view text) {
  if (text.empty() || text.size() > 63) return false;
  for (const char c : text) {
    if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '-') return false;
  }
  return true;
}

bool IsEndpoint(absl::string_view text) {
  const size_t colon = text.rfind(':');
  int port = 0;
  return colon != absl::string_view::npos && colon > 0 &&
         absl::SimpleAtoi(text.substr(colon + 1), &port) && port >= 0 && port <= 65535 &&
         absl::ascii_isdigit(text[colon + 1]);
}

bool HasForm(const ConfigField& field, const std::string& text) {
  switch (field.form) {
    case TextForm::kName:
      return IsName(text);
    case TextForm::kOptionalName:
      return text.empty() || IsName(text);
    case TextForm::kEndpoint:
      return IsEndpoint(text);
    case TextForm::kOptionalEndpoint:
      return text.empty() || IsEndpoint(text);
    case TextForm::kChoice:
      for (const char* choice : field.choices) {
        if (text == choice) return true;
      }
      return false;
    case TextForm::kPath:
    case TextForm::kAny:
      break;
  }
  return text.size() <= kTextBytesMax && text.find('\0') == std::string::npos;
}

// Sets the target from a node when type and range fit; whether it did.
struct Assign {
  const ConfigField& field;
  const toml::node& node;

  bool operator()(bool* target) const {
    const auto* value = node.as_boolean();
    if (value == nullptr) return false;
    *target = value->get();
    return true;
  }
  template <typename Integer>
  bool operator()(Integer* target) const {
    const auto* value = node.as_integer();
    if (value == nullptr || !InRange(field, static_cast<double>(value->get()))) return false;
    *target = static_cast<Integer>(value->get());
    return true;
  }
  bool operator()(double* target) const {
    double value = 0;
    if (const auto* number = node.as_floating_point()) {
      value = number->get();
    } else if (const auto* integer = node.as_integer()) {
      value = static_cast<double>(integer->get());
    } else {
      return false;
    }
    if (!InRange(field, value)) return false;
    *target = value;
    return true;
  }
  bool operator()(std::string* target) const {
    const auto* value = node.as_string();
    if (value == nullptr || !HasForm(field, value->get())) return false;
    *target = value->get();
    return true;
  }
  bool operator()(absl::Duration* target) const {
    const auto* value = node.as_string();
    absl::Duration duration;
    if (value == nullptr || !absl::ParseDuration(value->get(), &duration)) return false;
    if (!InRange(field, absl::ToDoubleSeconds(duration))) return false;
    *target = duration;
    return true;
  }
  bool operator()(std::vector<int>* target) const {
    const auto* list = node.as_array();
    if (list == nullptr || list->size() > kListMax) return false;
    std::vector<int> values;
    for (const toml::node& item : *list) {
      const auto* value = item.as_integer();
      if (value == nullptr || !InRange(field, static_cast<double>(value->get()))) return false;
      values.push_back(static_cast<int>(value->get()));
    }
    *target = std::move(values);
    return true;
  }
  bool operator()(std::map<std::string, double>* target) const {
    const auto* table = node.as_table();
    if (table == nullptr || table->size() > kListMax) return false;
    std::map<std::string, double> values;
    for (const auto& [key, item] : *table) {
      const std::optional<double> value = item.value<double>();
      const bool number = item.is_floating_point() || item.is_integer();
      if (!number || !value || !InRange(field, *value)) return false;
      values[std::string(key.str())] = *value;
    }
    *target = std::move(values);
    return true;
  }
};

struct ToTomlText {
  std::string operator()(const std::map<std::string, double>* value) const {
    return absl::StrCat("{",
                        absl::StrJoin(*value, ",",
                                      [](std::string* out, const auto& entry) {
                                        absl::StrAppend(out, " ", Quoted(entry.first), " = ",
                                                        NumberToml(entry.second));
                                      }),
                        value->empty() ? "}" : " }");
  }
  std::string operator()(const bool* value) const { return *value ? "true" : "false"; }
  std::string operator()(const int* value) const { return absl::StrCat(*value); }
  std::string operator()(const int64_t* value) const { return absl::StrCat(*value); }
  std::string operator()(const uint64_t* value) const { return absl::StrCat(*value); }
  std::string operator()(const double* value) const { return NumberToml(*value); }
  std::string operator()(const std::string* value) const { return Quoted(*value); }
  std::string operator()(const absl::Duration* value) const {
    return Quoted(absl::FormatDuration(*value));
  }
  std::string operator()(const std::vector<int>* value) const {
    return absl::StrCat("[", absl::StrJoin(*value, ", "), "]");
  }
};

}  // namespace

std::optional<std::string> AssignNode(const ConfigField& field, const toml::node& node) {
  if (std::visit(Assign{field, node}, field.target)) return std::nullopt;
  return absl::StrCat("expected ", Expectation(field), ", found ", Found(node));
}

std::optional<std::string> AssignText(const ConfigField& field, absl::string_view text) {
  if (std::holds_alternative<std::string*>(field.target) ||
      std::holds_alternative<absl::Duration*>(field.target)) {
    return AssignNode(field, toml::value<std::string>(StdView(text)));
  }
  const std::string document = absl::StrCat("value = ", text);
  const toml::parse_result parsed = toml::parse(StdView(document));
  if (parsed && document.find_first_of("#\r\n") == std::string::npos) {
    const toml::node* node = parsed.table().get("value");
    if (node != nullptr && parsed.table().size() == 1) return AssignNode(field, *node);
  }
  return absl::StrCat("expected ", Expectation(field), ", found '", text.substr(0, 80), "'");
}

std::string FieldToml(const ConfigField& field) { return std::visit(ToTomlText{}, field.target); }

}  // namespace crescendo
