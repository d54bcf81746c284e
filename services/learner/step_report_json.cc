#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"
#include "services/learner/checkpoint.h"

namespace crescendo {

namespace {

struct NumberField {
  const char* name;
  double StepMetrics::*member;
};
constexpr NumberField kNumbers[] = {
    {"reward_mean", &StepMetrics::reward_mean},
    {"pass_rate", &StepMetrics::pass_rate},
    {"truncation_ratio", &StepMetrics::truncation_ratio},
    {"response_tokens_mean", &StepMetrics::response_tokens_mean},
    {"loss", &StepMetrics::loss},
    {"kl", &StepMetrics::kl},
    {"entropy", &StepMetrics::entropy},
    {"grad_norm", &StepMetrics::grad_norm},
    {"clip_ratio", &StepMetrics::clip_ratio},
    {"learning_rate", &StepMetrics::learning_rate},
    {"mismatch_max", &StepMetrics::mismatch_max},
    {"mismatch_mean", &StepMetrics::mismatch_mean},
    {"mismatch_p99", &StepMetrics::mismatch_p99},
    {"mismatch_kl", &StepMetrics::mismatch_kl},
    {"kl_coefficient", &StepMetrics::kl_coefficient},
    {"staleness_mean", &StepMetrics::staleness_mean},
    {"wait_seconds", &StepMetrics::wait_seconds},
    {"train_seconds", &StepMetrics::train_seconds},
    {"publish_seconds", &StepMetrics::publish_seconds},
    {"checkpoint_seconds", &StepMetrics::checkpoint_seconds},
};

// Reads named values of an object and remembers the first that is missing or of another type.
class Reader {
 public:
  Reader(const Json& object, absl::string_view place) : object_(object), place_(place) {}

  double Number(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr || value->is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (!value->is_number()) return Bad(name, "a number"), 0;
    return value->get<double>();
  }
  template <typename T>
  T Integer(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr) return 0;
    const bool fits =
        value->is_number_unsigned()
            ? value->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<T>::max())
            : value->is_number_integer() && std::numeric_limits<T>::is_signed &&
                  value->get<int64_t>() >= static_cast<int64_t>(std::numeric_limits<T>::min());
    if (!fits) return Bad(name, "an integer in range"), 0;
    return value->get<T>();
  }
  bool Bool(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) return Bad(name, "a boolean"), false;
    return value->get<bool>();
  }
  const absl::Status& status() const { return status_; }

 private:
  const Json* Find(const char* name) {
    const auto it = object_.is_object() ? object_.find(name) : object_.end();
    if (it == object_.end()) return Bad(name, "a value"), nullptr;
    return &*it;
  }
  void Bad(const char* name, absl::string_view expected) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat(place_, ": report: ", name, ": expected ", expected));
  }

  const Json& object_;
  absl::string_view place_;
  absl::Status status_;
};

}  // namespace

std::string StepReportToJson(const StepReport& report) {
  Json out;
  out["step"] = report.step.value();
  out["checkpointed"] = report.checkpointed;
  Json& metrics = out["metrics"];
  for (const NumberField& field : kNumbers) {
    const double value = report.metrics.*field.member;
    metrics[field.name] = std::isfinite(value) ? Json(value) : Json(nullptr);
  }
  metrics["generated_tokens"] = report.metrics.generated_tokens;
  metrics["trained_tokens"] = report.metrics.trained_tokens;
  metrics["staleness_max"] = report.metrics.staleness_max;
  metrics["zero_variance_groups"] = report.metrics.zero_variance_groups;
  metrics["skipped"] = report.metrics.skipped;
  Json& groups = out["groups"] = Json::array();
  for (const GroupOutcome& group : report.groups) {
    groups.push_back({{"group", group.group.value()},
                      {"correct", group.correct},
                      {"incorrect", group.incorrect},
                      {"undecided", group.undecided},
                      {"truncated", group.truncated},
                      {"tokens", group.tokens},
                      {"reward", group.reward}});
  }
  return out.dump();
}

absl::StatusOr<StepReport> StepReportFromJson(absl::string_view text, absl::string_view place) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(text, place));
  const auto bad = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": report: ", what));
  };
  if (!json.is_object()) return bad("expected an object");
  StepReport report;
  Reader head(json, place);
  report.step = StepId(head.Integer<int64_t>("step"));
  report.checkpointed = head.Bool("checkpointed");
  RETURN_IF_ERROR(head.status());
  const auto metrics = json.find("metrics");
  if (metrics == json.end() || !metrics->is_object()) return bad("metrics: expected an object");
  Reader reader(*metrics, place);
  for (const NumberField& field : kNumbers) {
    // What older checkpoints do not have stays as not measured.
    const bool newer = field.member == &StepMetrics::mismatch_p99 ||
                       field.member == &StepMetrics::mismatch_kl ||
                       field.member == &StepMetrics::kl_coefficient;
    if (newer && !metrics->contains(field.name)) continue;
    report.metrics.*field.member = reader.Number(field.name);
  }
  report.metrics.generated_tokens = reader.Integer<uint64_t>("generated_tokens");
  report.metrics.trained_tokens = reader.Integer<uint64_t>("trained_tokens");
  report.metrics.staleness_max = reader.Integer<int64_t>("staleness_max");
  report.metrics.zero_variance_groups = reader.Integer<uint32_t>("zero_variance_groups");
  report.metrics.skipped = reader.Bool("skipped");
  RETURN_IF_ERROR(reader.status());
  const auto groups = json.find("groups");
  if (groups == json.end() || !groups->is_array()) return bad("groups: expected an array");
  for (const Json& item : *groups) {
    Reader fields(item, place);
    GroupOutcome group;
    group.group = GroupId(fields.Integer<uint64_t>("group"));
    group.correct = fields.Integer<int>("correct");
    group.incorrect = fields.Integer<int>("incorrect");
    group.undecided = fields.Integer<int>("undecided");
    group.truncated = fields.Integer<int>("truncated");
    group.tokens = fields.Integer<uint64_t>("tokens");
    group.reward = fields.Number("reward");
    RETURN_IF_ERROR(fields.status());
    report.groups.push_back(group);
  }
  return report;
}

}  // namespace crescendo
