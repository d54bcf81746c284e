#include "services/learner/warm_start.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/model/policy_model.h"
#include "common/model/torch_guard.h"
#include "services/learner/batch_packer.h"
#include "services/learner/optimizer.h"
#include "services/learner/packed_forward.h"
#include "services/learner/torch_trainer.h"

namespace crescendo {
namespace {

constexpr size_t kCorpusBytesMax = size_t{4} << 30;
constexpr size_t kConfigBytesMax = 1u << 20;

struct Row {
  std::vector<int32_t> prompt;
  std::vector<int32_t> response;
};

// A file of rows, held as text; rows are encoded when they are asked for.
class Corpus {
 public:
  static absl::StatusOr<Corpus> Read(FileSystem& files, const std::string& path) {
    Corpus corpus;
    corpus.path_ = path;
    ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, kCorpusBytesMax));
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      if (!line.empty()) corpus.lines_.emplace_back(line);
    }
    if (corpus.lines_.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": expected JSON lines, found none"));
    }
    return corpus;
  }

  int64_t size() const { return static_cast<int64_t>(lines_.size()); }

  absl::StatusOr<Row> At(int64_t index, WarmStartTokenizer& tokenizer, int64_t vocabulary) const {
    const int64_t line = index % size();
    const std::string place = absl::StrCat(path_, ":", line + 1);
    const nlohmann::json json = nlohmann::json::parse(lines_[line], nullptr, false);
    if (!json.is_object() || !json.contains("prompt") || !json["prompt"].is_string() ||
        !json.contains("response") || !json["response"].is_string() ||
        (json.contains("ends") && !json["ends"].is_boolean())) {
      return absl::InvalidArgumentError(absl::StrCat(
          place, ": expected {\"prompt\": text, \"response\": text, \"ends\": bool}, found ",
          lines_[line].substr(0, 80)));
    }
    Row row;
    auto prompt = tokenizer.EncodePrompt(json["prompt"].get<std::string>());
    if (!prompt.ok()) return Annotate(prompt.status(), absl::StrCat(place, ": prompt"));
    auto response = tokenizer.EncodeResponse(json["response"].get<std::string>());
    if (!response.ok()) return Annotate(response.status(), absl::StrCat(place, ": response"));
    row.prompt = *std::move(prompt);
    row.response = *std::move(response);
    if (!json.contains("ends") || json["ends"].get<bool>()) {
      row.response.push_back(tokenizer.end_token());
    }
    if (row.prompt.empty() || row.response.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": prompt or response is empty"));
    }
    for (const std::vector<int32_t>* ids : {&row.prompt, &row.response}) {
      for (const int32_t id : *ids) {
        if (id < 0 || id >= vocabulary) {
          return absl::InvalidArgumentError(
              absl::StrCat(place, ": token ", id, " is outside the vocabulary of ", vocabulary));
        }
      }
    }
    return row;
  }

 private:
  std::string path_;
  std::vector<std::string> lines_;
};

void AppendRow(const Row& row, PackedMicroBatch& micro) {
  const int32_t begin = static_cast<int32_t>(micro.tokens.size());
  if (micro.cu_seqlens.empty()) micro.cu_seqlens.push_back(0);
  micro.tokens.insert(micro.tokens.end(), row.prompt.begin(), row.prompt.end());
  micro.tokens.insert(micro.tokens.end(), row.response.begin(), row.response.end() - 1);
  const int32_t end = static_cast<int32_t>(micro.tokens.size());
  for (int32_t i = begin; i < end; ++i) micro.positions.push_back(i - begin);
  for (int32_t i = begin + static_cast<int32_t>(row.prompt.size()) - 1; i < end; ++i) {
    micro.loss_rows.push_back(i);
  }
  micro.targets.insert(micro.targets.end(), row.response.begin(), row.response.end());
  micro.cu_seqlens.push_back(end);
  micro.longest = std::max(micro.longest, end - begin);
}

