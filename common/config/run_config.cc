#include "common/config/run_config.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/config_fields.h"
#include "common/config/config_value.h"
#include "common/config/edit_distance.h"
#include "common/config/toml.h"

namespace crescendo {
namespace {

constexpr size_t kLevelClassesMax = 64;  // as the coordinator's core

constexpr size_t kErrorsShown = 10;

std::string Text(std::string_view text) { return std::string(text); }

// Reads into a RunConfig and gathers what is wrong, so that a user sees it all at once.
class ConfigReader {
 public:
  ConfigReader(absl::string_view file, RunConfig* config)
      : file_(file), config_(config), sections_(FieldsOf(*config)) {}

  void ReadDocument(const toml::table& document);
  void ApplyOverride(const std::string& override_text);
  void CheckRelations();
  absl::Status status() const;

 private:
  void ReadStages(const toml::node& node);
  void ReadSection(const std::string& section, const std::vector<ConfigField>& fields,
                   const toml::table& table);
  std::string Place(const toml::source_region& source) const {
    return absl::StrCat(file_, ":", source.begin.line);
  }
  void Error(absl::string_view place, absl::string_view message) {
    errors_.push_back(absl::StrCat(place, ": ", message));
  }
  // For a rule over several keys: the line of the key that was given, else the file.
  void RelationError(const std::string& key, absl::string_view message) {
    const auto found = places_.find(key);
    Error(found == places_.end() ? file_ : found->second, absl::StrCat(key, " ", message));
  }
  const ConfigFields* FindSection(absl::string_view name) const;
  std::string UnknownSection(absl::string_view name) const;
  std::string UnknownKey(const std::string& section, const std::vector<ConfigField>& fields,
                         absl::string_view key) const;
  void CheckRequired();
  void CheckLevelMixes();
  void CheckStages();

