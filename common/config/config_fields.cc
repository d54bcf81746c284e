#include "common/config/config_fields.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr double kSmall = 1e6;
constexpr double kBig = 1e9;
constexpr double kHuge = 9.2e18;
constexpr double kDay = 86400;

ConfigField Range(const char* key, ConfigTarget target, double min, double max) {
  ConfigField field{key, target, min, max};
  return field;
}
ConfigField Above(const char* key, ConfigTarget target, double min, double max) {
  ConfigField field{key, target, min, max};
  field.min_open = true;
  return field;
}
ConfigField Text(const char* key, std::string* target, TextForm form = TextForm::kAny) {
  ConfigField field{key, target};
  field.form = form;
  return field;
}
ConfigField Choice(const char* key, std::string* target, std::vector<const char*> choices) {
  ConfigField field{key, target};
  field.form = TextForm::kChoice;
  field.choices = std::move(choices);
  return field;
}
ConfigField Flag(const char* key, bool* target) { return ConfigField{key, target}; }
ConfigField NotDigested(ConfigField field) {
  field.digested = false;
  return field;
}

ConfigFields CurriculumFields(CurriculumSection& c) {
  return {
      "curriculum",
      true,
      {Range("min_steps", &c.min_steps, 0, kBig), Range("max_steps", &c.max_steps, 0, kBig),
       Flag("length_rule", &c.length_rule), Range("length_window", &c.length_window, 1, kSmall),
       Above("length_ratio", &c.length_ratio, 0, 10),
       Range("length_confirm", &c.length_confirm, 1, kSmall),
       Flag("truncation_rule", &c.truncation_rule),
       Range("truncation_window", &c.truncation_window, 1, kSmall),
       Range("truncation_margin", &c.truncation_margin, 0, 1),
       Range("truncation_confirm", &c.truncation_confirm, 1, kSmall),
       Flag("plateau_rule", &c.plateau_rule), Range("plateau_window", &c.plateau_window, 3, kSmall),
       Range("plateau_min_slope", &c.plateau_min_slope, -1, 1),
       Range("plateau_confirm", &c.plateau_confirm, 1, kSmall)}};
}

ConfigFields RolloutFields(RolloutSection& r) {
  return {
      "rollout",
      false,
      {Range("slots", &r.slots, 1, 65536), Range("block_tokens", &r.block_tokens, 1, 4096),
       Range("kv_tokens", &r.kv_tokens, 1, 1e12),
       Range("prefill_tokens", &r.prefill_tokens, 1, limits::kContextTokensMax),
       Range("chunk_tokens", &r.chunk_tokens, 1, limits::kChunkTokensMax),
       Range("threads", &r.threads, 1, 1024), Choice("device", &r.device, {"auto", "cpu", "cuda"}),
       Range("heartbeat", &r.heartbeat, 0.01, 600), Range("drain", &r.drain, 0, kDay),
       Flag("recompute_cache", &r.recompute_cache),
       Text("http", &r.http, TextForm::kOptionalEndpoint)}};
}

ConfigFields OptimizerFields(OptimizerSection& o) {
  return {"optimizer",
          true,
          {Range("learning_rate", &o.learning_rate, 0, 10), Range("beta1", &o.beta1, 0, 0.999999),
           Range("beta2", &o.beta2, 0, 0.9999999), Above("epsilon", &o.epsilon, 0, 1),
           Range("weight_decay", &o.weight_decay, 0, 10), Range("grad_clip", &o.grad_clip, 0, kBig),
           Range("warmup_steps", &o.warmup_steps, 0, kBig),
           Choice("schedule", &o.schedule, {"constant", "linear", "cosine"}),
           Range("final_fraction", &o.final_fraction, 0, 1),
           Range("decay_steps", &o.decay_steps, 0, kBig)}};
}