// In order, each micro-batch as full as `tokens_max` allows.
std::vector<PackedMicroBatch> Pack(const std::vector<Row>& rows, int tokens_max) {
  std::vector<PackedMicroBatch> micros(1);
  for (const Row& row : rows) {
    const size_t length = row.prompt.size() + row.response.size() - 1;
    if (!micros.back().tokens.empty() &&
        micros.back().tokens.size() + length > static_cast<size_t>(tokens_max)) {
      micros.emplace_back();
    }
    AppendRow(row, micros.back());
  }
  return micros;
}

absl::StatusOr<std::unique_ptr<PolicyModel>> MakeModel(FileSystem& files,
                                                       const WarmStartOptions& options) {
  if (!options.random_weights) return PolicyModel::Load(files, options.from);
  const std::string config_path = JoinPath(options.from, "config.json");
  const std::string generation_path = JoinPath(options.from, "generation_config.json");
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(config_path, kConfigBytesMax));
  std::string generation;
  std::optional<absl::string_view> generation_view;
  if (files.Exists(generation_path)) {
    ASSIGN_OR_RETURN(generation, files.ReadFile(generation_path, kConfigBytesMax));
    generation_view = generation;
  }
  ASSIGN_OR_RETURN(const ModelConfig config, ParseHfConfig(text, generation_view, options.from));
  return PolicyModel::Init(config, options.seed);
}

class Run {
 public:
  Run(FileSystem& files, WarmStartTokenizer& tokenizer, const WarmStartOptions& options,
      PolicyModel* model)
      : files_(files),
        tokenizer_(tokenizer),
        options_(options),
        model_(model),
        optimizer_(model->parameters(), options.adamw) {}

