#include "services/coordinator/page_json.h"

#include <optional>
#include <utility>

namespace crescendo {

namespace {

using Json = nlohmann::json;

Json StageJson(const StageView& stage) {
  return {{"index", stage.index},
          {"context_tokens", stage.context_tokens},
          {"first_step", stage.first_step},
          {"last_step", stage.last_step},
          {"reason", stage.reason}};
}

Json WorkerJson(const WorkerView& worker) {
  return {{"id", worker.worker_id},
          {"state", worker.state},
          {"reason", worker.reason},
          {"tokens_per_second", worker.tokens_per_second},
          {"version", worker.policy_version},
          {"leases", worker.leases},
          {"heartbeat_age_seconds", worker.heartbeat_age_seconds},
          {"address", worker.address}};
}

Json EvaluationJson(const EvaluationRow& row) {
  return {{"step", row.step},
          {"set", row.set},
          {"problems", row.problems},
          {"samples", row.samples},
          {"pass_at_1", row.pass_at_1},
          {"ci95", {row.ci95_low, row.ci95_high}},
          {"mean_tokens", row.mean_tokens},
          {"truncation_ratio", row.truncation_ratio},
          {"seconds", row.seconds},
          {"train_elapsed_seconds", row.train_elapsed_seconds},
          {"train_generated_tokens", row.train_generated_tokens}};
}

Json MetricsJson(const StepMetrics& m) {
  return {{"reward", m.reward_mean},
          {"pass_rate", m.pass_rate},
          {"truncation", m.truncation_ratio},
          {"length", m.response_tokens_mean},
          {"generated_tokens", m.generated_tokens},
          {"trained_tokens", m.trained_tokens},
          {"loss", m.loss},
          {"kl", m.kl},
          {"entropy", m.entropy},
          {"grad_norm", m.grad_norm},
          {"clip_ratio", m.clip_ratio},
          {"learning_rate", m.learning_rate},
          {"mismatch_max", m.mismatch_max},
          {"mismatch_mean", m.mismatch_mean},
          {"staleness_mean", m.staleness_mean},
          {"staleness_max", m.staleness_max},
          {"zero_variance_groups", m.zero_variance_groups},
          {"skipped", m.skipped},
          {"wait_seconds", m.wait_seconds},
          {"train_seconds", m.train_seconds},
          {"publish_seconds", m.publish_seconds},
          {"checkpoint_seconds", m.checkpoint_seconds}};
}

Json StepJson(const StepRow& row) {
  Json json = MetricsJson(row.metrics);
  json["step"] = row.step;
  json["stage"] = row.stage;
  json["reported"] = row.reported;
  json["elapsed_seconds"] = row.elapsed_seconds;
  json["train_elapsed_seconds"] = row.train_elapsed_seconds;
  json["train_generated_tokens"] = row.train_generated_tokens;
  return json;
}

Json TotalsJson(const CostTotals& totals) {
  return {
      {"gpu_hours", totals.gpu_hours}, {"core_hours", totals.core_hours}, {"money", totals.money}};
}

Json ProjectionJson(const std::optional<CostProjectionView>& view) {
  if (!view) return nullptr;
  Json json = TotalsJson(view->used);
  json["last_step"] = view->last_step;
  json["seconds"] = view->time.seconds;
  json["seconds_low"] = view->time.low;
  json["seconds_high"] = view->time.high;
  json["gpu_hours_low"] = view->low.gpu_hours;
  json["gpu_hours_high"] = view->high.gpu_hours;
  json["money_low"] = view->low.money;
  json["money_high"] = view->high.money;
  return json;
}

Json CostJson(const CostView& view) {
  Json json = TotalsJson(view.used);
  json["currency"] = view.currency;
  json["money_per_hour"] = view.money_per_hour;
  json["last_step"] = TotalsJson(view.last_step);
  json["stage_end"] = ProjectionJson(view.stage_end);
  json["run_end"] = ProjectionJson(view.run_end);
  json["services"] = Json::array();
  for (const ServiceCostView& service : view.services) {
    Json line = TotalsJson(service.used);
    line["service"] = service.service;
    line["gpu_type"] = service.gpu_type;
    line["processes"] = service.processes;
    line["gpus"] = service.gpus;
    line["cores"] = service.cores;
    json["services"].push_back(std::move(line));
  }
  return json;
}

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kCorrect:
      return "correct";
    case Verdict::kIncorrect:
      return "incorrect";
    case Verdict::kUndecided:
      return "undecided";
    case Verdict::kUnspecified:
      break;
  }
  return "";
}

Json SampleJson(const ShownSample& sample) {
  const SampleResult& result = sample.result;
  return {{"id", sample.id},
          {"seconds", absl::ToDoubleSeconds(sample.at - absl::UnixEpoch())},
          {"purpose", sample.purpose == GroupPurpose::kEvaluate ? "evaluation" : "training"},
          {"step", sample.step},
          {"group", sample.group.value() & ~(uint64_t{1} << 63)},
          {"sample", result.sample},
          {"worker", sample.worker},
          {"version_min", sample.version_min},
          {"version_max", sample.version_max},
          {"problem_id", sample.problem_id},
          {"problem", sample.problem},
          {"gold", sample.gold},
          {"verdict", VerdictName(result.verdict)},
          {"reason", result.reason},
          {"extracted", result.extracted},
          {"reward", result.reward},
          {"tokens", result.tokens},
          {"truncated", result.truncated},
          {"response", result.response}};
}

}  // namespace

Json StatusJson(const RunView& view) {
  Json json = {{"run_id", view.run_id},
               {"state", view.state},
               {"step", view.step},
               {"steps_total", view.steps_total},
               {"stage", view.stage},
               {"held", view.held},
               {"awaiting", view.awaiting},
               {"elapsed_seconds", view.elapsed_seconds},
               {"eta_seconds", view.eta_seconds},
               {"generated_tokens", view.generated_tokens},
               {"trained_tokens", view.trained_tokens},
               {"tokens_per_second", view.tokens_per_second},
               {"groups",
                {{"pending", view.groups_pending},
                 {"leased", view.groups_leased},
                 {"buffered", view.groups_buffered}}},
               {"workers", Json::array()},
               {"stages", Json::array()},
               {"last", nullptr},
               {"evaluation", nullptr},
               {"cost", CostJson(view.cost)}};
  for (const WorkerView& worker : view.workers) json["workers"].push_back(WorkerJson(worker));
  for (const StageView& stage : view.stages) json["stages"].push_back(StageJson(stage));
  if (view.last) json["last"] = MetricsJson(*view.last);
  if (view.last_evaluation) json["evaluation"] = EvaluationJson(*view.last_evaluation);
  return json;
}

Json StepsJson(const HistoryView& history, int64_t from, size_t max) {
  Json json = {{"steps", Json::array()},
               {"evaluations", Json::array()},
               {"stages", Json::array()},
               {"next", history.steps.empty() ? from : history.steps.back().step + 1},
               {"done", history.steps.size() < max}};
  for (const StepRow& row : history.steps) json["steps"].push_back(StepJson(row));
  for (const EvaluationRow& row : history.evaluations) {
    json["evaluations"].push_back(EvaluationJson(row));
  }
  for (const StageView& stage : history.stages) json["stages"].push_back(StageJson(stage));
  return json;
}

Json SamplesJson(const std::vector<std::shared_ptr<const ShownSample>>& samples) {
  Json json = Json::array();
  for (const auto& sample : samples) json.push_back(SampleJson(*sample));
  return json;
}

std::string ToText(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace crescendo