ConfigFields LearnerFields(LearnerSection& l) {
  return {"learner",
          true,
          {NotDigested(Range("microbatch_tokens", &l.microbatch_tokens, 1, kBig)),
           NotDigested(Range("threads", &l.threads, 1, 1024)),
           NotDigested(Choice("dtype", &l.dtype, {"policy", "float32", "bfloat16"})),
           NotDigested(Choice("device", &l.device, {"cpu", "cuda"})),
           NotDigested(Range("recompute_layers", &l.recompute_layers, -1, kSmall)),
           Range("max_staleness", &l.max_staleness, 0, limits::kStalenessMax),
           NotDigested(Range("checkpoint_every", &l.checkpoint_every, 1, kBig)),
           NotDigested(Range("checkpoints_kept", &l.checkpoints_kept, 1, 1000)),
           NotDigested(Range("nonfinite_steps_max", &l.nonfinite_steps_max, 0, kSmall)),
           NotDigested(Range("versions_kept", &l.versions_kept, 1, 64)),
           NotDigested(Flag("weight_deltas", &l.weight_deltas)),
           NotDigested(Range("ranks", &l.ranks, 1, 256)),
           NotDigested(Range("zero_stage", &l.zero_stage, 1, 3)),
           NotDigested(Range("rank_timeout", &l.rank_timeout, 1, kDay))}};
}

ConfigFields EvaluationFields(EvaluationSection& e) {
  return {"evaluation",
          true,
          {Text("set", &e.set, TextForm::kPath), Range("problems", &e.problems, 0, kBig),
           Range("samples", &e.samples, 1, limits::kGroupSamplesMax),
           Range("temperature", &e.temperature, 0, 10), Above("top_p", &e.top_p, 0, 1),
           Range("context_tokens", &e.context_tokens, 0, limits::kContextTokensMax),
           Range("every", &e.every, 0, kBig)}};
}

ConfigFields CostFields(CostSection& c) {
  return {"cost",
          false,
          {Text("currency", &c.currency), Range("gpu_hour_price", &c.gpu_hour_price, 0, kBig),
           Range("core_hour_price", &c.core_hour_price, 0, kBig), Text("gpu_type", &c.gpu_type),
           Range("gpus_per_worker", &c.gpus_per_worker, 0, 65536),
           Range("gpus_learner", &c.gpus_learner, 0, 65536),
           Range("reward_processes", &c.reward_processes, 0, 65536)}};
}

ConfigFields NetworkFields(NetworkSection& n) {
  return {"network",
          false,
          {Text("coordinator", &n.coordinator, TextForm::kEndpoint),
           Text("learner", &n.learner, TextForm::kEndpoint),
           Text("reward", &n.reward, TextForm::kEndpoint),
           Text("rollout", &n.rollout, TextForm::kEndpoint),
           Text("metrics", &n.metrics, TextForm::kEndpoint),
           Text("worker_id", &n.worker_id, TextForm::kOptionalName), Flag("insecure", &n.insecure),
           Range("connect_timeout", &n.connect_timeout, 0.1, kDay),
           Range("rpc_timeout", &n.rpc_timeout, 0.1, kDay)}};
}

ConfigFields SecurityFields(SecuritySection& s) {
  return {
      "security",
      false,
      {Text("directory", &s.directory, TextForm::kPath), Text("ca", &s.ca, TextForm::kPath),
       Text("certificate", &s.certificate, TextForm::kPath), Text("key", &s.key, TextForm::kPath),
       Text("token", &s.token, TextForm::kPath), Text("tokens", &s.tokens, TextForm::kPath),
       Flag("metrics_plain_text", &s.metrics_plain_text),
       Flag("page_plain_text", &s.page_plain_text)}};
}

ConfigFields LogFields(LogSection& l) {
  return {"log",
          false,
          {Choice("format", &l.format, {"logfmt", "json"}),
           Choice("level", &l.level, {"debug", "info", "warn", "error"})}};
}

std::string RangeText(const ConfigField& field) {
  const auto bound = [](double value) {
    if (value >= kHuge) return std::string("2^63 - 1");
    if (value == static_cast<double>(static_cast<int64_t>(value))) {
      return absl::StrCat(static_cast<int64_t>(value));
    }
    return absl::StrCat(value);
  };
  return absl::StrCat(field.min_open ? "(" : "[", bound(field.min), ", ", bound(field.max), "]");
}

}  // namespace

