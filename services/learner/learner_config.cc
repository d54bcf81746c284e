#include "services/learner/learner_config.h"

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"
#include "common/os/env.h"
#include "services/learner/stage_objective.h"

namespace crescendo {

namespace {

// A token with its log-probability, and its share of version runs and of vectors' slack.
constexpr int64_t kBytesPerToken = 32;
constexpr int64_t kPromptBytes = 64 << 10;
constexpr int64_t kBytesMin = 64 << 20;

}  // namespace

int64_t ExperienceBytesMax(const RunConfig& config) {
  double most = 0;
  for (const StageSection& stage : config.stages) {
    const double group = static_cast<double>(stage.group_samples) * stage.context_tokens *
                             static_cast<double>(kBytesPerToken) +
                         static_cast<double>(kPromptBytes);
    most = std::max(most, group * stage.groups_per_step * (1.0 + config.learner.max_staleness));
  }
  constexpr double kMost = 1e15;
  return std::max(kBytesMin, static_cast<int64_t>(std::min(2 * most, kMost)));
}

absl::StatusOr<LearnerHostOptions> MakeHostOptions(const RunConfig& config, int vocabulary_size,
                                                   const std::string& incarnation) {
  LearnerHostOptions options;
  options.learner.experience.vocabulary_size = vocabulary_size;
  options.learner.experience.bytes_max = ExperienceBytesMax(config);
  // Plans reach max_staleness steps beyond the one at hand, and one more between a report and the
  // next plan; twice that, since what it stops is far off.
  int64_t groups_most = 0;
  for (const StageSection& stage : config.stages) {
    groups_most = std::max<int64_t>(groups_most, stage.groups_per_step);
  }
  options.learner.experience.groups_ahead_max =
      2 * groups_most * (config.learner.max_staleness + 2);
  options.learner.steps_total = config.run.steps;
  options.learner.checkpoint_every = config.learner.checkpoint_every;
  options.learner.nonfinite_steps_max = config.learner.nonfinite_steps_max;
  options.learner.connect_max = config.network.connect_timeout;
  for (const StageSection& stage : config.stages) {
    ASSIGN_OR_RETURN(const StageObjective objective, MakeStageObjective(config, stage.objective));
    options.step.stages.push_back(objective);
  }
  options.step.learning_rate = config.optimizer.learning_rate;
  options.incarnation = incarnation;
  options.policy_folder = JoinPath(config.run.out, "policy");
  options.config_toml = ToToml(config);
  options.awaited_after = config.coordinator.awaited_after;
  return options;
}

CheckpointOptions MakeCheckpointOptions(const RunConfig& config) {
  CheckpointOptions options;
  options.folder = JoinPath(config.run.out, "checkpoints");
  options.kept = config.learner.checkpoints_kept;
  options.run_name = config.run.name;
  options.run_seed = config.run.seed;
  return options;
}

}  // namespace crescendo
