#include "services/coordinator/options_from_config.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/formats/jsonl.h"

namespace crescendo {

namespace {

constexpr size_t kDifferencesNamedMax = 8;

absl::StatusOr<std::vector<Problem>> ReadProblems(FileSystem& files, const std::string& path,
                                                  int64_t problems_max, const std::string& kind) {
  ASSIGN_OR_RETURN(std::vector<DatasetRow> rows, ReadDataset(files, path));
  if (rows.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected problems, found none"));
  }
  if (problems_max > 0 && rows.size() > static_cast<size_t>(problems_max)) {
    rows.resize(problems_max);
  }
  std::vector<Problem> problems;
  problems.reserve(rows.size());
  for (DatasetRow& row : rows) {
    problems.push_back({std::move(row.id), std::move(row.problem),
                        RewardSpec{kind, std::move(row.answers)}, row.level});
  }
  return problems;
}

SamplingParams Sampling(double temperature, double top_p) {
  SamplingParams sampling;
  sampling.temperature = static_cast<float>(temperature);
  sampling.top_p = static_cast<float>(top_p);
  return sampling;
}

CurriculumOptions ToOptions(const CurriculumSection& section) {
  CurriculumOptions options;
  options.min_steps = section.min_steps;
  options.max_steps = section.max_steps;
  options.length_rule = section.length_rule;
  options.length_window = section.length_window;
  options.length_ratio = section.length_ratio;
  options.truncation_rule = section.truncation_rule;
  options.truncation_window = section.truncation_window;
  options.truncation_margin = section.truncation_margin;
  options.plateau_rule = section.plateau_rule;
  options.plateau_window = section.plateau_window;
  options.plateau_min_slope = section.plateau_min_slope;
  return options;
}

// "section.key" -> value, of the text that ToToml writes.
std::map<std::string, std::string> KeysOf(absl::string_view toml) {
  std::map<std::string, std::string> keys;
  std::string section;
  int stage = 0;
  for (absl::string_view line : absl::StrSplit(toml, '\n')) {
    if (absl::StartsWith(line, "[[")) {
      section = absl::StrCat("stage.", stage++);
    } else if (absl::StartsWith(line, "[")) {
      section = std::string(absl::StripSuffix(absl::StripPrefix(line, "["), "]"));
    } else {
      const std::pair<absl::string_view, absl::string_view> parts =
          absl::StrSplit(line, absl::MaxSplits(" = ", 1));
      if (!parts.second.empty()) {
        keys[absl::StrCat(section, ".", parts.first)] = std::string(parts.second);
      }
    }
  }
  return keys;
}

// What a run may change between two starts: where it runs, how fast and how long, not what it
// trains.
bool MayChange(const std::string& key) {
  if (key == "run.out" || key == "run.steps" ||
      (absl::StartsWith(key, "learner.") && key != "learner.max_staleness")) {
    return true;
  }
  for (const char* section : {"rollout.", "reward.", "coordinator.", "network."}) {
    if (absl::StartsWith(key, section)) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<CoordinatorOptions> OptionsFromConfig(FileSystem& files, const RunConfig& config,
                                                     const std::string& run_id_of_new_run) {
  CoordinatorOptions options;
  options.run_id = run_id_of_new_run;
  options.seed = config.run.seed;
  options.config_digest = ConfigDigest(config);
  options.config = ToToml(config);
  options.steps = config.run.steps;
  options.max_staleness = config.learner.max_staleness;
  for (const StageSection& section : config.stages) {
    StageOptions stage;
    stage.context_tokens = section.context_tokens;
    stage.group_samples = section.group_samples;
    stage.groups_per_step = section.groups_per_step;
    stage.sampling = Sampling(section.temperature, 1.0);
    stage.learning_rate =
        section.learning_rate > 0 ? section.learning_rate : config.optimizer.learning_rate;
    stage.level_mix = section.level_mix;
    options.stages.push_back(std::move(stage));
  }
  options.curriculum = ToOptions(config.curriculum);
  options.settled_weight = config.data.settled_weight;
  if (config.run.steps > 0) {
    ASSIGN_OR_RETURN(
        options.problems,
        ReadProblems(files, config.data.train, config.data.problems_max, config.data.reward_kind));
  }
  if (!config.evaluation.set.empty()) {
    ASSIGN_OR_RETURN(options.evaluation_problems,
                     ReadProblems(files, config.evaluation.set, config.evaluation.problems,
                                  config.data.reward_kind));
    options.evaluation.set = BaseName(config.evaluation.set);
    options.evaluation.samples = config.evaluation.samples;
    options.evaluation.sampling = Sampling(config.evaluation.temperature, config.evaluation.top_p);
    options.evaluation.context_tokens = config.evaluation.context_tokens > 0
                                            ? config.evaluation.context_tokens
                                            : options.stages.back().context_tokens;
    options.evaluation.every = config.evaluation.every;
  }
  options.heartbeat = config.rollout.heartbeat;
  options.lease = config.coordinator.lease;
  options.awaited_after = config.coordinator.awaited_after;
  return options;
}

std::string ConfigDifferences(absl::string_view before, absl::string_view now) {
  const std::map<std::string, std::string> old_keys = KeysOf(before);
  const std::map<std::string, std::string> new_keys = KeysOf(now);
  std::vector<std::string> differences;
  for (const auto& [key, value] : new_keys) {
    auto old = old_keys.find(key);
    if (MayChange(key) || (old != old_keys.end() && old->second == value)) continue;
    differences.push_back(
        absl::StrCat(key, " = ", value,
                     old == old_keys.end() ? " (was not there)" : " (was " + old->second + ")"));
  }
  for (const auto& [key, value] : old_keys) {
    if (!MayChange(key) && new_keys.count(key) == 0) {
      differences.push_back(absl::StrCat(key, " is gone (was ", value, ")"));
    }
  }
  const size_t count = differences.size();
  if (count > kDifferencesNamedMax) {
    differences.resize(kDifferencesNamedMax);
    differences.push_back(absl::StrCat("and ", count - kDifferencesNamedMax, " more"));
  }
  return absl::StrJoin(differences, ", ");
}

}  // namespace crescendo