  absl::Status Phase(int index, const std::function<void(const WarmStartProgress&)>& progress) {
    const WarmStartPhase& phase = options_.phases[index];
    ASSIGN_OR_RETURN(const Corpus corpus, Corpus::Read(files_, phase.data));
    if (phase.fresh_optimizer) optimizer_.Reset();
    for (int64_t step = 0; step < phase.steps; ++step) {
      std::vector<Row> rows;
      for (int64_t i = 0; i < phase.batch; ++i) {
        ASSIGN_OR_RETURN(
            Row row, corpus.At(step * phase.batch + i, tokenizer_, model_->config().vocab_size));
        tokens_ += static_cast<int64_t>(row.prompt.size() + row.response.size());
        rows.push_back(std::move(row));
      }
      WarmStartProgress report;
      report.phase = index;
      report.step = step + 1;
      report.steps = phase.steps;
      report.learning_rate = LearningRateAt(phase.schedule, step);
      const absl::Status stepped = CatchTorch(
          absl::StrCat("warm start, phase ", index + 1, ", step ", step),
          [&]() -> absl::Status { return Step(Pack(rows, options_.microbatch_tokens), report); });
      RETURN_IF_ERROR(stepped);
      report.tokens = tokens_;
      if (progress) progress(report);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Step(const std::vector<PackedMicroBatch>& micros, WarmStartProgress& report) {
    size_t targets = 0;
    for (const PackedMicroBatch& micro : micros) targets += micro.targets.size();
    optimizer_.ZeroGrad();
    double loss = 0;
    for (const PackedMicroBatch& micro : micros) {
      const TokenLogProbs outputs = ForwardLogProbs(*model_, micro);
      for (const float log_prob : FloatSpan(outputs.log_prob)) loss -= log_prob;
      BackwardLogProbs(
          outputs, std::vector<float>(micro.targets.size(), -1.0f / static_cast<float>(targets)));
      optimizer_.FoldGradients();
    }
    report.loss = loss / static_cast<double>(targets);
    report.grad_norm = optimizer_.GradNorm();
    if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
      return absl::AbortedError(absl::StrCat("phase ", report.phase + 1, ", step ", report.step,
                                             ": loss ", report.loss, ", gradient norm ",
                                             report.grad_norm, ": expected finite numbers"));
    }
    optimizer_.Step(report.learning_rate, GradClipScale(report.grad_norm, options_.grad_clip));
    return absl::OkStatus();
  }

  FileSystem& files_;
  WarmStartTokenizer& tokenizer_;
  const WarmStartOptions& options_;
  PolicyModel* model_;
  AdamW optimizer_;
  int64_t tokens_ = 0;
};

absl::Status SetField(absl::string_view key, absl::string_view value, WarmStartPhase& phase) {
  LrSchedule& schedule = phase.schedule;
  bool good = true;
  if (key == "data") {
    phase.data = std::string(value);
  } else if (key == "steps") {
    good = absl::SimpleAtoi(value, &phase.steps) && phase.steps > 0;
  } else if (key == "batch") {
    good = absl::SimpleAtoi(value, &phase.batch) && phase.batch > 0;
  } else if (key == "lr") {
    good = absl::SimpleAtod(value, &schedule.peak) && schedule.peak > 0;
  } else if (key == "warmup") {
    good = absl::SimpleAtoi(value, &schedule.warmup_steps) && schedule.warmup_steps >= 0;
  } else if (key == "decay") {
    schedule.decay = value == "linear"   ? LrSchedule::Decay::kLinear
                     : value == "cosine" ? LrSchedule::Decay::kCosine
                                         : LrSchedule::Decay::kConstant;
    good = value == "linear" || value == "cosine" || value == "constant";
  } else if (key == "decay_from") {
    good = absl::SimpleAtoi(value, &schedule.decay_from) && schedule.decay_from >= 0;
  } else if (key == "final") {
    good = absl::SimpleAtod(value, &schedule.final_fraction) && schedule.final_fraction >= 0 &&
           schedule.final_fraction <= 1;
  } else if (key == "fresh") {
    good = value == "0" || value == "1";
    phase.fresh_optimizer = value == "1";
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        "phase: unknown key '", key,
        "': expected data, steps, batch, lr, warmup, decay, decay_from, final or fresh"));
  }
  if (!good) {
    return absl::InvalidArgumentError(absl::StrCat("phase: bad value of ", key, ": '", value, "'"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WarmStartPhase> ParseWarmStartPhase(absl::string_view text) {
  WarmStartPhase phase;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(item, absl::MaxSplits('=', 1));
    RETURN_IF_ERROR(SetField(pair.first, pair.second, phase));
  }
  if (phase.data.empty() || phase.steps == 0 || phase.batch == 0 || phase.schedule.peak == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("phase '", text, "': data, steps, batch and lr are needed"));
  }
  phase.schedule.decay_until = phase.steps;
  if (phase.schedule.decay_from >= phase.steps) {
    return absl::InvalidArgumentError(absl::StrCat("phase '", text, "': decay_from ",
                                                   phase.schedule.decay_from,
                                                   " is not before the last step"));
  }
  return phase;
}

absl::Status RunWarmStart(FileSystem& files, WarmStartTokenizer& tokenizer,
                          const WarmStartOptions& options,
                          const std::function<void(const WarmStartProgress&)>& progress) {
  SetComputeThreads(options.threads);
  ASSIGN_OR_RETURN(const std::unique_ptr<PolicyModel> model, MakeModel(files, options));
  model->SetRequiresGrad(true);
  Run run(files, tokenizer, options, model.get());
  for (size_t i = 0; i < options.phases.size(); ++i) {
    RETURN_IF_ERROR(run.Phase(static_cast<int>(i), progress));
  }
  RETURN_IF_ERROR(model->Save(files, options.out));
  if (options.from == options.out || !files.IsDirectory(options.from)) return absl::OkStatus();
  return CopyTokenizerFiles(files, options.from, options.out);
}

}  // namespace crescendo
