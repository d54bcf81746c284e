#include "common/convert/convert.h"

#include <limits>

#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/convert/field_check.h"

namespace crescendo {
namespace {

constexpr size_t kNameBytesMax = 256;
constexpr size_t kGpuTypeBytesMax = 64;
constexpr int kResourcesMax = 65536;
constexpr int kGoldAnswersMax = 64;
constexpr int kStopStringsMax = 16;
constexpr double kRewardMax = 1e6;

template <typename Id>
absl::Status CheckNotNegative(absl::string_view field, Id value) {
  return CheckRange(field, static_cast<int64_t>(value), 0, std::numeric_limits<int64_t>::max());
}

absl::StatusOr<SampleResult> ResultFromProto(const v1::SampleResult& from) {
  RETURN_IF_ERROR(CheckRange("results.sample", from.sample(), 0, limits::kGroupSamplesMax - 1));
  RETURN_IF_ERROR(CheckNumber("results.reward", from.reward(), -kRewardMax, kRewardMax));
  RETURN_IF_ERROR(CheckRange("results.tokens", from.tokens(), 0, limits::kContextTokensMax));
  RETURN_IF_ERROR(CheckBytes("results.extracted", from.extracted().size(), kNameBytesMax));
  RETURN_IF_ERROR(CheckBytes("results.reason", from.reason().size(), kNameBytesMax));
  RETURN_IF_ERROR(
      CheckBytes("results.response", from.response().size(), limits::kShownTextBytesMax));
  SampleResult to;
  to.sample = from.sample();
  ASSIGN_OR_RETURN(to.verdict, FromProto(from.verdict()));
  to.reward = from.reward();
  to.tokens = from.tokens();
  to.truncated = from.truncated();
  to.extracted = from.extracted();
  to.reason = from.reason();
  to.response = from.response();
  return to;
}

}  // namespace

v1::Verdict ToProto(Verdict verdict) { return static_cast<v1::Verdict>(verdict); }

absl::StatusOr<Verdict> FromProto(v1::Verdict verdict) {
  RETURN_IF_ERROR(CheckRange("verdict", verdict, v1::VERDICT_CORRECT, v1::VERDICT_UNDECIDED));
  return static_cast<Verdict>(verdict);
}

v1::SamplingParams ToProto(const SamplingParams& sampling) {
  v1::SamplingParams to;
  to.set_temperature(sampling.temperature);
  to.set_top_k(static_cast<uint32_t>(sampling.top_k));
  to.set_top_p(sampling.top_p);
  to.set_min_p(sampling.min_p);
  for (const std::string& stop : sampling.stop) to.add_stop(stop);
  return to;
}

absl::StatusOr<SamplingParams> FromProto(const v1::SamplingParams& from) {
  RETURN_IF_ERROR(CheckNumber("sampling.temperature", from.temperature(), 0, 100));
  RETURN_IF_ERROR(CheckRange("sampling.top_k", from.top_k(), 0, limits::kVocabularyMax));
  RETURN_IF_ERROR(CheckNumber("sampling.top_p", from.top_p(), 1e-6, 1));
  RETURN_IF_ERROR(CheckNumber("sampling.min_p", from.min_p(), 0, 0.999999));
  RETURN_IF_ERROR(CheckRange("sampling.stop: count", from.stop_size(), 0, kStopStringsMax));
  SamplingParams to;
  to.temperature = from.temperature();
  to.top_k = static_cast<int>(from.top_k());
  to.top_p = from.top_p();
  to.min_p = from.min_p();
  for (const std::string& stop : from.stop()) {
    RETURN_IF_ERROR(CheckBytes("sampling.stop", stop.size(), kNameBytesMax));
    to.stop.push_back(stop);
  }
  return to;
}

v1::RewardSpec ToProto(const RewardSpec& spec) {
  v1::RewardSpec to;
  to.set_kind(spec.kind);
  for (const std::string& gold : spec.gold) to.add_gold(gold);
  return to;
}

absl::StatusOr<RewardSpec> FromProto(const v1::RewardSpec& from) {
  RETURN_IF_ERROR(CheckBytes("reward.kind", from.kind().size(), kNameBytesMax));
  RETURN_IF_ERROR(CheckRange("reward.gold: count", from.gold_size(), 0, kGoldAnswersMax));
  RewardSpec to;
  to.kind = from.kind();
  for (const std::string& gold : from.gold()) {
    RETURN_IF_ERROR(CheckBytes("reward.gold", gold.size(), limits::kGoldTextBytesMax));
    to.gold.push_back(gold);
  }
  return to;
}

v1::LeasedGroup ToProto(const GroupLease& lease) {
  v1::LeasedGroup to;
  to.set_lease_id(lease.lease.value());
  to.set_group_id(lease.group.value());
  to.set_purpose(static_cast<v1::GroupPurpose>(lease.purpose));
  to.set_problem_id(lease.problem_id);
  to.set_problem(lease.problem);
  *to.mutable_reward() = ToProto(lease.reward);
  to.set_samples(static_cast<uint32_t>(lease.samples));
  *to.mutable_sampling() = ToProto(lease.sampling);
  to.set_context_tokens(static_cast<uint32_t>(lease.context_tokens));
  to.set_seed(lease.seed);
  to.set_stage(static_cast<uint32_t>(lease.stage));
  to.set_attempt(static_cast<uint32_t>(lease.attempt));
  to.set_pinned_version(lease.pinned_version);
  to.set_min_version(lease.min_version);
  to.set_lease_key(lease.key);
  return to;
}

absl::StatusOr<GroupLease> FromProto(const v1::LeasedGroup& from) {
  RETURN_IF_ERROR(
      CheckRange("purpose", from.purpose(), v1::GROUP_PURPOSE_TRAIN, v1::GROUP_PURPOSE_EVALUATE));
  RETURN_IF_ERROR(CheckBytes("problem_id", from.problem_id().size(), kNameBytesMax));
  RETURN_IF_ERROR(CheckBytes("problem", from.problem().size(), limits::kProblemTextBytesMax));
  RETURN_IF_ERROR(CheckRange("samples", from.samples(), 1, limits::kGroupSamplesMax));
  RETURN_IF_ERROR(
      CheckRange("context_tokens", from.context_tokens(), 1, limits::kContextTokensMax));
  RETURN_IF_ERROR(CheckRange("stage", from.stage(), 0, limits::kStagesMax - 1));
  RETURN_IF_ERROR(CheckRange("attempt", from.attempt(), 0, std::numeric_limits<int32_t>::max()));
  GroupLease to;
  to.lease = LeaseId(from.lease_id());
  to.group = GroupId(from.group_id());
  to.purpose = static_cast<GroupPurpose>(from.purpose());
  to.problem_id = from.problem_id();
  to.problem = from.problem();
  ASSIGN_OR_RETURN(to.reward, FromProto(from.reward()));
  to.samples = static_cast<int>(from.samples());
  ASSIGN_OR_RETURN(to.sampling, FromProto(from.sampling()));
  to.context_tokens = static_cast<int>(from.context_tokens());
  to.seed = from.seed();
  to.stage = static_cast<int>(from.stage());
  to.attempt = static_cast<int>(from.attempt());
  to.pinned_version = from.pinned_version();
  to.min_version = from.min_version();
  to.key = from.lease_key();
  return to;
}

v1::CompleteGroupRequest ToProto(const GroupCompletion& completion) {
  v1::CompleteGroupRequest to;
  to.set_worker_id(completion.worker_id);
  to.set_lease_id(completion.lease.value());
  to.set_group_id(completion.group.value());
  to.set_purpose(static_cast<v1::GroupPurpose>(completion.purpose));
  for (const SampleResult& result : completion.results) {
    v1::SampleResult* added = to.add_results();
    added->set_sample(result.sample);
    added->set_verdict(ToProto(result.verdict));
    added->set_reward(result.reward);
    added->set_tokens(result.tokens);
    added->set_truncated(result.truncated);
    added->set_extracted(result.extracted.substr(0, kNameBytesMax));
    added->set_reason(result.reason.substr(0, kNameBytesMax));
    added->set_response(result.response);
  }
  to.set_version_min(completion.version_min.value());
  to.set_version_max(completion.version_max.value());
  to.set_learner_incarnation(completion.learner_incarnation);
  return to;
}

absl::StatusOr<GroupCompletion> FromProto(const v1::CompleteGroupRequest& from) {
  RETURN_IF_ERROR(CheckBytes("worker_id", from.worker_id().size(), kNameBytesMax));
  RETURN_IF_ERROR(
      CheckRange("purpose", from.purpose(), v1::GROUP_PURPOSE_TRAIN, v1::GROUP_PURPOSE_EVALUATE));
  RETURN_IF_ERROR(CheckRange("results: count", from.results_size(), 0, limits::kGroupSamplesMax));
  GroupCompletion to;
  to.worker_id = from.worker_id();
  to.lease = LeaseId(from.lease_id());
  to.group = GroupId(from.group_id());
  to.purpose = static_cast<GroupPurpose>(from.purpose());
  for (const v1::SampleResult& result : from.results()) {
    ASSIGN_OR_RETURN(SampleResult added, ResultFromProto(result));
    to.results.push_back(std::move(added));
  }
  to.version_min = PolicyVersion(from.version_min());
  to.version_max = PolicyVersion(from.version_max());
  RETURN_IF_ERROR(
      CheckBytes("learner_incarnation", from.learner_incarnation().size(), kNameBytesMax));
  to.learner_incarnation = from.learner_incarnation();
  return to;
}

v1::Resources ToProto(const Resources& resources) {
  v1::Resources to;
  to.set_gpu_type(resources.gpu_type);
  to.set_gpus(static_cast<uint32_t>(resources.gpus));
  to.set_cores(static_cast<uint32_t>(resources.cores));
  return to;
}

absl::StatusOr<Resources> FromProto(const v1::Resources& from) {
  RETURN_IF_ERROR(CheckBytes("resources.gpu_type", from.gpu_type().size(), kGpuTypeBytesMax));
  RETURN_IF_ERROR(CheckRange("resources.gpus", from.gpus(), 0, kResourcesMax));
  RETURN_IF_ERROR(CheckRange("resources.cores", from.cores(), 0, kResourcesMax));
  Resources to;
  to.gpus = static_cast<int>(from.gpus());
  to.cores = static_cast<int>(from.cores());
  if (to.gpus > 0) to.gpu_type = from.gpu_type();
  return to;
}

v1::StepPlan ToProto(const StepPlan& plan) {
  v1::StepPlan to;
  to.set_step(plan.step.value());
  to.set_stage(static_cast<uint32_t>(plan.stage));
  for (GroupId group : plan.groups) to.add_group_ids(group.value());
  to.set_group_samples(static_cast<uint32_t>(plan.group_samples));
  to.set_context_tokens(static_cast<uint32_t>(plan.context_tokens));
  to.set_learning_rate(plan.learning_rate);
  to.set_max_staleness(static_cast<uint32_t>(plan.max_staleness));
  return to;
}

absl::StatusOr<StepPlan> FromProto(const v1::StepPlan& from) {
  RETURN_IF_ERROR(CheckNotNegative("plan.step", from.step()));
  RETURN_IF_ERROR(CheckRange("plan.stage", from.stage(), 0, limits::kStagesMax - 1));
  RETURN_IF_ERROR(
      CheckRange("plan.group_ids: count", from.group_ids_size(), 1, limits::kGroupsPerStepMax));
  RETURN_IF_ERROR(
      CheckRange("plan.group_samples", from.group_samples(), 1, limits::kGroupSamplesMax));
  RETURN_IF_ERROR(
      CheckRange("plan.context_tokens", from.context_tokens(), 1, limits::kContextTokensMax));
  RETURN_IF_ERROR(CheckNumber("plan.learning_rate", from.learning_rate(), 0, 10));
  RETURN_IF_ERROR(CheckRange("plan.max_staleness", from.max_staleness(), 0, limits::kStalenessMax));
  StepPlan to;
  to.step = StepId(from.step());
  to.stage = static_cast<int>(from.stage());
  to.groups.reserve(from.group_ids_size());
  for (uint64_t group : from.group_ids()) to.groups.push_back(GroupId(group));
  to.group_samples = static_cast<int>(from.group_samples());
  to.context_tokens = static_cast<int>(from.context_tokens());
  to.learning_rate = from.learning_rate();
  to.max_staleness = static_cast<int>(from.max_staleness());
  return to;
}

v1::LearnerDirective ToProto(LearnerDirective directive) {
  return static_cast<v1::LearnerDirective>(directive);
}

absl::StatusOr<LearnerDirective> FromProto(v1::LearnerDirective directive) {
  RETURN_IF_ERROR(CheckRange("directive", directive, v1::LEARNER_DIRECTIVE_TRAIN,
                             v1::LEARNER_DIRECTIVE_FINISHED));
  return static_cast<LearnerDirective>(directive);
}

v1::GroupOutcome ToProto(const GroupOutcome& outcome) {
  v1::GroupOutcome to;
  to.set_group_id(outcome.group.value());
  to.set_correct(static_cast<uint32_t>(outcome.correct));
  to.set_incorrect(static_cast<uint32_t>(outcome.incorrect));
  to.set_undecided(static_cast<uint32_t>(outcome.undecided));
  to.set_truncated(static_cast<uint32_t>(outcome.truncated));
  to.set_tokens(outcome.tokens);
  to.set_reward(outcome.reward);
  return to;
}

absl::StatusOr<GroupOutcome> FromProto(const v1::GroupOutcome& from) {
  const int64_t samples_max = limits::kGroupSamplesMax;
  RETURN_IF_ERROR(CheckRange("groups.correct", from.correct(), 0, samples_max));
  RETURN_IF_ERROR(CheckRange("groups.incorrect", from.incorrect(), 0, samples_max));
  RETURN_IF_ERROR(CheckRange("groups.undecided", from.undecided(), 0, samples_max));
  RETURN_IF_ERROR(CheckRange("groups.truncated", from.truncated(), 0, samples_max));
  RETURN_IF_ERROR(CheckNumber("groups.reward", from.reward(), -kRewardMax, kRewardMax));
  GroupOutcome to;
  to.group = GroupId(from.group_id());
  to.correct = static_cast<int>(from.correct());
  to.incorrect = static_cast<int>(from.incorrect());
  to.undecided = static_cast<int>(from.undecided());
  to.truncated = static_cast<int>(from.truncated());
  to.tokens = from.tokens();
  to.reward = from.reward();
  return to;
}

// clang-format 14 aligns these backslashes anew at each run.
// clang-format off
// The metrics are listed once; both directions read the list.
#define CRESCENDO_STEP_METRICS(X) \
  X(reward_mean) X(pass_rate) X(truncation_ratio) X(response_tokens_mean) X(generated_tokens) \
  X(trained_tokens) X(loss) X(kl) X(entropy) X(grad_norm) X(clip_ratio) X(learning_rate) \
  X(mismatch_max) X(mismatch_mean) X(staleness_mean) X(staleness_max) X(zero_variance_groups) \
  X(skipped) X(wait_seconds) X(train_seconds) X(publish_seconds) X(checkpoint_seconds) \
  X(mismatch_p99) X(mismatch_kl) X(kl_coefficient)
// clang-format on

v1::StepMetrics ToProto(const StepMetrics& metrics) {
  v1::StepMetrics to;
#define X(field) to.set_##field(metrics.field);
  CRESCENDO_STEP_METRICS(X)
#undef X
  return to;
}

StepMetrics FromProto(const v1::StepMetrics& from) {
  StepMetrics to;
#define X(field) to.field = from.field();
  CRESCENDO_STEP_METRICS(X)
#undef X
  return to;
}

}  // namespace crescendo
