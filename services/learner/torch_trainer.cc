#include "services/learner/torch_trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/torch_guard.h"
#include "services/learner/lr_schedule.h"
#include "services/learner/packed_forward.h"

namespace crescendo {
namespace {

constexpr size_t kTokenizerBytesMax = 256u << 20;
constexpr absl::string_view kTokenizerFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt",     "chat_template.jinja"};

absl::StatusOr<at::ScalarType> ParseDtype(absl::string_view name) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  return absl::InvalidArgumentError(
      absl::StrCat("trainer: dtype '", name, "': expected float32 or bfloat16"));
}

std::vector<TensorData> CopyOf(const std::vector<TensorBytes>& tensors) {
  std::vector<TensorData> copies;
  copies.reserve(tensors.size());
  for (const TensorBytes& tensor : tensors) {
    copies.push_back({tensor.name, tensor.dtype, tensor.shape, std::string(tensor.bytes)});
  }
  return copies;
}

std::vector<TensorBytes> ViewOf(const std::vector<TensorData>& tensors) {
  std::vector<TensorBytes> views;
  views.reserve(tensors.size());
  for (const TensorData& tensor : tensors) {
    views.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes});
  }
  return views;
}

std::vector<LossSample> LossSamples(const PackedMicroBatch& micro) {
  std::vector<LossSample> samples;
  samples.reserve(micro.samples.size());
  for (const PackedSample& sample : micro.samples) {
    samples.push_back({static_cast<size_t>(sample.loss_begin), static_cast<size_t>(sample.loss_end),
                       sample.advantage, sample.token_weight});
  }
  return samples;
}

absl::StatusOr<int64_t> UpdatesFromJson(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("updates") || !json["updates"].is_number_integer() ||
      json["updates"].get<int64_t>() < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "trainer state: expected an object with an integer 'updates', found '", text, "'"));
  }
  return json["updates"].get<int64_t>();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TorchTrainer>> TorchTrainer::Create(
    FileSystem& files, const TorchTrainerOptions& options) {
  ASSIGN_OR_RETURN(const at::ScalarType dtype, ParseDtype(options.dtype));
  SetComputeThreads(options.threads);
  ASSIGN_OR_RETURN(auto model, PolicyModel::Load(files, options.policy, {.dtype = dtype}));
  std::unique_ptr<PolicyModel> reference;
  if (options.loss.kl_coefficient > 0) {
    ASSIGN_OR_RETURN(reference, PolicyModel::Load(files, options.policy, {.dtype = dtype}));
  }
  model->SetRequiresGrad(true);
  return CatchTorch("trainer: making the optimizer's state",
                    [&]() -> absl::StatusOr<std::unique_ptr<TorchTrainer>> {
                      return std::unique_ptr<TorchTrainer>(
                          new TorchTrainer(files, options, std::move(model), std::move(reference)));
                    });
}

TorchTrainer::TorchTrainer(FileSystem& files, const TorchTrainerOptions& options,
                           std::unique_ptr<PolicyModel> model,
                           std::unique_ptr<PolicyModel> reference)
    : files_(files),
      options_(options),
      model_(std::move(model)),
      reference_(std::move(reference)),
      optimizer_(model_->parameters(), options.adamw) {}

// Tokens of older versions differ by what training changed, which is no mismatch.
void TorchTrainer::AddMismatch(const PackedMicroBatch& micro, absl::Span<const float> log_probs,
                               MiniBatchSums& sums) {
  for (const PackedSample& sample : micro.samples) {
    for (int32_t t = sample.fresh_begin; t < sample.loss_end; ++t) {
      const double difference = std::abs(double{log_probs[t]} - double{micro.old_log_probs[t]});
      sums.mismatch += difference;
      sums.mismatch_max = std::max(sums.mismatch_max, difference);
      ++sums.mismatch_tokens;
    }
  }
}

absl::StatusOr<std::vector<float>> TorchTrainer::Proximal(const PackedMicroBatch& micro) {
  const std::string operation =
      absl::StrCat("proximal log-probs of a micro-batch of ", micro.tokens.size(), " tokens");
  return CatchTorch(operation, [&]() -> absl::StatusOr<std::vector<float>> {
    const at::NoGradGuard no_grad;
    const at::Tensor log_probs = ForwardLogProbs(*model_, micro).log_prob;
    const absl::Span<const float> span = FloatSpan(log_probs);
    return std::vector<float>(span.begin(), span.end());
  });
}

