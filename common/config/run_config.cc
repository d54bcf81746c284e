#include "common/config/run_config.h"

#include <algorithm>
#include <filesystem>
#include <functional>
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
  // What a stage's objective and an evaluation set do not say, [objective] and [evaluation] do.
  void FillIn();
  void CheckRelations();
  absl::Status status() const;

 private:
  // [[name]] blocks: `fields_of_new` adds an element and returns its fields.
  void ReadList(const std::string& name, const toml::node& node, int most,
                const std::function<std::vector<ConfigField>()>& fields_of_new);
  void CopyUnlessGiven(const std::string& section, const std::vector<ConfigField>& from,
                       const std::vector<ConfigField>& to);
  // The fields that an override's path names; nullopt after an Error.
  std::optional<std::vector<ConfigField>> FieldsAt(const std::vector<std::string>& parts,
                                                   const std::string& place);
  void CheckEvaluationSets();
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
  void CheckObjective(size_t index, const StageSection& stage);

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
  std::vector<std::string> names = {"stage", "evaluation_set"};
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
      ReadList(name, node, limits::kStagesMax,
               [this] { return FieldsOfStage(config_->stages.emplace_back()); });
      continue;
    }
    if (name == "evaluation_set") {
      ReadList(name, node, limits::kEvaluationSetsMax,
               [this] { return FieldsOfEvaluationSet(config_->evaluation_sets.emplace_back()); });
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

void ConfigReader::ReadList(const std::string& name, const toml::node& node, int most,
                            const std::function<std::vector<ConfigField>()>& fields_of_new) {
  const toml::array* list = node.as_array();
  if (list == nullptr) {
    Error(Place(node.source()), absl::StrCat("expected [[", name,
                                             "]] with two brackets: one such "
                                             "block for each"));
    return;
  }
  if (list->size() > static_cast<size_t>(most)) {
    Error(Place(node.source()),
          absl::StrCat("at most ", most, " [[", name, "]], found ", list->size()));
    return;
  }
  int index = 0;
  for (const toml::node& item : *list) {
    const toml::table* table = item.as_table();
    if (table == nullptr) {
      Error(Place(item.source()), absl::StrCat("expected [[", name, "]] blocks"));
      return;
    }
    const std::string section = absl::StrCat(name, ".", index++);
    places_[section] = Place(item.source());
    ReadSection(section, fields_of_new(), *table);
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

std::optional<std::vector<ConfigField>> ConfigReader::FieldsAt(
    const std::vector<std::string>& parts, const std::string& place) {
  const bool set = parts[0] == "evaluation_set";
  if (parts[0] == "stage" || set) {
    if (parts.size() != 3) {
      Error(place, absl::StrCat("expected --section.key=value or --", parts[0], ".N.key=value"));
      return std::nullopt;
    }
    const size_t count = set ? config_->evaluation_sets.size() : config_->stages.size();
    size_t index = 0;
    if (!absl::SimpleAtoi(parts[1], &index) || index >= count) {
      Error(place, absl::StrCat("there is no ", parts[0], " ", parts[1], "; the recipe has ", count,
                                ", counted from 0"));
      return std::nullopt;
    }
    return set ? FieldsOfEvaluationSet(config_->evaluation_sets[index])
               : FieldsOfStage(config_->stages[index]);
  }
  const ConfigFields* section = parts.size() == 2 ? FindSection(parts[0]) : nullptr;
  if (section != nullptr) return section->fields;
  Error(place, parts.size() != 2 ? "expected --section.key=value or --stage.N.key=value"
                                 : UnknownSection(parts[0]));
  return std::nullopt;
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
  const auto fields = FieldsAt(parts, place);
  if (!fields) return;
  const ConfigField* field = FindField(*fields, parts.back());
  if (field == nullptr) {
    return Error(place, UnknownKey(path.substr(0, path.rfind('.')), *fields, parts.back()));
  }
  places_[path] = place;
  if (const auto wrong = AssignText(*field, value)) Error(place, *wrong);
}

void ConfigReader::CopyUnlessGiven(const std::string& section, const std::vector<ConfigField>& from,
                                   const std::vector<ConfigField>& to) {
  for (const ConfigField& source : from) {
    const ConfigField* target = FindField(to, source.key);
    if (target == nullptr || places_.count(absl::StrCat(section, ".", source.key)) > 0) continue;
    std::visit([target](auto* value) { *std::get<decltype(value)>(target->target) = *value; },
               source.target);
  }
}

void ConfigReader::FillIn() {
  const std::vector<ConfigField> objective = FieldsOfObjective(config_->objective);
  for (size_t i = 0; i < config_->stages.size(); ++i) {
    CopyUnlessGiven(absl::StrCat("stage.", i), objective,
                    FieldsOfObjective(config_->stages[i].objective));
  }
  const std::vector<ConfigField> evaluation = FindSection("evaluation")->fields;
  for (size_t i = 0; i < config_->evaluation_sets.size(); ++i) {
    CopyUnlessGiven(absl::StrCat("evaluation_set.", i), evaluation,
                    FieldsOfEvaluationSet(config_->evaluation_sets[i]));
  }
}

void ConfigReader::CheckEvaluationSets() {
  if (!config_->evaluation.set.empty() && !config_->evaluation_sets.empty()) {
    RelationError("evaluation.set", "and [[evaluation_set]] are both there: give one of them");
  }
  std::set<std::string> names;
  const std::vector<EvaluationSetSection> sets = EvaluationSets(*config_);
  for (size_t i = 0; i < sets.size(); ++i) {
    const std::string key = absl::StrCat("evaluation_set.", i);
    if (sets[i].path.empty()) RelationError(key, "needs a path");
    if (!names.insert(sets[i].name).second) {
      RelationError(absl::StrCat(key, ".name"),
                    absl::StrCat("'", sets[i].name, "' is the name of another set too"));
    }
  }
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

void ConfigReader::CheckObjective(size_t index, const StageSection& stage) {
  const ObjectiveSection& o = stage.objective;
  const auto wrong = [&](absl::string_view key, absl::string_view what) {
    const std::string own = absl::StrCat("stage.", index, ".", key);
    RelationError(places_.count(own) > 0 ? own : absl::StrCat("objective.", key), what);
  };
  if (o.dual_clip != 0 && o.dual_clip <= 1) {
    wrong("dual_clip", absl::StrCat("is ", o.dual_clip, ": expected 0 (off) or more than 1"));
  }
  if (o.off_policy == "none" && o.importance_cap != 0) {
    wrong("importance_cap", "needs off_policy = \"truncated\" or \"decoupled\"");
  }
  if (o.off_policy == "truncated" && o.importance_cap == 0) {
    wrong("importance_cap", "is 0: truncated importance weights need a cap, such as 2");
  }
  if (o.kl_target > 0 && o.kl_coefficient == 0) {
    wrong("kl_target", "needs kl_coefficient above 0: where the coefficient begins");
  }
  if ((o.overlong == "soft") != (o.overlong_buffer > 0)) {
    wrong("overlong_buffer", "goes with overlong = \"soft\"");
  }
  if (stage.context_tokens > 0 && o.overlong_buffer > stage.context_tokens) {
    wrong("overlong_buffer", absl::StrCat("is ", o.overlong_buffer, ", more than the ",
                                          stage.context_tokens, " tokens of stage.", index));
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
    CheckObjective(i, stage);
    if (stage.groups_per_step < stage.objective.minibatches) {
      RelationError("objective.minibatches",
                    absl::StrCat("is ", stage.objective.minibatches,
                                 ", more than the groups of a step (", name, ".groups_per_step is ",
                                 stage.groups_per_step, "); a mini-batch is made of whole groups"));
    }
  }
  for (const EvaluationSetSection& set : EvaluationSets(*config_)) {
    longest = std::max(longest, set.context_tokens);
  }
  if (config_->rollout.kv_tokens <= longest) {
    RelationError("rollout.kv_tokens",
                  absl::StrCat("is ", config_->rollout.kv_tokens,
                               ": too small for one sample of the longest context (", longest,
                               " tokens and its prompt)"));
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
  CheckEvaluationSets();
  if (config_->rollout.block_tokens > config_->rollout.kv_tokens) {
    RelationError("rollout.block_tokens", "is more than rollout.kv_tokens");
  }
  if (config_->coordinator.lease < 2 * config_->rollout.heartbeat) {
    RelationError("coordinator.lease",
                  absl::StrCat("is ", absl::FormatDuration(config_->coordinator.lease),
                               ": expected at least two heartbeats (rollout.heartbeat is ",
                               absl::FormatDuration(config_->rollout.heartbeat), ")"));
  }
  const CostSection& cost = config_->cost;
  if (!cost.gpu_type.empty() && !cost.gpu_hour_price.empty() &&
      cost.gpu_hour_price.count(cost.gpu_type) == 0) {
    RelationError("cost.gpu_type", absl::StrCat("is '", cost.gpu_type,
                                                "', which has no price in "
                                                "cost.gpu_hour_price"));
  }
  if (cost.gpus_per_worker + cost.gpus_learner > 0 && cost.gpu_type.empty()) {
    RelationError("cost.gpu_type", "is required where processes hold GPUs");
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
  for (EvaluationSetSection& set : config.evaluation_sets) set.path = Absolute(folder, set.path);
}

}  // namespace

std::vector<EvaluationSetSection> EvaluationSets(const RunConfig& config) {
  std::vector<EvaluationSetSection> sets = config.evaluation_sets;
  const EvaluationSection& e = config.evaluation;
  if (sets.empty() && !e.set.empty()) {
    sets.push_back(
        {"", e.set, "", e.problems, e.samples, e.temperature, e.top_p, e.context_tokens, e.every});
  }
  for (EvaluationSetSection& set : sets) {
    if (set.name.empty()) set.name = std::filesystem::path(set.path).stem().string();
    if (set.reward_kind.empty()) set.reward_kind = config.data.reward_kind;
  }
  return sets;
}

namespace {

absl::StatusOr<RunConfig> ParseRunConfig(const std::string& text, const std::string& path,
                                         absl::Span<const std::string> overrides) {
  const toml::parse_result parsed = toml::parse(text, path);
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
  reader.FillIn();
  reader.CheckRelations();
  RETURN_IF_ERROR(reader.status());
  return config;
}

}  // namespace

absl::StatusOr<RunConfig> LoadRunConfig(FileSystem& files, absl::string_view file,
                                        absl::Span<const std::string> overrides) {
  const std::string path(file);
  auto text = files.ReadFile(path, limits::kConfigFileBytesMax);
  if (!text.ok()) return Annotate(text.status(), "configuration");
  ASSIGN_OR_RETURN(RunConfig config, ParseRunConfig(*text, path, overrides));
  MakePathsAbsolute(DirName(path), config);
  return config;
}

absl::StatusOr<RunConfig> RunConfigFromText(absl::string_view text, absl::string_view file) {
  return ParseRunConfig(std::string(text), std::string(file), {});
}

absl::StatusOr<RunConfig> RunConfigWithoutRecipe(absl::Span<const std::string> overrides) {
  RunConfig config;
  config.run.steps = 0;
  config.stages.emplace_back().context_tokens = 1024;
  ConfigReader reader("the command line", &config);
  for (const std::string& override_text : overrides) reader.ApplyOverride(override_text);
  RETURN_IF_ERROR(reader.status());
  reader.FillIn();
  reader.CheckRelations();
  RETURN_IF_ERROR(reader.status());
  MakePathsAbsolute(".", config);
  return config;
}

}  // namespace crescendo
