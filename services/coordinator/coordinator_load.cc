// From the journal's rows to the state, and back.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "services/coordinator/coordinator_state.h"

namespace crescendo {

namespace {

constexpr size_t kLevelClassesMax = 64;

absl::Status CheckOptions(const CoordinatorOptions& options) {
  const auto bad = [](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("coordinator: ", what));
  };
  if (options.run_id.empty()) return bad("run_id is empty");
  if (options.stages.empty() || options.stages.size() > limits::kStagesMax) {
    return bad(absl::StrCat("stages: expected 1 to ", limits::kStagesMax));
  }
  for (const StageOptions& stage : options.stages) {
    if (stage.context_tokens < 1 || stage.group_samples < 1 || stage.groups_per_step < 1 ||
        stage.group_samples > limits::kGroupSamplesMax ||
        stage.groups_per_step > limits::kGroupsPerStepMax) {
      return bad("stages: a bound of limits.h does not hold");
    }
  }
  size_t classes = 0;
  for (const StageOptions& stage : options.stages) {
    if (stage.level_mix.empty()) continue;
    if (classes != 0 && stage.level_mix.size() != classes) {
      return bad("stages: level_mix must have as many weights in every stage that has one");
    }
    classes = stage.level_mix.size();
    const bool some = std::any_of(stage.level_mix.begin(), stage.level_mix.end(),
                                  [](int weight) { return weight > 0; });
    const bool negative = std::any_of(stage.level_mix.begin(), stage.level_mix.end(),
                                      [](int weight) { return weight < 0; });
    if (!some || negative || classes > kLevelClassesMax) {
      return bad(absl::StrCat("stages: level_mix: expected 1 to ", kLevelClassesMax,
                              " weights of at least 0, not all 0"));
    }
  }
  if (!(options.settled_weight > 0 && options.settled_weight <= 1)) {
    return bad("settled_weight: expected (0, 1]");
  }
  if (options.steps > 0 && options.problems.empty()) return bad("no training problems");
  if (options.max_staleness < 0 || options.max_staleness > limits::kStalenessMax) {
    return bad("max_staleness is out of bounds");
  }
  if (options.evaluation_problems.size() >= (uint64_t{1} << kEvaluationIndexBits)) {
    return bad("too many evaluation problems");
  }
  size_t evaluated = 0;
  for (const EvaluationOptions& set : options.evaluations) {
    if (set.problems < 1 || set.samples < 1 || set.context_tokens < 1) {
      return bad("evaluations: problems, samples and context_tokens must be positive");
    }
    evaluated += set.problems;
  }
  if (options.evaluations.size() > limits::kEvaluationSetsMax ||
      evaluated != options.evaluation_problems.size()) {
    return bad("evaluations: too many sets, or other problems than the sets have");
  }
  if (options.heartbeat <= absl::ZeroDuration() || options.lease <= options.heartbeat) {
    return bad("a lease must last longer than the time between two heartbeats");
  }
  return absl::OkStatus();
}

ProblemOrderOptions OrderOptions(const CoordinatorOptions& options) {
  ProblemOrderOptions order;
  order.seed = options.seed;
  order.problems = static_cast<uint32_t>(options.problems.size());
  order.settled_weight = options.settled_weight;
  for (const StageOptions& stage : options.stages) {
    order.classes = std::max(order.classes, static_cast<int>(stage.level_mix.size()));
  }
  for (const Problem& problem : options.problems) order.levels.push_back(problem.level);
  return order;
}

absl::Status Contradiction(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("journal: rows contradict each other: ", what));
}

}  // namespace

CoordinatorState::CoordinatorState(CoordinatorOptions options, absl::Time now)
    : options_(std::move(options)),
      order_(OrderOptions(options_)),
      members_(options_.lease),
      now_(now),
      written_(now),
      step_changed_(now),
      statistics_(options_.problems.size()),
      cost_(options_.prices),
      cost_counted_(now) {}

CoordinatorState::~CoordinatorState() = default;

absl::StatusOr<std::unique_ptr<CoordinatorState>> CoordinatorState::Create(
    CoordinatorOptions options, const JournalImage& image, absl::Time now) {
  RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<CoordinatorState> state(new CoordinatorState(std::move(options), now));
  if (!image.started()) {
    state->StartRun();
  } else {
    RETURN_IF_ERROR(state->LoadRun(image, now));
    RETURN_IF_ERROR(Annotate(state->cost_.Restore(image.scalars.cost), "journal"));
  }
  return state;
}

void CoordinatorState::StartRun() {
  run_ = RunRow{options_.run_id, options_.seed, options_.config_digest, options_.config,
                options_.lease_secret};
  Record(run_);
  Record(StageRow{});
  stages_.emplace_back();
  scalars_dirty_ = true;
}