  const std::string file_;
  RunConfig* config_;
  const std::vector<ConfigFields> sections_;
  std::map<std::string, std::string> places_;  // "section.key" -> file:line or --override
  std::vector<std::string> errors_;
};

const ConfigField* FindField(const std::vector<ConfigField>& fields, absl::string_view key) {
  for (const ConfigField& field : fields) {
    if (key == field.key) return &field;
  }
  return nullptr;
}

const ConfigFields* ConfigReader::FindSection(absl::string_view name) const {
  for (const ConfigFields& section : sections_) {
    if (name == section.section) return &section;
  }
  return nullptr;
}

std::string ConfigReader::UnknownSection(absl::string_view name) const {
  std::vector<std::string> names = {"stage"};
  for (const ConfigFields& section : sections_) names.push_back(section.section);
  const std::string nearest = Nearest(name, names);
  std::sort(names.begin(), names.end());
  return absl::StrCat("unknown section '", name, "'; ",
                      nearest.empty() ? absl::StrCat("there are ", absl::StrJoin(names, ", "))
                                      : absl::StrCat("did you mean '", nearest, "'?"));
}

std::string ConfigReader::UnknownKey(const std::string& section,
                                     const std::vector<ConfigField>& fields,
                                     absl::string_view key) const {
  const std::string start = absl::StrCat("unknown key '", section, ".", key, "'; ");
  std::vector<std::string> elsewhere;
  for (const ConfigFields& other : sections_) {
    if (FindField(other.fields, key) != nullptr) {
      elsewhere.push_back(absl::StrCat("'", other.section, ".", key, "'"));
    }
  }
  std::vector<std::string> names;
  names.reserve(fields.size());
  for (const ConfigField& field : fields) names.push_back(field.key);
  const std::string nearest = Nearest(key, names);
  if (!elsewhere.empty() && (nearest.empty() || EditDistance(key, nearest) > 2)) {
    return absl::StrCat(start, "did you mean ", absl::StrJoin(elsewhere, " or "), "?");
  }
  if (!nearest.empty()) return absl::StrCat(start, "did you mean '", nearest, "'?");
  return absl::StrCat(start, "the section has ", absl::StrJoin(names, ", "));
}

void ConfigReader::ReadDocument(const toml::table& document) {
  for (const auto& [key, node] : document) {
    const std::string name = Text(key.str());
    const std::string place = Place(key.source());
    if (name == "stage") {
      ReadStages(node);
      continue;
    }
    const ConfigFields* section = FindSection(name);
    if (section == nullptr) {
      Error(place, UnknownSection(name));
    } else if (!node.is_table()) {
      Error(place, absl::StrCat("expected a section [", name, "] with keys of its own"));
    } else {
      ReadSection(name, section->fields, *node.as_table());
    }
  }
}

void ConfigReader::ReadStages(const toml::node& node) {
  const toml::array* list = node.as_array();
  if (list == nullptr) {
    Error(Place(node.source()), "expected [[stage]] with two brackets: one such block a stage");
    return;
  }
  if (list->size() > static_cast<size_t>(limits::kStagesMax)) {
    Error(Place(node.source()),
          absl::StrCat("at most ", limits::kStagesMax, " stages, found ", list->size()));
    return;
  }
  for (const toml::node& item : *list) {
    const toml::table* table = item.as_table();
    if (table == nullptr) {
      Error(Place(item.source()), "expected [[stage]] blocks");
      return;
    }
    const std::string name = absl::StrCat("stage.", config_->stages.size());
    config_->stages.emplace_back();
    places_[name] = Place(item.source());
    ReadSection(name, FieldsOfStage(config_->stages.back()), *table);
  }
}

void ConfigReader::ReadSection(const std::string& section, const std::vector<ConfigField>& fields,
                               const toml::table& table) {
  for (const auto& [key, node] : table) {
    const std::string name = Text(key.str());
    const std::string place = Place(key.source());
    const ConfigField* field = FindField(fields, name);
    if (field == nullptr) {
      Error(place, UnknownKey(section, fields, name));
      continue;
    }
    places_[absl::StrCat(section, ".", name)] = place;
    if (const auto wrong = AssignNode(*field, node)) {
      Error(place, absl::StrCat(section, ".", name, ": ", *wrong));
    }
  }
}

void ConfigReader::ApplyOverride(const std::string& override_text) {
  const size_t equals = override_text.find('=');
  const std::string path = override_text.substr(0, equals);
  const std::string place = absl::StrCat("--", path);
  if (equals == std::string::npos) {
    return Error(place, "expected --section.key=value");
  }
  const absl::string_view value = absl::string_view(override_text).substr(equals + 1);
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  std::vector<ConfigField> fields;
  if (parts[0] == "stage" && parts.size() == 3) {
    size_t index = 0;
    if (!absl::SimpleAtoi(parts[1], &index) || index >= config_->stages.size()) {
      return Error(place, absl::StrCat("there is no stage ", parts[1], "; the recipe has ",
                                       config_->stages.size(), ", counted from 0"));
    }
    fields = FieldsOfStage(config_->stages[index]);
  } else if (parts[0] == "stage" || parts.size() != 2) {
    return Error(place, "expected --section.key=value or --stage.N.key=value");
  } else if (const ConfigFields* section = FindSection(parts[0])) {
    fields = section->fields;
  } else {
    return Error(place, UnknownSection(parts[0]));
  }
  const ConfigField* field = FindField(fields, parts.back());
  if (field == nullptr) {
    return Error(place, UnknownKey(path.substr(0, path.rfind('.')), fields, parts.back()));
  }
  places_[path] = place;
  if (const auto wrong = AssignText(*field, value)) Error(place, *wrong);
}

void ConfigReader::CheckRequired() {
  if (config_->policy.path.empty()) {
    RelationError("policy.path", "is required: a Hugging Face folder or a .gguf file");
  }
  if (config_->run.steps > 0 && config_->data.train.empty()) {
    RelationError("data.train", "is required: a file of JSON lines");
  }
  if (config_->run.out.empty()) RelationError("run.out", "is required: a folder");
  if (config_->stages.empty()) {
    Error(file_, "no [[stage]]: at least one is required, with its context_tokens");
  }
}

void ConfigReader::CheckLevelMixes() {
  size_t classes = 0;
  for (size_t i = 0; i < config_->stages.size(); ++i) {
    const std::vector<int>& mix = config_->stages[i].level_mix;
    if (mix.empty()) continue;
    const std::string name = absl::StrCat("stage.", i, ".level_mix");
    if (mix.size() > kLevelClassesMax) {
      RelationError(name, absl::StrCat("has ", mix.size(), " weights: at most ", kLevelClassesMax,
                                       " are taken"));
    }
    if (std::all_of(mix.begin(), mix.end(), [](int weight) { return weight == 0; })) {
      RelationError(name, "has no weight above 0");
    }
    if (classes != 0 && mix.size() != classes) {
      RelationError(name, absl::StrCat("has ", mix.size(), " weights, another stage's has ",
                                       classes, ": every mix weighs the same classes"));
    }
    classes = mix.size();
  }
}

void ConfigReader::CheckStages() {
  CheckLevelMixes();
  int longest = 0;
  for (size_t i = 0; i < config_->stages.size(); ++i) {
    const StageSection& stage = config_->stages[i];
    const std::string name = absl::StrCat("stage.", i);
    longest = std::max(longest, stage.context_tokens);
    if (stage.context_tokens == 0) RelationError(name, "needs context_tokens");
    if (stage.groups_per_step < config_->objective.minibatches) {
      RelationError("objective.minibatches",
                    absl::StrCat("is ", config_->objective.minibatches,
                                 ", more than the groups of a step (", name, ".groups_per_step is ",
                                 stage.groups_per_step, "); a mini-batch is made of whole groups"));
    }
  }
  longest = std::max(longest, config_->evaluation.context_tokens);
  if (config_->rollout.kv_tokens <= longest) {
    RelationError("rollout.kv_tokens",
                  absl::StrCat("is ", config_->rollout.kv_tokens,
                               ": too small for one sample of the longest context (", longest,
                               " tokens and its prompt)"));
  }
  if (config_->objective.dual_clip != 0 && config_->objective.dual_clip <= 1) {
    RelationError("objective.dual_clip", absl::StrCat("is ", config_->objective.dual_clip,
                                                      ": expected 0 (off) or more than 1"));
  }
  if (config_->curriculum.max_steps.size() > config_->stages.size()) {
    RelationError("curriculum.max_steps",
                  absl::StrCat("has ", config_->curriculum.max_steps.size(), " entries for ",
                               config_->stages.size(), " stages"));
  }
}

void ConfigReader::CheckRelations() {
  CheckRequired();
  CheckStages();
  if (config_->rollout.block_tokens > config_->rollout.kv_tokens) {
    RelationError("rollout.block_tokens", "is more than rollout.kv_tokens");
  }
  if (config_->coordinator.lease < 2 * config_->rollout.heartbeat) {
    RelationError("coordinator.lease",
                  absl::StrCat("is ", absl::FormatDuration(config_->coordinator.lease),
                               ": expected at least two heartbeats (rollout.heartbeat is ",
                               absl::FormatDuration(config_->rollout.heartbeat), ")"));
  }
  if (config_->reward.correct_reward <= config_->reward.incorrect_reward) {
    RelationError("reward.correct_reward", "must be above reward.incorrect_reward");
  }
}

absl::Status ConfigReader::status() const {
  if (errors_.empty()) return absl::OkStatus();
  std::vector<std::string> shown(errors_.begin(),
                                 errors_.begin() + std::min(errors_.size(), kErrorsShown));
  if (errors_.size() > kErrorsShown) {
    shown.push_back(absl::StrCat("... and ", errors_.size() - kErrorsShown, " more"));
  }
  return absl::InvalidArgumentError(absl::StrJoin(shown, "\n"));
}

std::string Absolute(const std::string& folder, const std::string& path) {
  if (path.empty()) return path;
  std::error_code ignored;
  const std::filesystem::path joined = std::filesystem::path(folder) / path;
  std::filesystem::path absolute = std::filesystem::absolute(joined, ignored);
  return (absolute.empty() ? joined : absolute).lexically_normal().string();
}

void MakePathsAbsolute(const std::string& folder, RunConfig& config) {
  for (const ConfigFields& section : FieldsOf(config)) {
    for (const ConfigField& field : section.fields) {
      if (field.form != TextForm::kPath) continue;
      std::string* path = std::get<std::string*>(field.target);
      *path = Absolute(folder, *path);
    }
  }
}

}  // namespace

absl::StatusOr<RunConfig> LoadRunConfig(FileSystem& files, absl::string_view file,
                                        absl::Span<const std::string> overrides) {
  const std::string path(file);
  auto text = files.ReadFile(path, limits::kConfigFileBytesMax);
  if (!text.ok()) return Annotate(text.status(), "configuration");
  const toml::parse_result parsed = toml::parse(*text, path);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return absl::InvalidArgumentError(absl::StrCat(path, ":", error.source().begin.line, ":",
                                                   error.source().begin.column,
                                                   ": not TOML: ", Text(error.description())));
  }
  RunConfig config;
  ConfigReader reader(path, &config);
  reader.ReadDocument(parsed.table());
  for (const std::string& override_text : overrides) reader.ApplyOverride(override_text);
  RETURN_IF_ERROR(reader.status());
  reader.CheckRelations();
  RETURN_IF_ERROR(reader.status());
  MakePathsAbsolute(DirName(path), config);
  return config;
}

}  // namespace crescendo
