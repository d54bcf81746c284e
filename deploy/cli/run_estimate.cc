#include "deploy/cli/run_estimate.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "deploy/cli/live_view.h"

namespace crescendo {
namespace {

constexpr double kKvShare = 0.8, kGemmShare = 0.55, kTrainShare = 0.45;
constexpr double kLengthShare = 0.35;  // of the limit
// Mean live length of a sequence that is decoded, over its mean final length: E[L^2] / 2 E[L]^2 at
// a coefficient of variation of .6.
constexpr double kLiveShare = 0.68;
constexpr double kPromptTokens = 150;
constexpr int kGpusMax = 100'000;

struct KnownGpu {
  const char* name;
  double terabytes_per_second;
  double teraflops;
};
// The makers' data sheets, SXM where there are several; bf16 without sparsity.
constexpr KnownGpu kKnown[] = {
    {"A100", 2.0, 312}, {"A100-80GB", 2.0, 312}, {"A100-40GB", 1.555, 312}, {"H100", 3.35, 989},
    {"H200", 4.8, 989}, {"H20", 4.0, 148},       {"L40S", 0.864, 362},      {"B200", 8.0, 2250}};

// Seconds that one GPU takes for a token.
struct TokenSeconds {
  double rollout = 0;
  double train = 0;
};

TokenSeconds Computed(const RunConfig& config, const EstimateInputs& in, double mean_tokens) {
  const ModelShape& model = in.model;
  const GpuKind& gpu = in.gpus.kind;
  const double live = kPromptTokens + kLiveShare * mean_tokens;
  const double slots = config.rollout.slots;
  TokenSeconds seconds;
  seconds.rollout = model.kv_bytes * live / (kKvShare * gpu.bytes_per_second) +
                    std::max(model.weight_bytes / slots / gpu.bytes_per_second,
                             2 * model.parameters / (kGemmShare * gpu.flops_per_second));
  const double length = kPromptTokens + mean_tokens;
  const double forward = 2 * model.parameters + 2 * model.attention_size * length;
  double flops = 6 * model.parameters + 7 * model.attention_size * length;
  if (config.objective.kl_coefficient > 0) flops += forward;
  if (config.learner.recompute_layers < 0) flops += forward;
  seconds.train = flops / (kTrainShare * gpu.flops_per_second);
  return seconds;
}

// Hours of the clock for so many GPU-hours of each kind of work, and the split that takes least:
// generation and training wait for each other when every batch is of the newest version.
double ClockHours(double rollout, double train, int gpus, bool on_policy, int* rollout_gpus) {
  *rollout_gpus = 0;
  if (gpus == 1) return rollout + train;
  double best = INFINITY;
  for (int r = 1; r < gpus; ++r) {
    const double a = rollout / r, b = train / (gpus - r);
    const double hours = on_policy ? a + b : std::max(a, b);
    if (hours >= best) continue;
    best = hours;
    *rollout_gpus = r;
  }
  return best;
}

double MeanTokens(const EstimateInputs& in, size_t stage, int context_tokens) {
  if (!in.mean_tokens.empty()) {
    return in.mean_tokens[std::min(stage, in.mean_tokens.size() - 1)];
  }
  if (!in.measured.empty()) return in.measured[std::min(stage, in.measured.size() - 1)].mean_tokens;
  return kLengthShare * context_tokens;
}

absl::StatusOr<std::vector<int64_t>> StepsOfStages(const RunConfig& config) {
  std::vector<int64_t> steps;
  int64_t left = config.run.steps;
  for (size_t i = 0; i < config.stages.size(); ++i) {
    const bool last = i + 1 == config.stages.size();
    const bool capped =
        i < config.curriculum.max_steps.size() && config.curriculum.max_steps[i] > 0;
    if (!last && !capped) {
      return absl::InvalidArgumentError(
          absl::StrCat("stage ", i + 1,
                       " ends by a rule alone: give it a cap to estimate with, such as "
                       "--curriculum.max_steps=[1040,480]"));
    }
    steps.push_back(last ? left : std::min<int64_t>(left, config.curriculum.max_steps[i]));
    left -= steps.back();
  }
  return steps;
}

std::string SourceOf(const EstimateInputs& in) {
  if (in.rollout_tokens_per_second > 0 && in.train_tokens_per_second > 0) {
    return "the throughputs that were given";
  }
  if (!in.measured.empty()) {
    return absl::StrCat("what an earlier run generated in an hour of a ",
                        in.measured.front().of_cores ? "core" : "GPU",
                        ", waiting and the length tail included");
  }
  return absl::StrCat(
      "limits computed for ", in.model.name, " on ", in.gpus.kind.name,
      " at practical shares (80% of bandwidth, 55% and 45% of peak); the length tail "
      "of a step and restarts come on top");
}

StageEstimate EstimateStage(const RunConfig& config, const EstimateInputs& in, size_t index,
                            int64_t steps) {
  const StageSection& section = config.stages[index];
  StageEstimate stage;
  stage.context_tokens = section.context_tokens;
  stage.steps = steps;
  stage.mean_tokens = MeanTokens(in, index, section.context_tokens);
  stage.tokens = static_cast<double>(steps) * section.groups_per_step * section.group_samples *
                 stage.mean_tokens;
  if (in.rollout_tokens_per_second <= 0 && !in.measured.empty()) {
    const MeasuredStage& measured = in.measured[std::min(index, in.measured.size() - 1)];
    stage.busy_gpu_hours = stage.gpu_hours =
        measured.tokens > 0 ? measured.hours / measured.tokens * stage.tokens : 0;
    stage.hours = stage.gpu_hours / in.gpus.count;
  } else {
    TokenSeconds seconds = Computed(config, in, stage.mean_tokens);
    if (in.rollout_tokens_per_second > 0) seconds.rollout = 1 / in.rollout_tokens_per_second;
    if (in.train_tokens_per_second > 0) seconds.train = 1 / in.train_tokens_per_second;
    const double rollout = stage.tokens * seconds.rollout / 3600;
    const double train = stage.tokens * seconds.train / 3600;
    stage.busy_gpu_hours = rollout + train;
    stage.hours = ClockHours(rollout, train, in.gpus.count, config.learner.max_staleness == 0,
                             &stage.rollout_gpus);
    stage.gpu_hours = stage.hours * in.gpus.count;
  }
  stage.money = stage.gpu_hours * in.gpu_hour_price;
  return stage;
}

std::string Hours(double hours) {
  return hours >= 100 ? FormatCount(hours) : absl::StrFormat("%.3g", hours);
}

}  // namespace

absl::StatusOr<GpuCount> ParseGpus(absl::string_view text) {
  GpuCount gpus;
  gpus.count = 1;
  const size_t times = text.find('x');
  absl::string_view name = text;
  if (times != absl::string_view::npos && absl::SimpleAtoi(text.substr(0, times), &gpus.count)) {
    name = text.substr(times + 1);
  }
  for (const KnownGpu& known : kKnown) {
    if (!absl::EqualsIgnoreCase(name, known.name)) continue;
    if (gpus.count < 1 || gpus.count > kGpusMax) break;
    gpus.kind = {known.name, known.terabytes_per_second * 1e12, known.teraflops * 1e12};
    return gpus;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--gpus: expected a count and a kind such as 8xA100 (known: ",
      absl::StrJoin(kKnown, ", ",
                    [](std::string* out, const KnownGpu& known) { out->append(known.name); }),
      "), found '", text, "'"));
}

ModelShape DistilledQwenShape() {
  return {"DeepSeek-R1-Distill-Qwen-1.5B", 1.544e9, 3.09e9, 28672, 28.0 * 12 * 128};
}

absl::StatusOr<ModelShape> ShapeFromConfigJson(absl::string_view text, absl::string_view name) {
  const auto json = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  std::string missing;
  const auto field = [&](const char* key) -> double {
    if (json.is_object() && json.contains(key) && json[key].is_number()) {
      return json[key].get<double>();
    }
    missing = key;
    return 0;
  };
  const double hidden = field("hidden_size"), layers = field("num_hidden_layers");
  const double heads = field("num_attention_heads"), mlp = field("intermediate_size");
  const double vocabulary = field("vocab_size");
  if (!missing.empty() || heads <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": config.json: expected a number '", missing, "'"));
  }
  const double kv_heads =
      json.contains("num_key_value_heads") ? field("num_key_value_heads") : heads;
  const double size = json.contains("head_dim") ? field("head_dim") : hidden / heads;
  ModelShape shape;
  shape.name = std::string(name);
  shape.parameters =
      layers * (2 * hidden * heads * size + 2 * hidden * kv_heads * size + 3 * hidden * mlp) +
      hidden * vocabulary;
  shape.weight_bytes = 2 * shape.parameters;
  shape.kv_bytes = 2 * 2 * layers * kv_heads * size;
  shape.attention_size = layers * heads * size;
  return shape;
}

