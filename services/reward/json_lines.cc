#include "services/reward/json_lines.h"

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace crescendo {
namespace {

absl::StatusOr<std::string> GoldText(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return value.dump();
  return absl::InvalidArgumentError(absl::StrCat(
      "\"answer\": expected a string, a number or a list of them, found ", value.type_name()));
}

}  // namespace

bool LineReader::Next(std::string* line, bool* too_long) {
  *too_long = false;
  line->clear();
  std::streambuf* buffer = in_.rdbuf();
  while (true) {
    const int c = buffer->sbumpc();
    const bool end = c == std::char_traits<char>::eof();
    if (!end) ++bytes_;
    if (end || c == '\n') {
      if (end && line->empty() && !*too_long) return false;
      ++number_;
      if (*too_long || !absl::StripAsciiWhitespace(*line).empty()) return true;
      line->clear();
      if (end) return false;
    } else if (line->size() < kJsonLineBytesMax) {
      line->push_back(static_cast<char>(c));
    } else {
      *too_long = true;
    }
  }
}

absl::StatusOr<nlohmann::json> ParseObject(const std::string& line, bool too_long) {
  if (too_long)
    return absl::InvalidArgumentError(
        absl::StrCat("expected at most ", kJsonLineBytesMax, " bytes a line"));
  // Levels of nesting are bounded: the parser keeps a stack of them.
  int depth = 0;
  bool text = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"') text = !text;
    if (line[i] == '\\') ++i;
    if (!text && (line[i] == '{' || line[i] == '[') && ++depth > 64)
      return absl::InvalidArgumentError("expected at most 64 levels of JSON");
    if (!text && (line[i] == '}' || line[i] == ']')) --depth;
  }
  nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
  if (object.is_discarded())
    return absl::InvalidArgumentError("expected a JSON object, found something that is no JSON");
  if (!object.is_object())
    return absl::InvalidArgumentError(
        absl::StrCat("expected a JSON object, found ", object.type_name()));
  return object;
}

absl::StatusOr<std::string> StringField(const nlohmann::json& object, const char* key,
                                        bool required) {
  const auto at = object.find(key);
  if (at == object.end() || at->is_null()) {
    if (!required) return std::string();
    return absl::InvalidArgumentError(
        absl::StrCat("\"", key, "\": expected a string, found no such field"));
  }
  if (!at->is_string())
    return absl::InvalidArgumentError(
        absl::StrCat("\"", key, "\": expected a string, found ", at->type_name()));
  return at->get<std::string>();
}

absl::StatusOr<std::vector<std::string>> GoldField(const nlohmann::json& object) {
  auto at = object.find("answer");
  if (at == object.end()) at = object.find("gold");
  if (at == object.end())
    return absl::InvalidArgumentError(
        "\"answer\": expected a string or a list of strings, found no such field");
  std::vector<std::string> golds;
  if (!at->is_array()) {
    auto gold = GoldText(*at);
    if (!gold.ok()) return gold.status();
    golds.push_back(*std::move(gold));
    return golds;
  }
  for (const nlohmann::json& each : *at) {
    auto gold = GoldText(each);
    if (!gold.ok()) return gold.status();
    golds.push_back(*std::move(gold));
  }
  if (golds.empty())
    return absl::InvalidArgumentError(
        "\"answer\": expected at least one string, found an empty list");
  return golds;
}

}  // namespace crescendo
