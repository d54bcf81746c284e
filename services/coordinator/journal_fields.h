// The columns of each row type, once: the SQLite journal makes its tables, its statements and its
// checksums from these lists. The first column is the key. To change a list is to change the
// schema: raise kSchemaVersion in sqlite_journal.cc.
#ifndef CRESCENDO_SERVICES_COORDINATOR_JOURNAL_FIELDS_H_
#define CRESCENDO_SERVICES_COORDINATOR_JOURNAL_FIELDS_H_

#include "services/coordinator/journal.h"

namespace crescendo {

// kTable names the table of a row type.
template <typename Row>
inline constexpr const char* kTable = nullptr;
template <>
inline constexpr const char* kTable<RunRow> = "run";
template <>
inline constexpr const char* kTable<ScalarsRow> = "scalars";
template <>
inline constexpr const char* kTable<PlanRow> = "plan";
template <>
inline constexpr const char* kTable<GroupRow> = "sample_group";
template <>
inline constexpr const char* kTable<OutcomeRow> = "outcome";
template <>
inline constexpr const char* kTable<StepRow> = "step";
template <>
inline constexpr const char* kTable<StageRow> = "stage";
template <>
inline constexpr const char* kTable<RoundRow> = "evaluation_round";
template <>
inline constexpr const char* kTable<EvaluationOutcomeRow> = "evaluation_outcome";
template <>
inline constexpr const char* kTable<EvaluationRow> = "evaluation";

// Fields(row, f) calls f(name, member) for each column, in order.
template <typename F>
void Fields(RunRow& row, F&& f) {
  int only = 1;
  f("only", only);
  f("run_id", row.run_id);
  f("seed", row.seed);
  f("config_digest", row.config_digest);
  f("config", row.config);
  f("lease_secret_low", row.lease_secret.low);
  f("lease_secret_high", row.lease_secret.high);
}
template <typename F>
void Fields(ScalarsRow& row, F&& f) {
  int only = 1;
  f("only", only);
  f("trained", row.trained);
  f("learner_address", row.learner_address);
  f("learner_incarnation", row.learner_incarnation);
  f("next_lease", row.next_lease);
  f("groups_ever", row.groups_ever);
  f("elapsed_seconds", row.elapsed_seconds);
  f("train_elapsed_seconds", row.train_elapsed_seconds);
  f("evaluation_seconds", row.evaluation_seconds);
  f("hold", row.hold);
  f("cost", row.cost);
}
template <typename F>
void Fields(PlanRow& row, F&& f) {
  f("step", row.step);
  f("stage", row.stage);
  f("first_group", row.first_group);
  f("groups", row.groups);
  f("planned_at", row.planned_at);
  f("epoch", row.epoch);
  f("epoch_started_at", row.epoch_started_at);
  f("cursors", row.cursors);
}
template <typename F>
void Fields(GroupRow& row, F&& f) {
  f("group_id", row.group);
  f("step", row.step);
  f("problem", row.problem);
  f("state", row.state);
  f("attempts", row.attempts);
  f("lease", row.lease);
  f("worker", row.worker);
  f("incarnation", row.incarnation);
}
template <typename F>
void Fields(OutcomeRow& row, F&& f) {
  f("group_id", row.group);
  f("step", row.step);
  f("problem", row.problem);
  f("correct", row.correct);
  f("incorrect", row.incorrect);
  f("undecided", row.undecided);
  f("truncated", row.truncated);
  f("tokens", row.tokens);
  f("reward", row.reward);
}
template <typename F>
void Fields(StepRow& row, F&& f) {
  f("step", row.step);
  f("stage", row.stage);
  f("reported", row.reported);
  f("elapsed_seconds", row.elapsed_seconds);
  f("train_elapsed_seconds", row.train_elapsed_seconds);
  f("train_generated_tokens", row.train_generated_tokens);
  f("gpu_hours", row.gpu_hours);
  f("core_hours", row.core_hours);
  f("money", row.money);
  StepMetrics& m = row.metrics;
  f("reward_mean", m.reward_mean);
  f("pass_rate", m.pass_rate);
  f("truncation_ratio", m.truncation_ratio);
  f("response_tokens_mean", m.response_tokens_mean);
  f("generated_tokens", m.generated_tokens);
  f("trained_tokens", m.trained_tokens);
  f("loss", m.loss);
  f("kl", m.kl);
  f("entropy", m.entropy);
  f("grad_norm", m.grad_norm);
  f("clip_ratio", m.clip_ratio);
  f("learning_rate", m.learning_rate);
  f("mismatch_max", m.mismatch_max);
  f("mismatch_mean", m.mismatch_mean);
  f("staleness_mean", m.staleness_mean);
  f("staleness_max", m.staleness_max);
  f("zero_variance_groups", m.zero_variance_groups);
  f("skipped", m.skipped);
  f("wait_seconds", m.wait_seconds);
  f("train_seconds", m.train_seconds);
  f("publish_seconds", m.publish_seconds);
  f("checkpoint_seconds", m.checkpoint_seconds);
}
template <typename F>
void Fields(StageRow& row, F&& f) {
  f("entry", row.entry);
  f("stage", row.stage);
  f("first_step", row.first_step);
  f("decided_at", row.decided_at);
  f("reason", row.reason);
  f("rule", row.rule);
}
template <typename F>
void Fields(RoundRow& row, F&& f) {
  f("step", row.step);
  f("lease_floor", row.lease_floor);
}
template <typename F>
void Fields(EvaluationOutcomeRow& row, F&& f) {
  f("group_id", row.group);
  f("problem", row.problem);
  f("samples", row.samples);
  f("correct", row.correct);
  f("undecided", row.undecided);
  f("truncated", row.truncated);
  f("tokens", row.tokens);
  f("majority", row.majority);
}
template <typename F>
void Fields(EvaluationRow& row, F&& f) {
  f("entry", row.entry);
  f("step", row.step);
  f("evaluation_set", row.set);
  f("problems", row.problems);
  f("samples", row.samples);
  f("pass_at_1", row.pass_at_1);
  f("ci95_low", row.ci95_low);
  f("ci95_high", row.ci95_high);
  f("mean_tokens", row.mean_tokens);
  f("truncation_ratio", row.truncation_ratio);
  f("generated_tokens", row.generated_tokens);
  f("seconds", row.seconds);
  f("train_elapsed_seconds", row.train_elapsed_seconds);
  f("train_generated_tokens", row.train_generated_tokens);
  f("undecided_ratio", row.undecided_ratio);
  f("majority", row.majority);
  f("pass_at_k", row.pass_at_k);
  f("originals", row.originals);
  f("variants", row.variants);
  f("original_pass_at_1", row.original_pass_at_1);
  f("variant_pass_at_1", row.variant_pass_at_1);
  f("drop_low", row.drop_low);
  f("drop_high", row.drop_high);
}

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_JOURNAL_FIELDS_H_