std::vector<ConfigField> FieldsOfObjective(ObjectiveSection& o) {
  return {Choice("advantage", &o.advantage, {"grpo", "dr_grpo", "rloo"}),
          Choice("ratio", &o.ratio, {"token", "sequence", "cispo"}),
          Above("clip_low", &o.clip_low, 0, 1),
          Above("clip_high", &o.clip_high, 0, 100),
          Range("dual_clip", &o.dual_clip, 0, 1000),
          Choice("off_policy", &o.off_policy, {"none", "truncated", "decoupled"}),
          Range("importance_cap", &o.importance_cap, 0, 1e6),
          Range("entropy_coefficient", &o.entropy_coefficient, 0, 100),
          Range("kl_coefficient", &o.kl_coefficient, 0, 100),
          Choice("kl_estimator", &o.kl_estimator, {"k1", "k2", "k3"}),
          Choice("kl_in", &o.kl_in, {"loss", "reward"}),
          Range("kl_target", &o.kl_target, 0, 1000),
          Range("kl_horizon", &o.kl_horizon, 1, kSmall),
          Choice("aggregation", &o.aggregation, {"token_mean", "sequence_mean", "fixed_length"}),
          Choice("overlong", &o.overlong, {"graded", "zero", "mask", "soft"}),
          Range("overlong_buffer", &o.overlong_buffer, 0, limits::kContextTokensMax),
          Choice("zero_variance", &o.zero_variance, {"keep", "drop"}),
          Range("minibatches", &o.minibatches, 1, limits::kGroupsPerStepMax),
          Flag("random_reward", &o.random_reward)};
}

std::vector<ConfigField> FieldsOfStage(StageSection& s) {
  std::vector<ConfigField> fields = {
      Range("context_tokens", &s.context_tokens, 1, limits::kContextTokensMax),
      Range("group_samples", &s.group_samples, 2, limits::kGroupSamplesMax),
      Range("groups_per_step", &s.groups_per_step, 1, limits::kGroupsPerStepMax),
      Above("temperature", &s.temperature, 0, 10),
      Above("top_p", &s.top_p, 0, 1),
      Range("top_k", &s.top_k, 0, kSmall),
      Range("min_p", &s.min_p, 0, 0.999999),
      Range("learning_rate", &s.learning_rate, 0, 10),
      Range("min_steps", &s.min_steps, 0, kBig),
      Range("level_mix", &s.level_mix, 0, kSmall)};
  CRESCENDO_CHECK(fields.size() == kStageOwnFields);
  for (ConfigField& field : FieldsOfObjective(s.objective)) fields.push_back(std::move(field));
  return fields;
}

std::vector<ConfigField> FieldsOfEvaluationSet(EvaluationSetSection& e) {
  return {Text("name", &e.name),
          Text("path", &e.path, TextForm::kPath),
          Text("reward_kind", &e.reward_kind),
          Range("problems", &e.problems, 0, kBig),
          Range("samples", &e.samples, 1, limits::kGroupSamplesMax),
          Range("temperature", &e.temperature, 0, 10),
          Above("top_p", &e.top_p, 0, 1),
          Range("context_tokens", &e.context_tokens, 0, limits::kContextTokensMax),
          Range("every", &e.every, 0, kBig)};
}

