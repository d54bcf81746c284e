// The configuration of a run: one TOML file that every service reads, with --section.key=value over
// it.
//
// A RunConfig that came out of LoadRunConfig is whole and within its bounds (ranges below are
// enforced there; relations between fields too); code that gets one checks nothing again. Plain
// values; copy freely.
#ifndef CRESCENDO_COMMON_CONFIG_RUN_CONFIG_H_
#define CRESCENDO_COMMON_CONFIG_RUN_CONFIG_H_

#include <cstdint>
#include <map>
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
  // The same bits for a token alone, in any batch, after a resume, and in the learner; slower
  // (tests/bench/README.md)
  bool deterministic = false;
  // Low-rank adapters are trained instead of the weights; 0: all weights are. What workers get is
  // merged.
  int lora_rank = 0;
  double lora_alpha = 0;  // scale of the adapters' product is alpha / rank; 0: alpha = 2 x rank
  std::string lora_targets = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj";
};

// [data]
struct DataSection {
  std::string train;  // JSON lines; relative to the recipe's folder
  std::string reward_kind = "math";
  int64_t problems_max = 0;  // use only the first so many; 0: all
  // (0, 1] chance an epoch of a problem that was always or never solved so far; 1: all come
  double settled_weight = 1.0;
};

// [objective]: formulas and papers in services/learner/{advantage,policy_loss,batch_packer}.h
struct ObjectiveSection {
  std::string advantage = "grpo";  // grpo: (r - mean) / (unbiased std + 1e-6); dr_grpo; rloo
  std::string ratio = "token";     // token; sequence (GSPO); cispo
  double clip_low = 0.2;           // ratio in [1 - clip_low, 1 + clip_high]
  double clip_high = 0.2;
  double dual_clip = 0.0;  // above 1: bounds the loss of a negative advantage; 0: off
  // What corrects for tokens of older versions: none (the ratio is to what the rollout drew);
  // truncated importance weights; decoupled (weights not cut; tokens above the cap left out)
  std::string off_policy = "none";
  double importance_cap = 0.0;       // of those weights; 0 (decoupled only): no bound
  double entropy_coefficient = 0.0;  // of the bonus for the mean entropy of a token
  double kl_coefficient = 0.0;  // of the KL estimate to the base; 0: no reference model is loaded
  std::string kl_estimator = "k3";  // k1, k2, k3
  std::string kl_in = "loss";       // loss; reward: taken off each sample's reward
  double kl_target = 0.0;           // nats a token: the coefficient adapts towards it; 0: it stays
  int kl_horizon = 10;  // steps: the coefficient changes by at most 0.2 / kl_horizon a step
  std::string aggregation = "token_mean";  // token_mean, sequence_mean, fixed_length; over the
                                           // whole mini-batch
  // Truncated samples: graded (as the verdict says), zero (as incorrect ones), mask (left out),
  // soft (any long sample's reward falls over the last overlong_buffer tokens of the limit)
  std::string overlong = "graded";
  int overlong_buffer = 0;             // tokens; soft only
  std::string zero_variance = "keep";  // groups of equal rewards: keep (in the normaliser), drop
  int minibatches = 1;  // optimizer steps that one batch of groups is split into, whole groups each
  bool random_reward = false;  // control: the learner replaces every reward by a seeded coin
};

// [[stage]]: in order; the first one starts the run
struct StageSection {
  int context_tokens = 0;    // (0, kContextTokensMax]: limit on the completion
  int group_samples = 8;     // [2, kGroupSamplesMax] G
  int groups_per_step = 32;  // [1, kGroupsPerStepMax]
  double temperature = 1.0;  // (0, 10]
  double top_p = 1.0;        // (0, 1]; 1: off
  int top_k = 0;             // 0: off
  double min_p = 0.0;        // [0, 1); 0: off
  double learning_rate = 0;  // 0: that of [optimizer]
  int min_steps = 0;         // before any rule but the cap is asked; 0: that of [curriculum]
  // Weights of the difficulty classes, easiest first, as many in each stage that has some; empty:
  // problems as they come (services/coordinator/problem_order.h)
  std::vector<int> level_mix;
  // Any key of [objective] may stand in a stage too (clip_high = 0.28) and holds for its steps; the
  // others are those of [objective].
  ObjectiveSection objective;
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
  int length_confirm = 1;       // a rule holds at so many steps in a row before it ends the stage
  bool truncation_rule = true;  // the truncation ratio rose by a margin over its lowest
  int truncation_window = 3;    // steps averaged
  double truncation_margin = 0.02;
  int truncation_confirm = 2;
  bool plateau_rule =
      false;  // slope of the pass rate not above min_slope (per step) with its upper 95% bound
  int plateau_window = 20;
  double plateau_min_slope = 0.0005;
  int plateau_confirm = 2;
};

