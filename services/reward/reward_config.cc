#include "services/reward/reward_config.h"

#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// Takes the keys of one table; what is left at the end is unknown.
class TableReader {
 public:
  TableReader(const toml::table& table, std::string place, absl::string_view file)
      : table_(table), place_(std::move(place)), file_(file) {}

  absl::Status Text(const char* key, std::string* value) {
    const toml::node* node = Take(key);
    if (node == nullptr) return absl::OkStatus();
    const auto text = node->value_exact<std::string>();
    if (!text) return Error(*node, key, "a text in quotes");
    *value = *text;
    return absl::OkStatus();
  }
  absl::Status Flag(const char* key, bool* value) {
    const toml::node* node = Take(key);
    if (node == nullptr) return absl::OkStatus();
    const auto flag = node->value_exact<bool>();
    if (!flag) return Error(*node, key, "true or false");
    *value = *flag;
    return absl::OkStatus();
  }
  absl::Status Number(const char* key, double min, double max, double* value) {
    const toml::node* node = Take(key);
    if (node == nullptr) return absl::OkStatus();
    const auto number = node->value<double>();
    if (!node->is_number() || !number || !(*number >= min && *number <= max)) {
      return Error(*node, key, absl::StrCat("a number in [", min, ", ", max, "]"));
    }
    *value = *number;
    return absl::OkStatus();
  }
  template <typename Integer>
  absl::Status Whole(const char* key, int64_t min, int64_t max, Integer* value) {
    const toml::node* node = Take(key);
    if (node == nullptr) return absl::OkStatus();
    const auto number = node->value_exact<int64_t>();
    if (!number || *number < min || *number > max)
      return Error(*node, key, absl::StrCat("an integer in [", min, ", ", max, "]"));
    *value = static_cast<Integer>(*number);
    return absl::OkStatus();
  }
  const toml::node* Take(const char* key) {
    taken_.insert(key);
    return table_.get(key);
  }
  absl::Status Done() const {
    for (const auto& [key, node] : table_) {
      if (taken_.count(std::string(key.str())) == 0)
        return Error(node, View(key.str()), "a known key");
    }
    return absl::OkStatus();
  }
  absl::Status Error(const toml::node& node, absl::string_view key,
                     absl::string_view expected) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ":", node.source().begin.line, ": ",
                                                   place_, key, ": expected ", expected));
  }

 private:
  const toml::table& table_;
  const std::string place_;
  const absl::string_view file_;
  std::set<std::string> taken_;
};

absl::StatusOr<RewardType> TypeNamed(absl::string_view name) {
  static constexpr std::pair<const char*, RewardType> kNames[] = {
      {"math", RewardType::kMath},     {"exact", RewardType::kExact},
      {"choice", RewardType::kChoice}, {"regex", RewardType::kRegex},
      {"format", RewardType::kFormat}, {"length", RewardType::kLength},
      {"sum", RewardType::kSum},       {"external", RewardType::kExternal}};
  for (const auto& [known, type] : kNames) {
    if (name == known) return type;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "type: expected math, exact, choice, regex, format, length, sum or external, found \"", name,
      "\""));
}

absl::Status ReadParts(TableReader& reader, absl::string_view file, RewardKind* kind) {
  const toml::node* node = reader.Take("parts");
  if (node == nullptr) return absl::OkStatus();
  const toml::array* parts = node->as_array();
  if (parts == nullptr) return reader.Error(*node, "parts", "a list of {kind, weight}");
  for (const toml::node& each : *parts) {
    const toml::table* table = each.as_table();
    if (table == nullptr) return reader.Error(each, "parts", "a list of {kind, weight}");
    RewardPart part;
    TableReader inner(*table, absl::StrCat("kind.", kind->name, ".parts."), file);
    RETURN_IF_ERROR(inner.Text("kind", &part.kind));
    RETURN_IF_ERROR(inner.Number("weight", -1000, 1000, &part.weight));
    RETURN_IF_ERROR(inner.Done());
    kind->parts.push_back(std::move(part));
  }
  return absl::OkStatus();
}

