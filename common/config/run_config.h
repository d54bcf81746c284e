// The configuration of a run: one TOML file that every service reads, with --section.key=value over
// it.
//
// A RunConfig that came out of LoadRunConfig is whole and within its bounds (ranges below are
// enforced there; relations between fields too); code that gets one checks nothing again. Plain
// values; copy freely.
#ifndef CRESCENDO_COMMON_CONFIG_RUN_CONFIG_H_
#define CRESCENDO_COMMON_CONFIG_RUN_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/os/env.h"

namespace crescendo {

// [run]
struct RunSection {
  std::string name = "run";  // [a-z0-9-]{1,63}
  uint64_t seed = 1;
  int64_t steps = 100;  // [0, 1e9] optimizer steps of the whole run; 0 only evaluates the base
  std::string out = "runs/run";  // folder for the journal, checkpoints, metrics and the report
};

// [policy]
struct PolicySection {
  std::string path;       // a Hugging Face folder or a .gguf file; relative to the recipe's folder
  std::string tokenizer;  // folder or file; empty: found in `path`
  std::string chat_template =
      "auto";                     // auto (the model's own), raw, chatml, deepseek-r1-distill, qwen3
  std::string system_prompt;      // empty: none beyond the template's own
  std::string prompt_suffix;      // put behind every problem's text
  std::string dtype = "float32";  // float32, bfloat16: compute and KV cache of the rollout
};

// [data]
struct DataSection {
  std::string train;  // JSON lines; relative to the recipe's folder
  std::string reward_kind = "math";
  int64_t problems_max = 0;  // use only the first so many; 0: all
  // (0, 1] chance an epoch of a problem that was always or never solved so far; 1: all come
  double settled_weight = 1.0;
};

// [[stage]]: in order; the first one starts the run
struct StageSection {
  int context_tokens = 0;    // (0, kContextTokensMax]: limit on the completion
  int group_samples = 8;     // [2, kGroupSamplesMax] G
  int groups_per_step = 32;  // [1, kGroupsPerStepMax]
  double temperature = 1.0;  // (0, 10]
  double learning_rate = 0;  // 0: that of [optimizer]
  // Weights of the difficulty classes, easiest first, as many in each stage that has some; empty:
  // problems as they come (services/coordinator/problem_order.h)
  std::vector<int> level_mix;
};

// [curriculum]: when a stage ends. Each rule can be switched off; the first that holds wins.
struct CurriculumSection {
  int min_steps = 6;  // of a stage before any rule but the cap is asked
  std::vector<int>
      max_steps;  // cap per stage; missing or 0: none. The last stage runs to the end of the run
  bool length_rule = true;  // mean length stopped falling: mean of the last `window` steps > ratio
                            // x the window before
  int length_window = 3;
  double length_ratio = 0.97;
  bool truncation_rule = true;  // the truncation ratio rose by a margin over its lowest
  int truncation_window = 3;    // steps averaged
  double truncation_margin = 0.02;
  bool plateau_rule =
      false;  // slope of the pass rate not above min_slope (per step) with its upper 95% bound
  int plateau_window = 20;
  double plateau_min_slope = 0.0005;
};

// [rollout]
struct RolloutSection {
  int slots = 256;            // samples decoded at once
  int block_tokens = 16;      // tokens of a KV block
  int64_t kv_tokens = 65536;  // tokens of the KV pool of one worker
  int prefill_tokens = 2048;  // new tokens of a step, prompt chunks included
  int chunk_tokens = 32;  // a sample's tokens are sent when so many are there (and when it ends)
  int threads = 1;        // compute threads
  absl::Duration heartbeat = absl::Milliseconds(500);
  absl::Duration drain = absl::Seconds(30);
};

// [reward]
struct RewardSection {
  int threads = 1;
  bool plain_text_answers =
      true;  // "the final answer is ..." and "#### N" count when there is no box
  double correct_reward = 1.0;
  double incorrect_reward = 0.0;
  std::string rewards;  // file of other kinds of reward and the audit log; empty: none
};

// [objective]: formulas and papers in services/learner/{advantage,policy_loss,batch_packer}.h
struct ObjectiveSection {
  std::string advantage = "grpo";  // grpo: (r - mean) / (unbiased std + 1e-6); dr_grpo; rloo
  std::string ratio = "token";     // token; sequence (GSPO); cispo
  double clip_low = 0.2;           // ratio in [1 - clip_low, 1 + clip_high]
  double clip_high = 0.2;
  double dual_clip = 0.0;       // above 1: bounds the loss of a negative advantage; 0: off
  double importance_cap = 0.0;  // truncated importance sampling of what the rollout drew; 0: off
  double kl_coefficient = 0.0;  // of the KL estimate to the base; 0: no reference model is loaded
  std::string kl_estimator = "k3";         // k1, k2, k3
  std::string aggregation = "token_mean";  // token_mean, sequence_mean, fixed_length; over the
                                           // whole mini-batch
  bool mask_truncated = false;             // truncated samples are left out, not scored
  int minibatches = 1;  // optimizer steps that one batch of groups is split into, whole groups each
  bool random_reward = false;  // control: the learner replaces every reward by a seeded coin
};

// [optimizer]: AdamW
struct OptimizerSection {
  double learning_rate = 1e-6;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  double grad_clip = 1.0;  // global norm; 0: off
  int warmup_steps = 0;    // linear
};

// [learner]
struct LearnerSection {
  int microbatch_tokens = 16384;  // packed tokens, prompts included
  int threads = 1;
  int max_staleness = 0;     // [0, kStalenessMax]; 0 is exactly on-policy
  int checkpoint_every = 1;  // steps; the last step is always kept
  int checkpoints_kept = 2;
  int nonfinite_steps_max = 3;  // skipped steps in a row before the run stops with an error
  int versions_kept = 2;        // weight versions that workers can still pull
};

// [evaluation]
struct EvaluationSection {
  std::string set;           // JSON lines; empty: no evaluation
  int problems = 512;        // the first so many; 0: all
  int samples = 1;           // a problem
  double temperature = 1.0;  // [0, 10]
  double top_p = 1.0;
  int context_tokens = 0;  // 0: the last stage's limit
  int every = 0;           // steps; 0: only before the first and after the last
};

// [coordinator]
struct CoordinatorSection {
  absl::Duration lease = absl::Seconds(10);  // not renewed for this long: granted to another
  absl::Duration awaited_after =
      absl::Seconds(15);  // a step blocked for this long is reported as awaiting
};

// [network]: where each service listens and is found
struct NetworkSection {
  std::string coordinator = "127.0.0.1:7070";
  std::string learner = "127.0.0.1:7071";
  std::string reward = "127.0.0.1:7072";
  std::string rollout = "127.0.0.1:0";  // of this worker; port 0: any free one
  std::string metrics = "127.0.0.1:0";  // of this process; the port is logged
  std::string worker_id;                // of this worker; empty: from host name and process id
  bool insecure = false;                // plain text off the loopback too: to be asked for by name
  absl::Duration connect_timeout =
      absl::Seconds(30);  // then a service that cannot be reached is an error
  absl::Duration rpc_timeout = absl::Seconds(10);  // deadline of a plain call
};

struct RunConfig {
  RunSection run;
  PolicySection policy;
  DataSection data;
  std::vector<StageSection> stages;
  CurriculumSection curriculum;
  RolloutSection rollout;
  RewardSection reward;
  ObjectiveSection objective;
  OptimizerSection optimizer;
  LearnerSection learner;
  EvaluationSection evaluation;
  CoordinatorSection coordinator;
  NetworkSection network;
};

// Reads `file`, applies `overrides` ("section.key=value", "stage.0.context_tokens=64"), checks
// everything and makes paths of [policy], [data] and [evaluation] absolute (relative ones are meant
// from the recipe's folder; run.out is meant from the working directory). Errors are
// InvalidArgument (NotFound for a missing file): file and line, key, expected, found; for an
// unknown key the nearest valid one.
absl::StatusOr<RunConfig> LoadRunConfig(FileSystem& files, absl::string_view file,
                                        absl::Span<const std::string> overrides);

// The effective configuration as TOML that LoadRunConfig reads back to the same values.
std::string ToToml(const RunConfig& config);

// SHA-256 (hex) of the sections that coordinator and learner must agree on: run (without out, and
// steps: a run can be made longer), policy, data, stages, curriculum, objective, optimizer,
// learner.max_staleness and evaluation.
std::string ConfigDigest(const RunConfig& config);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_CONFIG_RUN_CONFIG_H_