absl::Status CoordinatorState::LoadRun(const JournalImage& image, absl::Time now) {
  if (image.run.config_digest != options_.config_digest || image.run.seed != options_.seed) {
    return absl::FailedPreconditionError(absl::StrCat(
        "journal: it is of a run with another configuration: digest ", image.run.config_digest,
        " and seed ", image.run.seed, ", found ", options_.config_digest, " and ", options_.seed));
  }
  run_ = image.run;
  scalars_ = image.scalars;
  for (const auto& [step, row] : image.plans) {
    if (step != NextUnplannedStep())
      return Contradiction(absl::StrCat("no plan of step ", step - 1));
    if (row.stage < 0 || row.stage >= static_cast<int>(options_.stages.size()) || row.groups < 1) {
      return Contradiction(absl::StrCat("plan of step ", step));
    }
    plans_.push_back(row);
  }
  for (const auto& [step, row] : image.steps) {
    if (step != static_cast<int64_t>(steps_.size())) {
      return Contradiction(absl::StrCat("step ", step, " follows ", steps_.size()));
    }
    steps_.push_back(row);
  }
  if (static_cast<int64_t>(steps_.size()) != scalars_.trained ||
      scalars_.trained > NextUnplannedStep()) {
    return Contradiction(absl::StrCat(scalars_.trained, " steps are trained, ", steps_.size(),
                                      " are there and ", plans_.size(), " planned"));
  }
  for (const auto& [entry, row] : image.stages) {
    if (entry != static_cast<int64_t>(stages_.size()) || row.stage < 0 ||
        row.stage >= static_cast<int>(options_.stages.size())) {
      return Contradiction(absl::StrCat("stage entry ", entry));
    }
    stages_.push_back(row);
  }
  if (stages_.empty()) return Contradiction("no stage");
  evaluations_ = image.evaluations;
  if (image.rounds.size() > 1) return Contradiction("two evaluation rounds are under way");
  if (!image.rounds.empty()) {
    round_.emplace();
    round_->row = image.rounds.begin()->second;
    round_->outcomes = image.evaluation_outcomes;
  }
  return LoadGroups(image, now);
}

absl::Status CoordinatorState::LoadGroups(const JournalImage& image, absl::Time now) {
  for (const auto& [id, row] : image.outcomes) {
    if (id != outcomes_.size() || row.problem >= statistics_.size()) {
      return Contradiction(absl::StrCat("outcome of group ", id));
    }
    outcomes_.push_back(row);
    AddStatistics(row, 1);
  }
  const size_t consumed = scalars_.trained == 0 ? 0
                                                : plans_[scalars_.trained - 1].first_group +
                                                      plans_[scalars_.trained - 1].groups;
  if (outcomes_.size() != consumed) {
    return Contradiction(
        absl::StrCat(outcomes_.size(), " groups have an outcome, expected ", consumed));
  }
  size_t open = plans_.empty() ? 0 : plans_.back().first_group + plans_.back().groups - consumed;
  for (const auto& [id, row] : image.groups) {
    const bool evaluate = IsEvaluationGroup(row.group);
    const size_t problems =
        evaluate ? options_.evaluation_problems.size() : options_.problems.size();
    const bool step_known =
        evaluate ? round_ && row.step == round_->row.step
                 : row.step >= scalars_.trained && row.step < NextUnplannedStep() && id >= consumed;
    if (row.problem >= problems || !step_known) return Contradiction(absl::StrCat("group ", id));
    if (!evaluate) --open;
    Group& group = groups_[id];
    group.row = row;
    group.changed = now;
    if (row.state == GroupRowState::kPending) PendingOf(id).insert(id);
    if (row.state != GroupRowState::kLeased) continue;
    group.deadline = now + options_.lease;
    if (!lease_group_.emplace(row.lease.value(), id).second) {
      return Contradiction(absl::StrCat("lease ", row.lease.value(), " is there twice"));
    }
    if (evaluate) ++leased_evaluate_;
    ASSIGN_OR_RETURN(Worker * worker, members_.FindOrAdd(row.worker, now));
    worker->incarnation = row.incarnation;
    worker->leases.insert(id);
  }
  if (open != 0) return Contradiction("planned groups are missing");
  if (!RestoreOrder()) return Contradiction("the place in the order of problems");
  return absl::OkStatus();
}

JournalImage CoordinatorState::DurableImage() const {
  JournalImage image;
  image.run = run_;
  image.scalars = scalars_;
  for (const PlanRow& row : plans_) image.plans[row.step] = row;
  for (const auto& [id, group] : groups_) image.groups[id] = group.row;
  for (const OutcomeRow& row : outcomes_) image.outcomes[row.group.value()] = row;
  for (const StepRow& row : steps_) image.steps[row.step] = row;
  for (const StageRow& row : stages_) image.stages[row.entry] = row;
  if (round_) {
    image.rounds[round_->row.step] = round_->row;
    image.evaluation_outcomes = round_->outcomes;
  }
  image.evaluations = evaluations_;
  return image;
}

}  // namespace crescendo