absl::StatusOr<RewardKind> ReadKind(absl::string_view name, const toml::node& node,
                                    absl::string_view file) {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ":", node.source().begin.line, ": kind.", name, ": expected a table"));
  }
  RewardKind kind;
  kind.name = std::string(name);
  TableReader reader(*table, absl::StrCat("kind.", name, "."), file);
  std::string type = "math";
  RETURN_IF_ERROR(reader.Text("type", &type));
  const auto known = TypeNamed(type);
  if (!known.ok())
    return Annotate(known.status(),
                    absl::StrCat(file, ":", node.source().begin.line, ": kind.", name));
  kind.type = *known;
  double timeout = absl::ToDoubleSeconds(kind.timeout);
  switch (kind.type) {  // only the settings of its type are known
    case RewardType::kRegex:
      RETURN_IF_ERROR(reader.Text("pattern", &kind.pattern));
      RETURN_IF_ERROR(reader.Flag("ignore_case", &kind.ignore_case));
      break;
    case RewardType::kExact:
      RETURN_IF_ERROR(reader.Flag("ignore_case", &kind.ignore_case));
      break;
    case RewardType::kLength:
      RETURN_IF_ERROR(reader.Whole("tokens_max", 0, 1 << 20, &kind.tokens_max));
      RETURN_IF_ERROR(reader.Whole("tokens_buffer", 0, 1 << 20, &kind.tokens_buffer));
      break;
    case RewardType::kSum:
      RETURN_IF_ERROR(ReadParts(reader, file, &kind));
      break;
    case RewardType::kExternal:
      RETURN_IF_ERROR(reader.Text("address", &kind.address));
      RETURN_IF_ERROR(reader.Flag("insecure", &kind.insecure));
      RETURN_IF_ERROR(reader.Number("timeout_seconds", 0.001, 3600, &timeout));
      break;
    default:
      break;
  }
  RETURN_IF_ERROR(reader.Done());
  kind.timeout = absl::Seconds(timeout);
  return kind;
}

absl::Status ReadAudit(const toml::node& node, absl::string_view file, AuditOptions* audit) {
  const toml::table* table = node.as_table();
  if (table == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(file, ": audit: expected a table"));
  TableReader reader(*table, "audit.", file);
  RETURN_IF_ERROR(reader.Text("path", &audit->path));
  RETURN_IF_ERROR(reader.Number("rate", 0, 1, &audit->rate));
  RETURN_IF_ERROR(reader.Whole("bytes_max", 4096, int64_t{1} << 40, &audit->bytes_max));
  RETURN_IF_ERROR(reader.Whole("files_max", 1, 1000, &audit->files_max));
  return reader.Done();
}

}  // namespace

absl::StatusOr<RewardConfig> ParseRewardConfig(absl::string_view text, absl::string_view file) {
  const toml::parse_result parsed = toml::parse(std::string_view(text.data(), text.size()));
  if (!parsed) {
    return absl::InvalidArgumentError(absl::StrCat(file, ":", parsed.error().source().begin.line,
                                                   ": ", View(parsed.error().description())));
  }
  RewardConfig config;
  for (const auto& [key, node] : parsed.table()) {
    if (key.str() == "audit") {
      RETURN_IF_ERROR(ReadAudit(node, file, &config.audit));
    } else if (key.str() == "kind" && node.is_table()) {
      for (const auto& [name, kind] : *node.as_table()) {
        ASSIGN_OR_RETURN(RewardKind read, ReadKind(View(name.str()), kind, file));
        config.kinds.push_back(std::move(read));
      }
    } else {
      return absl::InvalidArgumentError(absl::StrCat(file, ":", node.source().begin.line,
                                                     ": expected [audit] or [kind.NAME], found ",
                                                     View(key.str())));
    }
  }
  const auto checked = RewardKinds::Make(config.kinds);
  if (!checked.ok()) return Annotate(checked.status(), file);
  return config;
}

}  // namespace crescendo
