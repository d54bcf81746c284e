// What a recipe will take before it is started: time, GPU-hours and money, by stage. Pure.
//
// The seconds come from one of three sources, best first, and the result says which: throughputs
// that were given; what a GPU-hour generated in an earlier run; or computed limits of the GPU times
// the shares of them that engines reach in practice:
//
//   decoding, a token     S x kv_bytes / (.8 bandwidth) + max(weight_bytes / B / bandwidth,
//                         2 P / (.55 peak)); B sequences at once, S their mean live length
//   training, a token     (6 P + 7 L H d S) / (.45 peak), causal attention with FlashAttention's
//                         backward (2.5 x forward); + 2 P + 2 L H d S for the reference's pass
//                         (KL), and once more when all activations are computed again
//
// P: parameters without the embedding; L layers, H heads, d their size. Tokens of a step: groups x
// samples x mean length. The published run's mean length was about .35 of the limit (3,800
// A100-hours at 890 tokens/s an A100, end to end): that is taken where no length is given.
#ifndef CRESCENDO_DEPLOY_CLI_RUN_ESTIMATE_H_
#define CRESCENDO_DEPLOY_CLI_RUN_ESTIMATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/config/run_config.h"

namespace crescendo {

struct GpuKind {
  std::string name;         // as it was written
  double bytes_per_second;  // of its memory
  double flops_per_second;  // bf16, dense
};
struct GpuCount {
  int count = 0;
  GpuKind kind;
};
// "8xA100", "H100". InvalidArgument names those that are known.
absl::StatusOr<GpuCount> ParseGpus(absl::string_view text);

struct ModelShape {
  std::string name;
  double parameters = 0;      // without the embedding, the head included
  double weight_bytes = 0;    // that a decoding step reads
  double kv_bytes = 0;        // of a token
  double attention_size = 0;  // layers x heads x head size
};
// DeepSeek-R1-Distill-Qwen-1.5B in bf16.
ModelShape DistilledQwenShape();
// From a Hugging Face config.json (Qwen2, Llama). InvalidArgument when a field is missing.
absl::StatusOr<ModelShape> ShapeFromConfigJson(absl::string_view json, absl::string_view name);

// Of an earlier run: metrics.jsonl.
struct MeasuredStage {
  int64_t steps = 0;
  double tokens = 0;  // generated
  double mean_tokens = 0;
  double hours = 0;  // of GPUs; of cores where no GPU was held
  bool of_cores = false;
};
absl::StatusOr<std::vector<MeasuredStage>> ReadMeasured(absl::string_view metrics_jsonl);

struct EstimateInputs {
  GpuCount gpus;
  ModelShape model;
  std::vector<double> mean_tokens;       // by stage; the last stands for the rest; empty: not known
  double rollout_tokens_per_second = 0;  // a GPU; 0: not given
  double train_tokens_per_second = 0;    // likewise
  std::vector<MeasuredStage> measured;   // empty: none
  double gpu_hour_price = 0;             // 0: not known
};

struct StageEstimate {
  int context_tokens = 0;
  int64_t steps = 0;
  double mean_tokens = 0;
  double tokens = 0;          // generated
  double busy_gpu_hours = 0;  // generating and training, without waiting for each other
  double hours = 0;           // of the clock
  double gpu_hours = 0;       // held: hours x GPUs
  double money = 0;
  int rollout_gpus = 0;  // of the GPUs, when some generate and the others train; 0: not known
};
struct RunEstimate {
  std::string source;
  std::vector<StageEstimate> stages;
  StageEstimate total;
};

// InvalidArgument when a stage has no end that can be told: a rule may end it, but it has no cap.
absl::StatusOr<RunEstimate> EstimateRun(const RunConfig& config, const EstimateInputs& inputs);

// A table for a terminal.
std::vector<std::string> EstimateLines(const RunEstimate& estimate, const EstimateInputs& inputs,
                                       absl::string_view currency);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_RUN_ESTIMATE_H_