absl::StatusOr<std::vector<MeasuredStage>> ReadMeasured(absl::string_view metrics_jsonl) {
  std::vector<MeasuredStage> stages;
  double gpu_before = 0, core_before = 0;
  for (const absl::string_view line : absl::StrSplit(metrics_jsonl, '\n', absl::SkipEmpty())) {
    const auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
    if (!json.is_object() || json.value("kind", nlohmann::json()) != "step") continue;
    for (const char* key :
         {"stage", "generated_tokens", "response_tokens_mean", "gpu_hours", "core_hours"}) {
      if (json.contains(key) && json[key].is_number()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("metrics.jsonl: a step without the number '", key, "'"));
    }
    const auto index = json["stage"].get<size_t>();
    if (index >= 64) return absl::InvalidArgumentError("metrics.jsonl: a stage above 63");
    if (stages.size() <= index) stages.resize(index + 1);
    MeasuredStage& stage = stages[index];
    const double gpu = json["gpu_hours"].get<double>(), core = json["core_hours"].get<double>();
    stage.of_cores = gpu <= 0;
    stage.hours += stage.of_cores ? core - core_before : gpu - gpu_before;
    gpu_before = gpu;
    core_before = core;
    stage.tokens += json["generated_tokens"].get<double>();
    stage.mean_tokens += json["response_tokens_mean"].get<double>();
    ++stage.steps;
  }
  // A stage that was left before any step of it: as the one before.
  for (size_t i = 0; i < stages.size(); ++i) {
    if (stages[i].steps > 0) stages[i].mean_tokens /= static_cast<double>(stages[i].steps);
    if (stages[i].steps == 0 && i > 0) stages[i] = stages[i - 1];
  }
  if (stages.empty() || stages.front().steps == 0) {
    return absl::InvalidArgumentError("metrics.jsonl: no step of a first stage to go by");
  }
  return stages;
}

