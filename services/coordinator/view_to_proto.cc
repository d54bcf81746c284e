#include "services/coordinator/view_to_proto.h"

#include "common/convert/convert.h"

namespace crescendo {

namespace {

v1::StageStatus StageToProto(const StageView& view) {
  v1::StageStatus to;
  to.set_index(view.index);
  to.set_context_tokens(view.context_tokens);
  to.set_first_step(view.first_step);
  to.set_last_step(view.last_step);
  to.set_reason(view.reason);
  return to;
}

v1::EvaluationResult EvaluationToProto(const EvaluationRow& row) {
  v1::EvaluationResult to;
  to.set_step(row.step);
  to.set_set(row.set);
  to.set_problems(row.problems);
  to.set_samples(row.samples);
  to.set_pass_at_1(row.pass_at_1);
  to.set_ci95_low(row.ci95_low);
  to.set_ci95_high(row.ci95_high);
  to.set_mean_tokens(row.mean_tokens);
  to.set_truncation_ratio(row.truncation_ratio);
  to.set_generated_tokens(row.generated_tokens);
  to.set_seconds(row.seconds);
  to.set_train_elapsed_seconds(row.train_elapsed_seconds);
  to.set_train_generated_tokens(row.train_generated_tokens);
  return to;
}

v1::StepRecord StepToProto(const StepRow& row) {
  v1::StepRecord to;
  to.set_step(row.step);
  to.set_stage(row.stage);
  *to.mutable_metrics() = ToProto(row.metrics);
  to.set_elapsed_seconds(row.elapsed_seconds);
  to.set_train_elapsed_seconds(row.train_elapsed_seconds);
  to.set_train_generated_tokens(row.train_generated_tokens);
  return to;
}

}  // namespace

v1::RunStatus ToProto(const RunView& view) {
  v1::RunStatus to;
  to.set_run_id(view.run_id);
  to.set_state(view.state);
  to.set_step(view.step);
  to.set_steps_total(view.steps_total);
  to.set_stage(view.stage);
  to.set_held(view.held);
  for (const StageView& stage : view.stages) *to.add_stages() = StageToProto(stage);
  for (const WorkerView& worker : view.workers) {
    v1::WorkerStatus* added = to.add_workers();
    added->set_worker_id(worker.worker_id);
    added->set_state(worker.state);
    added->set_reason(worker.reason);
    added->set_tokens_per_second(worker.tokens_per_second);
    added->set_policy_version(worker.policy_version);
    added->set_leases(worker.leases);
    added->set_heartbeat_age_seconds(worker.heartbeat_age_seconds);
    added->set_address(worker.address);
  }
  to.set_awaiting(view.awaiting);
  if (view.last) *to.mutable_last() = ToProto(*view.last);
  to.set_elapsed_seconds(view.elapsed_seconds);
  to.set_eta_seconds(view.eta_seconds);
  to.set_generated_tokens(view.generated_tokens);
  to.set_trained_tokens(view.trained_tokens);
  to.set_groups_pending(view.groups_pending);
  to.set_groups_leased(view.groups_leased);
  to.set_groups_buffered(view.groups_buffered);
  to.set_tokens_per_second(view.tokens_per_second);
  if (view.last_evaluation) {
    *to.mutable_last_evaluation() = EvaluationToProto(*view.last_evaluation);
  }
  return to;
}

v1::GetHistoryResponse ToProto(const HistoryView& view) {
  v1::GetHistoryResponse to;
  for (const StepRow& row : view.steps) *to.add_steps() = StepToProto(row);
  for (const EvaluationRow& row : view.evaluations) {
    *to.add_evaluations() = EvaluationToProto(row);
  }
  for (const StageView& stage : view.stages) *to.add_stages() = StageToProto(stage);
  return to;
}

}  // namespace crescendo
