#include "services/coordinator/view_to_proto.h"

#include "common/convert/convert.h"
#include "services/coordinator/evaluation.h"

namespace crescendo {

namespace {

v1::StageStatus StageToProto(const StageView& view) {
  v1::StageStatus to;
  to.set_index(view.index);
  to.set_context_tokens(view.context_tokens);
  to.set_first_step(view.first_step);
  to.set_last_step(view.last_step);
  to.set_reason(view.reason);
  to.set_rule(view.rule);
  return to;
}

v1::RuleStatus RuleToProto(const RuleReading& reading) {
  v1::RuleStatus to;
  to.set_rule(CurriculumRuleName(reading.rule));
  to.set_enabled(reading.enabled);
  to.set_value(reading.value);
  to.set_threshold(reading.threshold);
  to.set_held(reading.held);
  to.set_confirm(reading.confirm);
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
  to.set_undecided_ratio(row.undecided_ratio);
  to.set_majority(row.majority);
  for (const auto& [k, value] : ParsePassAtK(row.pass_at_k)) {
    v1::PassAtK* added = to.add_pass_at_k();
    added->set_k(k);
    added->set_value(value);
  }
  if (row.originals > 0) {
    v1::VariantResult& variants = *to.mutable_variants();
    variants.set_originals(row.originals);
    variants.set_variants(row.variants);
    variants.set_original_pass_at_1(row.original_pass_at_1);
    variants.set_variant_pass_at_1(row.variant_pass_at_1);
    variants.set_drop_low(row.drop_low);
    variants.set_drop_high(row.drop_high);
  }
  return to;
}

v1::ServiceCost ServiceToProto(const ServiceCostView& view) {
  v1::ServiceCost to;
  to.set_service(view.service);
  to.set_gpu_type(view.gpu_type);
  to.set_processes(view.processes);
  to.set_gpus(view.gpus);
  to.set_cores(view.cores);
  to.set_gpu_hours(view.used.gpu_hours);
  to.set_core_hours(view.used.core_hours);
  to.set_money(view.used.money);
  return to;
}

v1::CostProjection ProjectionToProto(const CostProjectionView& view) {
  v1::CostProjection to;
  to.set_last_step(view.last_step);
  to.set_seconds(view.time.seconds);
  to.set_seconds_low(view.time.low);
  to.set_seconds_high(view.time.high);
  to.set_gpu_hours(view.used.gpu_hours);
  to.set_gpu_hours_low(view.low.gpu_hours);
  to.set_gpu_hours_high(view.high.gpu_hours);
  to.set_core_hours(view.used.core_hours);
  to.set_money(view.used.money);
  to.set_money_low(view.low.money);
  to.set_money_high(view.high.money);
  return to;
}

v1::CostStatus CostToProto(const CostView& view) {
  v1::CostStatus to;
  to.set_currency(view.currency);
  for (const ServiceCostView& service : view.services) {
    *to.add_services() = ServiceToProto(service);
  }
  to.set_gpu_hours(view.used.gpu_hours);
  to.set_core_hours(view.used.core_hours);
  to.set_money(view.used.money);
  to.set_money_per_hour(view.money_per_hour);
  if (view.stage_end) *to.mutable_stage_end() = ProjectionToProto(*view.stage_end);
  if (view.run_end) *to.mutable_run_end() = ProjectionToProto(*view.run_end);
  to.set_last_step_money(view.last_step.money);
  to.set_last_step_gpu_hours(view.last_step.gpu_hours);
  to.set_last_step_core_hours(view.last_step.core_hours);
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
  to.set_gpu_hours(row.gpu_hours);
  to.set_core_hours(row.core_hours);
  to.set_money(row.money);
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
    added->set_second_leases(worker.second_leases);
  }
  to.set_awaiting(view.awaiting);
  for (const RuleReading& reading : view.rules) *to.add_rules() = RuleToProto(reading);
  if (view.last) *to.mutable_last() = ToProto(*view.last);
  to.set_elapsed_seconds(view.elapsed_seconds);
  to.set_eta_seconds(view.eta_seconds);
  to.set_generated_tokens(view.generated_tokens);
  to.set_trained_tokens(view.trained_tokens);
  to.set_groups_pending(view.groups_pending);
  to.set_groups_leased(view.groups_leased);
  to.set_groups_buffered(view.groups_buffered);
  to.set_tokens_per_second(view.tokens_per_second);
  *to.mutable_cost() = CostToProto(view.cost);
  if (view.last_evaluation) {
    *to.mutable_last_evaluation() = EvaluationToProto(*view.last_evaluation);
  }
  for (const EvaluationRow& row : view.last_evaluations) {
    *to.add_last_evaluations() = EvaluationToProto(row);
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