absl::Status TorchTrainer::Accumulate(const PackedMicroBatch& micro,
                                      const std::vector<float>* proximal, MiniBatchSums& sums) {
  const std::string operation = absl::StrCat("training a micro-batch of ", micro.tokens.size(),
                                             " tokens, ", micro.targets.size(), " of them sampled");
  return CatchTorch(operation, [&] {
    const TokenLogProbs policy = ForwardLogProbs(*model_, micro, options_.entropy);
    const absl::Span<const float> log_probs = FloatSpan(policy.log_prob);
    at::Tensor reference;
    if (reference_ != nullptr) {
      const at::NoGradGuard no_grad;
      reference = ForwardLogProbs(*reference_, micro).log_prob;
    }
    const std::vector<LossSample> samples = LossSamples(micro);
    PolicyLossInput input;
    input.log_probs = log_probs;
    input.old_log_probs = proximal != nullptr ? *proximal : micro.old_log_probs;
    input.behavior_log_probs = micro.old_log_probs;
    if (reference.defined()) input.reference_log_probs = FloatSpan(reference);
    input.samples = samples;
    const PolicyLossResult result = PolicyLoss(input, options_.loss);
    BackwardLogProbs(policy.log_prob, result.gradient);
    optimizer_.FoldGradients();

    sums.loss.Add(result.stats);
    sums.tokens += static_cast<int64_t>(log_probs.size());
    AddMismatch(micro, log_probs, sums);
    if (policy.entropy.defined()) {
      for (const float entropy : FloatSpan(policy.entropy)) sums.entropy += entropy;
    }
  });
}

void TorchTrainer::AddGradientsOfZero() {
  for (const NamedTensor& parameter : model_->parameters()) {
    parameter.tensor.mutable_grad() = at::zeros_like(parameter.tensor.detach());
  }
}

absl::StatusOr<StepResult> TorchTrainer::Train(const TrainRequest& request,
                                               const std::function<bool()>& stop) {
  LrSchedule schedule;
  schedule.peak = request.learning_rate;
  schedule.warmup_steps = options_.warmup_steps;
  StepResult result;
  result.learning_rate = LearningRateAt(schedule, request.step.value());
  MiniBatchSums total;
  MiniBatchSums unchanged;  // of the mini-batches before the first update
  bool updated = false;
  std::vector<std::vector<float>> proximal;  // of every micro-batch, in order; empty: not wanted
  if (options_.loss.importance_cap > 0) {
    for (const MiniBatch& mini : request.mini_batches) {
      for (const PackedMicroBatch& micro : mini.micro_batches) {
        ASSIGN_OR_RETURN(std::vector<float> log_probs, Proximal(micro));
        proximal.push_back(std::move(log_probs));
      }
    }
  }
  size_t index = 0;
  for (const MiniBatch& mini : request.mini_batches) {
    MiniBatchSums sums;
    optimizer_.ZeroGrad();
    for (const PackedMicroBatch& micro : mini.micro_batches) {
      if (!updated && stop && stop()) {
        optimizer_.ZeroGrad();
        return absl::CancelledError(
            absl::StrCat("step ", request.step.value(), " was stopped before its first update"));
      }
      RETURN_IF_ERROR(Accumulate(micro, proximal.empty() ? nullptr : &proximal[index], sums));
      ++index;
    }
    if (!updated) {
      unchanged.mismatch_tokens += sums.mismatch_tokens;
      unchanged.mismatch += sums.mismatch;
      unchanged.mismatch_max = std::max(unchanged.mismatch_max, sums.mismatch_max);
    }
    total.loss.Add(sums.loss);
    total.entropy += sums.entropy;
    total.tokens += sums.tokens;
    const absl::Status applied = CatchTorch("optimizer step", [&] {
      if (mini.micro_batches.empty()) AddGradientsOfZero();
      const double norm = optimizer_.GradNorm();
      if (!std::isfinite(sums.loss.loss) || !std::isfinite(norm)) {
        result.skipped = true;
        return;
      }
      result.grad_norm = std::max(result.grad_norm, norm);
      optimizer_.Step(result.learning_rate, GradClipScale(norm, options_.grad_clip));
      updated = true;  // by Adam's momentum also when this mini-batch had no gradient
    });
    RETURN_IF_ERROR(applied);
  }
  optimizer_.ZeroGrad();
  const double updates = static_cast<double>(std::max<size_t>(1, request.mini_batches.size()));
  const double tokens = static_cast<double>(std::max<int64_t>(1, total.tokens));
  result.loss = total.loss.loss / updates;
  result.kl = total.loss.kl_mean();
  result.entropy = total.entropy / tokens;
  result.clip_ratio = total.loss.clip_ratio();
  result.mismatch_max = unchanged.mismatch_max;
  result.mismatch_mean =
      unchanged.mismatch / static_cast<double>(std::max<int64_t>(1, unchanged.mismatch_tokens));
  return result;
}