std::vector<ConfigFields> FieldsOf(RunConfig& c) {
  return {
      {"run",
       true,
       {Text("name", &c.run.name, TextForm::kName), Range("seed", &c.run.seed, 0, kHuge),
        NotDigested(Range("steps", &c.run.steps, 0, kBig)), NotDigested(Text("out", &c.run.out))}},
      {"policy",
       true,
       {Text("path", &c.policy.path, TextForm::kPath),
        Text("tokenizer", &c.policy.tokenizer, TextForm::kPath),
        Choice("chat_template", &c.policy.chat_template,
               {"auto", "raw", "chatml", "deepseek-r1-distill", "qwen3"}),
        Text("system_prompt", &c.policy.system_prompt),
        Text("prompt_suffix", &c.policy.prompt_suffix),
        Choice("dtype", &c.policy.dtype, {"float32", "bfloat16"}),
        Flag("deterministic", &c.policy.deterministic),
        Range("lora_rank", &c.policy.lora_rank, 0, 65536),
        Range("lora_alpha", &c.policy.lora_alpha, 0, kSmall),
        Text("lora_targets", &c.policy.lora_targets)}},
      {"data",
       true,
       {Text("train", &c.data.train, TextForm::kPath), Text("reward_kind", &c.data.reward_kind),
        Range("problems_max", &c.data.problems_max, 0, kBig),
        Above("settled_weight", &c.data.settled_weight, 0, 1)}},
      CurriculumFields(c.curriculum),
      RolloutFields(c.rollout),
      {"reward",
       false,
       {Range("threads", &c.reward.threads, 1, 1024),
        Flag("plain_text_answers", &c.reward.plain_text_answers),
        Range("correct_reward", &c.reward.correct_reward, -1000, 1000),
        Range("incorrect_reward", &c.reward.incorrect_reward, -1000, 1000),
        Text("rewards", &c.reward.rewards, TextForm::kPath)}},
      {"objective", true, FieldsOfObjective(c.objective)},
      OptimizerFields(c.optimizer),
      LearnerFields(c.learner),
      EvaluationFields(c.evaluation),
      {"coordinator",
       false,
       {Range("lease", &c.coordinator.lease, 0.1, kDay),
        Range("awaited_after", &c.coordinator.awaited_after, 0.1, kDay),
        Flag("second_leases", &c.coordinator.second_leases),
        Text("page", &c.coordinator.page, TextForm::kOptionalEndpoint),
        Range("samples_kept", &c.coordinator.samples_kept, 0, 10'000),
        Range("samples_per_group", &c.coordinator.samples_per_group, 0, limits::kGroupSamplesMax)}},
      CostFields(c.cost),
      NetworkFields(c.network),
      SecurityFields(c.security),
      LogFields(c.log)};
}

std::string Expectation(const ConfigField& field) {
  struct Words {
    const ConfigField& field;
    std::string operator()(bool*) const { return "true or false"; }
    std::string operator()(int*) const { return "an integer in " + RangeText(field); }
    std::string operator()(int64_t*) const { return "an integer in " + RangeText(field); }
    std::string operator()(uint64_t*) const { return "an integer in " + RangeText(field); }
    std::string operator()(double*) const { return "a number in " + RangeText(field); }
    std::string operator()(std::vector<int>*) const {
      return "a list of integers in " + RangeText(field);
    }
    std::string operator()(std::map<std::string, double>*) const {
      return absl::StrCat("a table of numbers in ", RangeText(field),
                          ", such as { \"A100-80GB\" = 1.18 }");
    }
    std::string operator()(absl::Duration*) const {
      return absl::StrCat("a duration such as \"10s\" or \"500ms\", from ",
                          absl::FormatDuration(absl::Seconds(field.min)), " to ",
                          absl::FormatDuration(absl::Seconds(field.max)));
    }
    std::string operator()(std::string*) const {
      switch (field.form) {
        case TextForm::kName:
        case TextForm::kOptionalName:
          return "a name of 1 to 63 of a-z, 0-9 and '-'";
        case TextForm::kEndpoint:
          return "host:port";
        case TextForm::kOptionalEndpoint:
          return "host:port, or \"\" for none";
        case TextForm::kPath:
          return "a path in quotes";
        case TextForm::kChoice:
          return absl::StrCat("one of \"", absl::StrJoin(field.choices, "\", \""), "\"");
        case TextForm::kAny:
          break;
      }
      return "a text in quotes";
    }
  };
  return std::visit(Words{field}, field.target);
}

}  // namespace crescendo
