// crescendo estimate: what a recipe will take, before it is started.
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "deploy/cli/commands.h"
#include "deploy/cli/run_estimate.h"

namespace crescendo {
namespace {

constexpr size_t kMetricsBytesMax = 256u << 20;
constexpr size_t kListMax = 64;

std::string Option(const CliArguments& arguments, const std::string& name) {
  const auto found = arguments.values.find(name);
  return found == arguments.values.end() ? "" : found->second;
}

absl::StatusOr<double> Positive(const CliArguments& arguments, const std::string& name) {
  const std::string text = Option(arguments, name);
  double value = 0;
  if (text.empty() || (absl::SimpleAtod(text, &value) && value > 0 && value < 1e12)) return value;
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": expected a number above 0, found '", text, "'"));
}

absl::StatusOr<std::vector<double>> Lengths(const CliArguments& arguments) {
  std::vector<double> lengths;
  const std::string text = Option(arguments, "--mean-tokens");
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    double value = 0;
    if (!absl::SimpleAtod(part, &value) || !(value >= 1 && value < 1e9) ||
        lengths.size() == kListMax) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--mean-tokens: expected a length for each stage, such as 3000,6000; found '", text,
          "'"));
    }
    lengths.push_back(value);
  }
  return lengths;
}

absl::StatusOr<std::vector<MeasuredStage>> Measured(const CliArguments& arguments,
                                                    FileSystem& files) {
  std::string path = Option(arguments, "--from");
  if (path.empty()) return std::vector<MeasuredStage>();
  if (!absl::EndsWith(path, ".jsonl")) path = JoinPath(path, "metrics.jsonl");
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, kMetricsBytesMax));
  auto measured = ReadMeasured(text);
  RETURN_IF_ERROR(Annotate(measured.status(), path));
  return measured;
}

}  // namespace

const absl::string_view kEstimateHelp =
    R"(crescendo estimate RECIPE --gpus 8xA100 [--from RUN] [--mean-tokens A,B,...] [--price P]
                   [--rollout-tokens-per-second R --train-tokens-per-second T] [--section.key=value ...]

What the recipe will take: hours, GPU-hours and money, by stage. From, and it says which:
  the throughputs of one GPU, given with --rollout-tokens-per-second and --train-tokens-per-second;
  or --from RUN, the folder of an earlier run (or its metrics.jsonl): what an hour of it generated;
  or limits computed from the GPU's bandwidth and peak and the model's shape (the policy's config.json,
  or DeepSeek-R1-Distill-Qwen-1.5B's where that is not there).

  --gpus NxKIND      how many of what: A100, A100-40GB, H100, H200, H20, L40S, B200
  --mean-tokens L    mean response length of each stage; measured, or .35 of the limit, without it
  --price P          of a GPU-hour; the recipe's cost.gpu_hour_price without it
)";

absl::Status EstimateCommand(const CliArguments& arguments, const TrainingWorld& world) {
  if (arguments.positional.size() != 1 || Option(arguments, "--gpus").empty()) {
    return absl::InvalidArgumentError(
        "expected one recipe and --gpus, such as --gpus 8xA100; see crescendo estimate --help");
  }
  ASSIGN_OR_RETURN(const RunConfig config,
                   LoadRunConfig(*world.files, arguments.positional[0], arguments.overrides));
  EstimateInputs inputs;
  ASSIGN_OR_RETURN(inputs.gpus, ParseGpus(Option(arguments, "--gpus")));
  ASSIGN_OR_RETURN(inputs.rollout_tokens_per_second,
                   Positive(arguments, "--rollout-tokens-per-second"));
  ASSIGN_OR_RETURN(inputs.train_tokens_per_second,
                   Positive(arguments, "--train-tokens-per-second"));
  ASSIGN_OR_RETURN(inputs.gpu_hour_price, Positive(arguments, "--price"));
  ASSIGN_OR_RETURN(inputs.mean_tokens, Lengths(arguments));
  ASSIGN_OR_RETURN(inputs.measured, Measured(arguments, *world.files));
  const auto price = config.cost.gpu_hour_price.find(inputs.gpus.kind.name);
  if (inputs.gpu_hour_price == 0 && price != config.cost.gpu_hour_price.end()) {
    inputs.gpu_hour_price = price->second;
  }
  inputs.model = DistilledQwenShape();
  const std::string shape = JoinPath(config.policy.path, "config.json");
  if (world.files->Exists(shape)) {
    ASSIGN_OR_RETURN(const std::string json, world.files->ReadFile(shape, 1u << 20));
    ASSIGN_OR_RETURN(inputs.model, ShapeFromConfigJson(json, BaseName(config.policy.path)));
  }
  ASSIGN_OR_RETURN(const RunEstimate estimate, EstimateRun(config, inputs));
  for (const std::string& line : EstimateLines(estimate, inputs, config.cost.currency)) {
    world.terminal->Line(line);
  }
  return absl::OkStatus();
}

}  // namespace crescendo
