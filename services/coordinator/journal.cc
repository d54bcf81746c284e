#include "services/coordinator/journal.h"

#include <type_traits>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace crescendo {

namespace {

template <typename Map>
void EraseFrom(Map& map, uint64_t key) {
  map.erase(map.lower_bound(static_cast<typename Map::key_type>(key)), map.end());
}

void Truncate(JournalImage& image, const TruncateOp& op) {
  switch (op.table) {
    case JournalTable::kPlan:
      return EraseFrom(image.plans, op.from_key);
    case JournalTable::kGroup: {
      const auto end = (op.from_key & kEvaluationGroupBit) != 0
                           ? image.groups.end()
                           : image.groups.lower_bound(kEvaluationGroupBit);
      image.groups.erase(image.groups.lower_bound(op.from_key), end);
      return;
    }
    case JournalTable::kOutcome:
      return EraseFrom(image.outcomes, op.from_key);
    case JournalTable::kStep:
      return EraseFrom(image.steps, op.from_key);
    case JournalTable::kStage:
      return EraseFrom(image.stages, op.from_key);
    case JournalTable::kRound:
      return EraseFrom(image.rounds, op.from_key);
    case JournalTable::kEvaluationOutcome:
      return EraseFrom(image.evaluation_outcomes, op.from_key);
    case JournalTable::kEvaluation:
      return EraseFrom(image.evaluations, op.from_key);
  }
}

std::string Text(const GroupRow& row) {
  return absl::StrFormat("group %d step %d problem %d state %d attempts %d lease %d %s/%s",
                         row.group.value(), row.step, row.problem, static_cast<int>(row.state),
                         row.attempts, row.lease.value(), row.worker, row.incarnation);
}

std::string Text(const StepRow& row) {
  const StepMetrics& m = row.metrics;
  return absl::StrFormat(
      "step %d stage %d reported %d times %.17g %.17g tokens %d metrics %s %d %d %d %d %d",
      row.step, row.stage, row.reported, row.elapsed_seconds, row.train_elapsed_seconds,
      row.train_generated_tokens,
      absl::StrJoin({m.reward_mean, m.pass_rate, m.truncation_ratio, m.response_tokens_mean, m.loss,
                     m.kl, m.entropy, m.grad_norm, m.clip_ratio, m.learning_rate, m.mismatch_max,
                     m.mismatch_mean, m.staleness_mean, m.wait_seconds, m.train_seconds,
                     m.publish_seconds, m.checkpoint_seconds},
                    " ",
                    [](std::string* out, double v) { absl::StrAppendFormat(out, "%.17g", v); }),
      m.generated_tokens, m.trained_tokens, m.staleness_max, m.zero_variance_groups, m.skipped);
}

}  // namespace

void JournalImage::Apply(const JournalRecord& record) {
  std::visit(
      [this](const auto& row) {
        using Row = std::decay_t<decltype(row)>;
        if constexpr (std::is_same_v<Row, RunRow>) {
          run = row;
        } else if constexpr (std::is_same_v<Row, ScalarsRow>) {
          scalars = row;
        } else if constexpr (std::is_same_v<Row, PlanRow>) {
          plans[row.step] = row;
        } else if constexpr (std::is_same_v<Row, GroupRow>) {
          groups[row.group.value()] = row;
        } else if constexpr (std::is_same_v<Row, OutcomeRow>) {
          outcomes[row.group.value()] = row;
        } else if constexpr (std::is_same_v<Row, StepRow>) {
          steps[row.step] = row;
        } else if constexpr (std::is_same_v<Row, StageRow>) {
          stages[row.entry] = row;
        } else if constexpr (std::is_same_v<Row, RoundRow>) {
          rounds[row.step] = row;
        } else if constexpr (std::is_same_v<Row, EvaluationOutcomeRow>) {
          evaluation_outcomes[row.group.value()] = row;
        } else if constexpr (std::is_same_v<Row, EvaluationRow>) {
          evaluations[row.entry] = row;
        } else if constexpr (std::is_same_v<Row, TruncateOp>) {
          Truncate(*this, row);
        } else {
          groups.erase(row.group.value());
        }
      },
      record);
}

std::string DebugString(const JournalImage& image) {
  std::string out = absl::StrFormat("run %s seed %d digest %s\n", image.run.run_id, image.run.seed,
                                    image.run.config_digest);
  const ScalarsRow& s = image.scalars;
  absl::StrAppendFormat(
      &out, "trained %d learner %s/%s lease %d ever %d hold %d times %.17g %.17g %.17g\n",
      s.trained, s.learner_address, s.learner_incarnation, s.next_lease, s.groups_ever, s.hold,
      s.elapsed_seconds, s.train_elapsed_seconds, s.evaluation_seconds);
  for (const auto& [key, row] : image.plans) {
    absl::StrAppendFormat(&out, "plan %d stage %d groups %d+%d at %d epoch %d of %d: %s\n", key,
                          row.stage, row.first_group, row.groups, row.planned_at, row.epoch,
                          row.epoch_started_at, row.cursors);
  }
  for (const auto& [key, row] : image.groups) absl::StrAppendFormat(&out, "%s\n", Text(row));
  for (const auto& [key, row] : image.outcomes) {
    absl::StrAppendFormat(&out, "outcome %d step %d problem %d: %d %d %d %d %d %.17g\n", key,
                          row.step, row.problem, row.correct, row.incorrect, row.undecided,
                          row.truncated, row.tokens, row.reward);
  }
  for (const auto& [key, row] : image.steps) absl::StrAppendFormat(&out, "%s\n", Text(row));
  for (const auto& [key, row] : image.stages) {
    absl::StrAppendFormat(&out, "entry %d stage %d from %d at %d: %s %s\n", key, row.stage,
                          row.first_step, row.decided_at, row.rule, row.reason);
  }
  for (const auto& [key, row] : image.rounds) {
    absl::StrAppendFormat(&out, "round %d floor %d\n", key, row.lease_floor.value());
  }
  for (const auto& [key, row] : image.evaluation_outcomes) {
    absl::StrAppendFormat(&out, "evaluated %d problem %d: %d %d %d %d %d %.17g\n", key, row.problem,
                          row.samples, row.correct, row.undecided, row.truncated, row.tokens,
                          row.majority);
  }
  for (const auto& [key, row] : image.evaluations) {
    absl::StrAppendFormat(
        &out, "evaluation %d %s %dx%d %.17g [%.17g, %.17g] %.17g %.17g %d %.17g %.17g %d\n", key,
        row.set, row.problems, row.samples, row.pass_at_1, row.ci95_low, row.ci95_high,
        row.mean_tokens, row.truncation_ratio, row.generated_tokens, row.seconds,
        row.train_elapsed_seconds, row.train_generated_tokens);
    absl::StrAppendFormat(&out, "  %.17g %.17g %s %d+%d %.17g %.17g [%.17g, %.17g]\n",
                          row.undecided_ratio, row.majority, row.pass_at_k, row.originals,
                          row.variants, row.original_pass_at_1, row.variant_pass_at_1, row.drop_low,
                          row.drop_high);
  }
  return out;
}

}  // namespace crescendo