// [rollout]
struct RolloutSection {
  int slots = 256;            // samples decoded at once
  int block_tokens = 16;      // tokens of a KV block
  int64_t kv_tokens = 65536;  // tokens of the KV pool of one worker
  int prefill_tokens = 2048;  // new tokens of a step, prompt chunks included
  int chunk_tokens = 32;  // a sample's tokens are sent when so many are there (and when it ends)
  int threads = 1;        // compute threads
  // Where the policy runs: cpu, cuda, or auto (cuda where this build and this machine have it).
  std::string device = "cpu";
  absl::Duration heartbeat = absl::Milliseconds(500);
  absl::Duration drain = absl::Seconds(30);
  // The cache of what is being decoded is computed anew with the new weights at a swap; always so
  // with policy.deterministic
  bool recompute_cache = false;
  std::string http;  // host:port of the OpenAI-compatible endpoint; empty: off
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

// [optimizer]: AdamW
struct OptimizerSection {
  double learning_rate = 1e-6;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  double grad_clip = 1.0;             // global norm; 0: off
  int warmup_steps = 0;               // linear
  std::string schedule = "constant";  // constant, linear, cosine: after warm-up, down to ...
  double final_fraction = 0.0;        // ... this share of the learning rate ...
  int64_t decay_steps = 0;            // ... at this step of the run; 0: its last
};

// [learner]
struct LearnerSection {
  int microbatch_tokens = 16384;  // packed tokens, prompts included
  int threads = 1;
  std::string dtype = "policy";  // compute of the learner: float32; bfloat16 (with fp32 masters);
                                 // policy: that of [policy]
  // Where it trains: cpu, or cuda (a rank on device LOCAL_RANK, else on its rank's; not with
  // policy.deterministic).
  std::string device = "cpu";
  int recompute_layers = 0;  // layers whose activations are computed again in the backward pass
                             // instead of kept; -1: all
  int max_staleness = 0;     // [0, kStalenessMax]; 0 is exactly on-policy
  int checkpoint_every = 1;  // steps; the last step is always kept
  int checkpoints_kept = 2;
  int nonfinite_steps_max = 3;  // skipped steps in a row before the run stops with an error
  int versions_kept = 2;        // weight versions that workers can still pull
  // A version is also published as what changed since the one before, where that is much smaller.
  bool weight_deltas = true;
  // Processes that `crescendo train` starts on this machine; who starts ranks otherwise says so in
  // WORLD_SIZE.
  int ranks = 1;
  // What ranks share out: 1 the optimizer's state, 2 gradients too, 3 weights too (gathered layer
  // by layer; not with policy.lora_rank).
  int zero_stage = 1;
  absl::Duration rank_timeout = absl::Minutes(30);  // that ranks wait for each other in a step
};

// [evaluation]
struct EvaluationSection {
  // One set (JSON lines) in short; empty: those of [[evaluation_set]], or no evaluation.
  std::string set;
  // Defaults of every set.
  int problems = 512;        // the first so many; 0: all
  int samples = 1;           // a problem
  double temperature = 1.0;  // [0, 10]
  double top_p = 1.0;
  int context_tokens = 0;  // 0: the last stage's limit
  int every = 0;           // steps; 0: only before the first and after the last
};

// [[evaluation_set]]: what a key does not say, [evaluation] does
struct EvaluationSetSection {
  std::string name;         // for reports, unique; empty: the file's name without its ending
  std::string path;         // JSON lines
  std::string reward_kind;  // empty: data.reward_kind
  int problems = 512;
  int samples = 1;
  double temperature = 1.0;
  double top_p = 1.0;
  int context_tokens = 0;
  int every = 0;
};

// [coordinator]
struct CoordinatorSection {
  absl::Duration lease = absl::Seconds(10);  // not renewed for this long: granted to another
  absl::Duration awaited_after =
      absl::Seconds(15);  // a step blocked for this long is reported as awaiting
  // Near the end of a step a group is leased to a second worker too where that measures faster;
  // whoever ends it first counts.
  bool second_leases = true;
  // Where the coordinator serves the run's page over HTTP, host:port; port 0: any free one, which
  // is logged. Empty: no page.
  std::string page = "127.0.0.1:0";
  int samples_kept = 400;     // [0, 10,000] newest samples that the page shows; 0: none
  int samples_per_group = 1;  // [0, kGroupSamplesMax] of each group, workers send so many texts
};

// [cost]: what is held by whom, and what it costs. Each process reports what it holds: give one its
// own with --cost.gpu_type=... in its command line.
struct CostSection {
  std::string currency = "$";                    // stands before amounts
  std::map<std::string, double> gpu_hour_price;  // by GPU type, such as "A100-80GB"
  double core_hour_price = 0;                    // of a CPU core of any service
  std::string gpu_type;                          // has a price when gpu_hour_price is not empty
  int gpus_per_worker = 0;                       // [0, 65,536]
  int gpus_learner = 0;                          // [0, 65,536]
  int reward_processes = 1;                      // [0, 65,536]; each holds reward.threads cores
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

// [security]: mutual TLS between the services. All empty: plain text, which stays on the loopback
// unless network.insecure. Each process is of one role (coordinator, learner, rollout, reward,
// operator) and finds its files by that name; the single paths win over the directory.
struct SecuritySection {
  std::string directory;    // ca.pem, ROLE.pem, ROLE.key, ROLE.token, as `crescendo certs` makes
  std::string ca;           // PEM: the authorities whose certificates are taken
  std::string certificate;  // PEM: this process's certificate and what leads up to its authority
  std::string key;          // PEM
  std::string token;        // file: this process sends its first line with every call
  std::string tokens;       // folder of the ROLE.token files whose lines are accepted
  bool metrics_plain_text = false;  // the metrics port off the loopback in plain text
  bool page_plain_text = false;     // coordinator.page too: whoever reaches it reads the samples
};

// [log]: on standard error
struct LogSection {
  std::string format = "logfmt";  // logfmt, json
  std::string level = "info";     // debug, info, warn, error
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
  std::vector<EvaluationSetSection> evaluation_sets;  // with [evaluation]'s values filled in
  CoordinatorSection coordinator;
  CostSection cost;
  NetworkSection network;
  SecuritySection security;
  LogSection log;
};

// Reads `file`, applies `overrides` ("section.key=value", "stage.0.context_tokens=64"), checks
// everything and makes paths of [policy], [data], [evaluation] and [security] absolute (relative
// ones are meant from the recipe's folder; run.out is meant from the working directory). Errors are
// InvalidArgument (NotFound for a missing file): file and line, key, expected, found; for an
// unknown key the nearest valid one.
absl::StatusOr<RunConfig> LoadRunConfig(FileSystem& files, absl::string_view file,
                                        absl::Span<const std::string> overrides);

// The sets to evaluate: those of [[evaluation_set]], or that of evaluation.set; empty: none.
std::vector<EvaluationSetSection> EvaluationSets(const RunConfig& config);

// The same of a file's text, without overrides: the effective configuration that a run carries.
// Paths in it are taken as they are.
absl::StatusOr<RunConfig> RunConfigFromText(absl::string_view text, absl::string_view file);

// The defaults with `overrides` over them, for what serves a policy without a run: no training
// data, one stage. Paths are meant from the working directory. Errors as above, with
// "--section.key" for the place.
absl::StatusOr<RunConfig> RunConfigWithoutRecipe(absl::Span<const std::string> overrides);

// The effective configuration as TOML that LoadRunConfig reads back to the same values.
std::string ToToml(const RunConfig& config);

// SHA-256 (hex) of the sections that coordinator and learner must agree on: run (without out, and
// steps: a run can be made longer), policy, data, stages, curriculum, objective, optimizer,
// learner.max_staleness, evaluation and its sets.
std::string ConfigDigest(const RunConfig& config);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_CONFIG_RUN_CONFIG_H_
