#include "services/coordinator/options_from_config.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
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
  absl::flat_hash_map<std::string, int64_t> place_of;
  for (size_t i = 0; i < rows.size(); ++i) place_of[rows[i].id] = static_cast<int64_t>(i);
  std::vector<Problem> problems;
  problems.reserve(rows.size());
  for (DatasetRow& row : rows) {
    Problem problem = {row.id, std::move(row.problem), RewardSpec{kind, std::move(row.answers)},
                       row.level};
    // An original beyond problems_max is none.
    const auto original = place_of.find(row.variant_of);
    if (original != place_of.end()) problem.variant_of = original->second;
    problems.push_back(std::move(problem));
  }
  return problems;
}

SamplingParams Sampling(const StageSection& stage) {
  SamplingParams sampling;
  sampling.temperature = static_cast<float>(stage.temperature);
  sampling.top_p = static_cast<float>(stage.top_p);
  sampling.top_k = stage.top_k;
  sampling.min_p = static_cast<float>(stage.min_p);
  return sampling;
}

absl::Status AddEvaluationSets(FileSystem& files, const RunConfig& config,
                               CoordinatorOptions* options) {
  for (const EvaluationSetSection& section : EvaluationSets(config)) {
    ASSIGN_OR_RETURN(std::vector<Problem> problems,
                     ReadProblems(files, section.path, section.problems, section.reward_kind));
    EvaluationOptions set;
    set.set = section.name;
    set.problems = static_cast<int>(problems.size());
    set.samples = section.samples;
    set.sampling.temperature = static_cast<float>(section.temperature);
    set.sampling.top_p = static_cast<float>(section.top_p);
    set.context_tokens =
        section.context_tokens > 0 ? section.context_tokens : options->stages.back().context_tokens;
    set.every = section.every;
    const auto before = static_cast<int64_t>(options->evaluation_problems.size());
    for (Problem& problem : problems) {
      if (problem.variant_of >= 0) problem.variant_of += before;
      options->evaluation_problems.push_back(std::move(problem));
    }
    options->evaluations.push_back(std::move(set));
  }
  return absl::OkStatus();
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
  options.length_confirm = section.length_confirm;
  options.truncation_confirm = section.truncation_confirm;
  options.plateau_confirm = section.plateau_confirm;
  return options;
}

// "section.key" -> value, of the text that ToToml writes.
std::map<std::string, std::string> KeysOf(absl::string_view toml) {
  std::map<std::string, std::string> keys;
  std::string section;
  std::map<std::string, int> lists;  // blocks so far, by name
  for (absl::string_view line : absl::StrSplit(toml, '\n')) {
    if (absl::StartsWith(line, "[[")) {
      const std::string name(absl::StripSuffix(absl::StripPrefix(line, "[["), "]]"));
      section = absl::StrCat(name, ".", lists[name]++);
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
  for (const char* section : {"rollout.", "reward.", "coordinator.", "network.", "cost."}) {
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
    stage.sampling = Sampling(section);
    stage.learning_rate =
        section.learning_rate > 0 ? section.learning_rate : config.optimizer.learning_rate;
    stage.level_mix = section.level_mix;
    options.stages.push_back(std::move(stage));
  }
  options.curriculum = ToOptions(config.curriculum);
  for (const StageSection& stage : config.stages) {
    options.curriculum.stage_min_steps.push_back(stage.min_steps);
  }
  options.settled_weight = config.data.settled_weight;
  if (config.run.steps > 0) {
    ASSIGN_OR_RETURN(
        options.problems,
        ReadProblems(files, config.data.train, config.data.problems_max, config.data.reward_kind));
  }
  RETURN_IF_ERROR(AddEvaluationSets(files, config, &options));
  options.prices = {config.cost.currency, config.cost.gpu_hour_price, config.cost.core_hour_price};
  options.reward.cores = config.reward.threads;
  options.reward_processes = config.cost.reward_processes;
  options.coordinator.cores = 1;
  options.heartbeat = config.rollout.heartbeat;
  options.lease = config.coordinator.lease;
  options.awaited_after = config.coordinator.awaited_after;
  options.second_leases = config.coordinator.second_leases;
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
