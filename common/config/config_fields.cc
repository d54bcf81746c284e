#include "common/config/config_fields.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/limits.h"

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
       Above("length_ratio", &c.length_ratio, 0, 10), Flag("truncation_rule", &c.truncation_rule),
       Range("truncation_window", &c.truncation_window, 1, kSmall),
       Range("truncation_margin", &c.truncation_margin, 0, 1),
       Flag("plateau_rule", &c.plateau_rule), Range("plateau_window", &c.plateau_window, 3, kSmall),
       Range("plateau_min_slope", &c.plateau_min_slope, -1, 1)}};
}

ConfigFields RolloutFields(RolloutSection& r) {
  return {"rollout",
          false,
          {Range("slots", &r.slots, 1, 65536), Range("block_tokens", &r.block_tokens, 1, 4096),
           Range("kv_tokens", &r.kv_tokens, 1, 1e12),
           Range("prefill_tokens", &r.prefill_tokens, 1, limits::kContextTokensMax),
           Range("chunk_tokens", &r.chunk_tokens, 1, limits::kChunkTokensMax),
           Range("threads", &r.threads, 1, 1024), Range("heartbeat", &r.heartbeat, 0.01, 600),
           Range("drain", &r.drain, 0, kDay)}};
}

ConfigFields ObjectiveFields(ObjectiveSection& o) {
  return {"objective",
          true,
          {Choice("advantage", &o.advantage, {"grpo", "dr_grpo", "rloo"}),
           Choice("ratio", &o.ratio, {"token", "sequence", "cispo"}),
           Above("clip_low", &o.clip_low, 0, 1), Above("clip_high", &o.clip_high, 0, 100),
           Range("dual_clip", &o.dual_clip, 0, 1000),
           Range("importance_cap", &o.importance_cap, 0, 1e6),
           Range("kl_coefficient", &o.kl_coefficient, 0, 100),
           Choice("kl_estimator", &o.kl_estimator, {"k1", "k2", "k3"}),
           Choice("aggregation", &o.aggregation, {"token_mean", "sequence_mean", "fixed_length"}),
           Flag("mask_truncated", &o.mask_truncated),
           Range("minibatches", &o.minibatches, 1, limits::kGroupsPerStepMax),
           Flag("random_reward", &o.random_reward)}};
}

ConfigFields OptimizerFields(OptimizerSection& o) {
  return {"optimizer",
          true,
          {Range("learning_rate", &o.learning_rate, 0, 10), Range("beta1", &o.beta1, 0, 0.999999),
           Range("beta2", &o.beta2, 0, 0.9999999), Above("epsilon", &o.epsilon, 0, 1),
           Range("weight_decay", &o.weight_decay, 0, 10), Range("grad_clip", &o.grad_clip, 0, kBig),
           Range("warmup_steps", &o.warmup_steps, 0, kBig)}};
}

ConfigFields LearnerFields(LearnerSection& l) {
  return {"learner",
          true,
          {NotDigested(Range("microbatch_tokens", &l.microbatch_tokens, 1, kBig)),
           NotDigested(Range("threads", &l.threads, 1, 1024)),
           Range("max_staleness", &l.max_staleness, 0, limits::kStalenessMax),
           NotDigested(Range("checkpoint_every", &l.checkpoint_every, 1, kBig)),
           NotDigested(Range("checkpoints_kept", &l.checkpoints_kept, 1, 1000)),
           NotDigested(Range("nonfinite_steps_max", &l.nonfinite_steps_max, 0, kSmall)),
           NotDigested(Range("versions_kept", &l.versions_kept, 1, 64))}};
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

std::vector<ConfigField> FieldsOfStage(StageSection& s) {
  return {Range("context_tokens", &s.context_tokens, 1, limits::kContextTokensMax),
          Range("group_samples", &s.group_samples, 2, limits::kGroupSamplesMax),
          Range("groups_per_step", &s.groups_per_step, 1, limits::kGroupsPerStepMax),
          Above("temperature", &s.temperature, 0, 10),
          Range("learning_rate", &s.learning_rate, 0, 10),
          Range("level_mix", &s.level_mix, 0, kSmall)};
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
        Choice("dtype", &c.policy.dtype, {"float32", "bfloat16"})}},
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
      ObjectiveFields(c.objective),
      OptimizerFields(c.optimizer),
      LearnerFields(c.learner),
      EvaluationFields(c.evaluation),
      {"coordinator",
       false,
       {Range("lease", &c.coordinator.lease, 0.1, kDay),
        Range("awaited_after", &c.coordinator.awaited_after, 0.1, kDay)}},
      NetworkFields(c.network)};
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