absl::StatusOr<RunEstimate> EstimateRun(const RunConfig& config, const EstimateInputs& inputs) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, StepsOfStages(config));
  RunEstimate estimate;
  estimate.source = SourceOf(inputs);
  StageEstimate& total = estimate.total;
  for (size_t i = 0; i < config.stages.size(); ++i) {
    const StageEstimate stage = EstimateStage(config, inputs, i, steps[i]);
    total.steps += stage.steps;
    total.tokens += stage.tokens;
    total.busy_gpu_hours += stage.busy_gpu_hours;
    total.hours += stage.hours;
    total.gpu_hours += stage.gpu_hours;
    total.money += stage.money;
    estimate.stages.push_back(stage);
  }
  return estimate;
}

std::vector<std::string> EstimateLines(const RunEstimate& estimate, const EstimateInputs& inputs,
                                       absl::string_view currency) {
  std::vector<std::string> lines = {absl::StrFormat(
      "%-7s%9s%8s%10s%10s%10s%9s%11s%15s%10s", "stage", "context", "steps", "length", "tokens",
      "generate", "hours", "GPU-hours", "of which busy", "money")};
  const auto line = [&](const std::string& name, const StageEstimate& s, bool stage) {
    const std::string split =
        s.rollout_gpus > 0 ? absl::StrCat(s.rollout_gpus, " of ", inputs.gpus.count) : "";
    const std::string money =
        inputs.gpu_hour_price > 0 ? absl::StrCat(currency, FormatCount(s.money)) : "-";
    lines.push_back(absl::StrFormat(
        "%-7s%9s%8s%10s%9.2fG%10s%9s%11s%15s%10s", name, stage ? FormatCount(s.context_tokens) : "",
        FormatCount(static_cast<double>(s.steps)), stage ? FormatCount(s.mean_tokens) : "",
        s.tokens / 1e9, split, Hours(s.hours), Hours(s.gpu_hours), Hours(s.busy_gpu_hours), money));
  };
  for (size_t i = 0; i < estimate.stages.size(); ++i) {
    line(absl::StrCat(i + 1), estimate.stages[i], true);
  }
  line("in all", estimate.total, false);
  lines.push_back(absl::StrCat("on ", inputs.gpus.count, " x ", inputs.gpus.kind.name, ", from ",
                               estimate.source));
  if (inputs.mean_tokens.empty() && inputs.measured.empty()) {
    lines.push_back(
        "mean lengths are not known: .35 of the limit is taken (--mean-tokens 3000,6000)");
  }
  lines.push_back("published for DeepScaleR-1.5B: 3,800 A100-hours, $4,500");
  return lines;
}

}  // namespace crescendo