absl::StatusOr<std::vector<TensorData>> TorchTrainer::ExportWeights() {
  return CatchTorch("exporting the weights", [&]() -> absl::StatusOr<std::vector<TensorData>> {
    return CopyOf(model_->State());
  });
}

absl::StatusOr<TrainerState> TorchTrainer::ExportState() {
  return CatchTorch("exporting the trainer's state", [&]() -> absl::StatusOr<TrainerState> {
    TrainerState state;
    for (const NamedTensor& master : optimizer_.Masters()) {
      const at::Tensor tensor = master.tensor.contiguous();
      state.weights.push_back(
          {master.name, "F32", tensor.sizes().vec(),
           std::string(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes())});
    }
    state.optimizer = CopyOf(optimizer_.State());
    state.extra_json = nlohmann::json{{"updates", optimizer_.steps()}}.dump();
    return state;
  });
}

absl::Status TorchTrainer::ImportState(const TrainerState& state) {
  return CatchTorch("importing the trainer's state", [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t updates, UpdatesFromJson(state.extra_json));
    const std::vector<TensorBytes> moments = ViewOf(state.optimizer);
    RETURN_IF_ERROR(optimizer_.CheckState(moments));
    for (const TensorData& tensor : state.weights) {
      if (tensor.dtype != "F32") {
        return absl::InvalidArgumentError(absl::StrCat("trainer state: weight '", tensor.name,
                                                       "': expected F32, found ", tensor.dtype));
      }
    }
    RETURN_IF_ERROR(Annotate(model_->LoadState(ViewOf(state.weights)), "trainer state"));
    RETURN_IF_ERROR(optimizer_.LoadState(moments));
    optimizer_.set_steps(updates);
    // LoadState took every name and length; the masters keep what a bf16 model rounds.
    for (const NamedTensor& master : optimizer_.Masters()) {
      const auto it = std::find_if(state.weights.begin(), state.weights.end(),
                                   [&](const TensorData& t) { return t.name == master.name; });
      std::memcpy(master.tensor.data_ptr(), it->bytes.data(), it->bytes.size());
    }
    optimizer_.ZeroGrad();
    return absl::OkStatus();
  });
}

absl::Status TorchTrainer::SavePolicy(const std::string& folder) {
  RETURN_IF_ERROR(model_->Save(files_, folder));
  if (!files_.IsDirectory(options_.policy)) return absl::OkStatus();
  return CopyTokenizerFiles(files_, options_.policy, folder);
}

absl::Status CopyTokenizerFiles(FileSystem& files, const std::string& from, const std::string& to) {
  for (const absl::string_view name : kTokenizerFiles) {
    const std::string source = JoinPath(from, name);
    if (!files.Exists(source)) continue;
    ASSIGN_OR_RETURN(const std::string text, files.ReadFile(source, kTokenizerBytesMax));
    RETURN_IF_ERROR(files.WriteFile(JoinPath(to, name), text));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Trainer>> MakeTorchTrainer(FileSystem& files,
                                                          const TorchTrainerOptions& options) {
  return TorchTrainer::Create(files, options);
}

int TorchTrainer::vocabulary_size() const { return static_cast<int>(model_->config().vocab_size); }

}  // namespace crescendo
