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
#include "services/learner/kl_control.h"
#include "services/learner/lr_schedule.h"
#include "services/learner/packed_forward.h"
#include "services/learner/rank_group.h"

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

struct TrainerCounters {
  int64_t updates = 0;
  double kl_scale = 1;
};

// A state without a KL scale is one of a run whose coefficient stays.
absl::StatusOr<TrainerCounters> CountersFromJson(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  TrainerCounters counters;
  bool good = json.is_object() && json.contains("updates") && json["updates"].is_number_integer();
  if (good) {
    counters.updates = json["updates"].get<int64_t>();
    if (json.contains("kl_scale")) {
      good = json["kl_scale"].is_number();
      if (good) counters.kl_scale = json["kl_scale"].get<double>();
    }
  }
  if (!good || counters.updates < 0 || !(counters.kl_scale >= kKlScaleMin) ||
      !(counters.kl_scale <= kKlScaleMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("trainer state: expected an object with an integer 'updates' and a number "
                     "'kl_scale', found '",
                     text, "'"));
  }
  return counters;
}

// Tokens of older versions differ by what training changed, which is no mismatch.
void AddMismatch(const PackedMicroBatch& micro, absl::Span<const float> log_probs,
                 MismatchStats& mismatch) {
  for (const PackedSample& sample : micro.samples) {
    for (int32_t t = sample.fresh_begin; t < sample.loss_end; ++t) {
      const auto i = static_cast<size_t>(t);
      mismatch.AddToken(log_probs[i], micro.old_log_probs[i]);
    }
  }
}

// RowSlopes of the policy loss; `own_proximal`: the proximal log-probs are the policy's own.
PolicyLossStats SlopesOfRows(const PolicyLossInput& whole, const PolicyLossOptions& loss,
                             bool own_proximal, int64_t begin, int64_t end, const float* log_prob,
                             const float* entropy, float* d_log_prob, float* d_entropy) {
  const auto rows = static_cast<size_t>(end - begin);
  PolicyLossInput input = whole;
  input.log_probs = {log_prob, rows};
  if (entropy != nullptr) input.entropies = {entropy, rows};
  std::vector<float> own;
  if (own_proximal) {
    own.assign(whole.behavior_log_probs.size(), 0.0f);
    std::copy_n(log_prob, rows, own.begin() + begin);
    input.old_log_probs = own;
  }
  const PolicyLossResult result =
      PolicyLossOfPart(input, loss, static_cast<size_t>(begin), static_cast<size_t>(end));
  std::copy(result.gradient.begin(), result.gradient.end(), d_log_prob);
  std::copy(result.entropy_gradient.begin(), result.entropy_gradient.end(), d_entropy);
  return result.stats;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TorchTrainer>> TorchTrainer::Create(
    FileSystem& files, const TorchTrainerOptions& options) {
  ASSIGN_OR_RETURN(const at::ScalarType dtype, ParseDtype(options.dtype));
  SetComputeThreads(options.threads);
  const LoadOptions load{.dtype = dtype, .deterministic = options.deterministic};
  ASSIGN_OR_RETURN(auto model, PolicyModel::Load(files, options.policy, load));
  std::unique_ptr<PolicyModel> reference;
  if (options.reference || options.loss.kl_coefficient > 0 || options.lora_rank > 0) {
    ASSIGN_OR_RETURN(reference, PolicyModel::Load(files, options.policy, load));
  }
  model->SetRequiresGrad(true);
  model->SetRecomputeLayers(options.recompute_layers);
  return CatchTorch("trainer: making the optimizer's state",
                    [&]() -> absl::StatusOr<std::unique_ptr<TorchTrainer>> {
                      std::unique_ptr<Lora> lora;
                      if (options.lora_rank > 0) {
                        const LoraOptions adapters{options.lora_rank, options.lora_alpha,
                                                   options.lora_targets, options.lora_seed};
                        ASSIGN_OR_RETURN(lora, Lora::Create(adapters, *reference, model.get()));
                      }
                      std::unique_ptr<TorchTrainer> trainer(new TorchTrainer(
                          files, options, std::move(model), std::move(reference), std::move(lora)));
                      RETURN_IF_ERROR(trainer->optimizer_.Synchronize());
                      if (trainer->lora_ != nullptr) trainer->lora_->Merge();
                      return trainer;
                    });
}

TorchTrainer::TorchTrainer(FileSystem& files, const TorchTrainerOptions& options,
                           std::unique_ptr<PolicyModel> model,
                           std::unique_ptr<PolicyModel> reference, std::unique_ptr<Lora> lora)
    : files_(files),
      options_(options),
      model_(std::move(model)),
      reference_(std::move(reference)),
      lora_(std::move(lora)),
      optimizer_(lora_ != nullptr ? lora_->parameters() : model_->parameters(), options.adamw,
                 options.ranks, options.zero_stage) {}

void TorchTrainer::MiniBatchSums::Add(const MiniBatchSums& other) {
  loss.Add(other.loss);
  mismatch.Add(other.mismatch);
  entropy += other.entropy;
  tokens += other.tokens;
}

absl::StatusOr<std::vector<float>> TorchTrainer::LogProbs(PolicyModel& model,
                                                          const PackedMicroBatch& micro) {
  const std::string operation =
      absl::StrCat("log-probs of a micro-batch of ", micro.tokens.size(), " tokens");
  return CatchTorch(operation, [&]() -> absl::StatusOr<std::vector<float>> {
    const at::NoGradGuard no_grad;
    const at::Tensor log_probs = ForwardLogProbs(model, micro).log_prob;
    const absl::Span<const float> span = FloatSpan(log_probs);
    return std::vector<float>(span.begin(), span.end());
  });
}

absl::StatusOr<std::vector<double>> TorchTrainer::SampleKl(const PackedMicroBatch& micro,
                                                           KlEstimator estimator) {
  if (reference_ == nullptr) return Trainer::SampleKl(micro, estimator);
  ASSIGN_OR_RETURN(const std::vector<float> reference, LogProbs(*reference_, micro));
  std::vector<double> sums;
  for (const PackedSample& sample : micro.samples) {
    double sum = 0;
    for (int32_t t = sample.loss_begin; t < sample.loss_end; ++t) {
      const auto i = static_cast<size_t>(t);
      sum += KlEstimate(reference[i], micro.old_log_probs[i], estimator);
    }
    sums.push_back(sum);
  }
  return sums;
}

absl::StatusOr<std::vector<TorchTrainer::ProximalLogProbs>> TorchTrainer::Proximal(
    const PolicyLossOptions& loss, const TrainRequest& request) {
  std::vector<ProximalLogProbs> out(request.mini_batches.size());
  if (loss.off_policy == OffPolicy::kNone) return out;
  for (size_t i = 1; i < request.mini_batches.size(); ++i) {
    for (const PackedMicroBatch& micro : request.mini_batches[i].micro_batches) {
      ASSIGN_OR_RETURN(std::vector<float> log_probs, LogProbs(*model_, micro));
      out[i].push_back(std::move(log_probs));
    }
  }
  return out;
}

absl::Status TorchTrainer::Accumulate(const PackedMicroBatch& micro, const PolicyLossOptions& loss,
                                      const std::vector<float>* proximal, MiniBatchSums& sums) {
  const std::string operation = absl::StrCat("training a micro-batch of ", micro.tokens.size(),
                                             " tokens, ", micro.targets.size(), " of them sampled");
  return CatchTorch(operation, [&] {
    const bool want_entropy = options_.entropy || loss.entropy_coefficient > 0;
    at::Tensor reference;
    if (loss.kl_coefficient > 0 && !loss.kl_in_reward) {
      CRESCENDO_CHECK(reference_ != nullptr);
      const at::NoGradGuard no_grad;
      reference = ForwardLogProbs(*reference_, micro).log_prob;
    }
    const std::vector<LossSample> samples = LossSamples(micro);
    PolicyLossInput input;
    input.old_log_probs = micro.old_log_probs;
    const bool own_proximal = loss.off_policy != OffPolicy::kNone && proximal == nullptr;
    if (proximal != nullptr) input.old_log_probs = *proximal;
    input.behavior_log_probs = micro.old_log_probs;
    if (reference.defined()) input.reference_log_probs = FloatSpan(reference);
    input.samples = samples;
    TokenLogProbs policy;
    if (loss.ratio == RatioKind::kSequence) {
      policy = ForwardLogProbs(*model_, micro, want_entropy);
      input.log_probs = FloatSpan(policy.log_prob);
      if (own_proximal) input.old_log_probs = input.log_probs;
      if (want_entropy) input.entropies = FloatSpan(policy.entropy);
      const PolicyLossResult result = PolicyLoss(input, loss);
      BackwardLogProbs(policy, result.gradient, result.entropy_gradient);
      sums.loss.Add(result.stats);
    } else {
      policy = ForwardAndBackward(*model_, micro, want_entropy, [&](auto... rows) {
        sums.loss.Add(SlopesOfRows(input, loss, own_proximal, rows...));
      });
    }
    const absl::Span<const float> log_probs = FloatSpan(policy.log_prob);
    sums.tokens += static_cast<int64_t>(log_probs.size());
    AddMismatch(micro, log_probs, sums.mismatch);
    if (want_entropy) {
      for (const float entropy : FloatSpan(policy.entropy)) sums.entropy += entropy;
    }
  });
}

absl::Status TorchTrainer::AddProbe(const MiniBatch& mini, MismatchStats& mismatch) {
  for (const PackedMicroBatch& micro : mini.probe) {
    ASSIGN_OR_RETURN(const std::vector<float> log_probs, LogProbs(*model_, micro));
    AddMismatch(micro, log_probs, mismatch);
  }
  return absl::OkStatus();
}

absl::Status TorchTrainer::SumOverRanks(MiniBatchSums& sums, bool& stopped) {
  if (options_.ranks == nullptr) return absl::OkStatus();
  PolicyLossStats& loss = sums.loss;
  std::vector<double> numbers = {loss.loss,
                                 loss.kl_sum,
                                 static_cast<double>(loss.tokens),
                                 static_cast<double>(loss.clipped_low),
                                 static_cast<double>(loss.clipped_high),
                                 static_cast<double>(loss.truncated_weights),
                                 sums.entropy,
                                 static_cast<double>(sums.tokens),
                                 stopped ? 1.0 : 0.0};
  const size_t own = numbers.size();
  const std::vector<double> mismatch = sums.mismatch.Sums();
  numbers.insert(numbers.end(), mismatch.begin(), mismatch.end());
  RETURN_IF_ERROR(options_.ranks->Sum(absl::MakeSpan(numbers), "summing the step's statistics"));
  std::vector<double> largest = {loss.ratio_max, sums.mismatch.max};
  RETURN_IF_ERROR(options_.ranks->Max(absl::MakeSpan(largest), "the step's statistics"));
  loss.loss = numbers[0];
  loss.kl_sum = numbers[1];
  loss.tokens = static_cast<int64_t>(numbers[2]);
  loss.clipped_low = static_cast<int64_t>(numbers[3]);
  loss.clipped_high = static_cast<int64_t>(numbers[4]);
  loss.truncated_weights = static_cast<int64_t>(numbers[5]);
  sums.entropy = numbers[6];
  sums.tokens = static_cast<int64_t>(numbers[7]);
  stopped = numbers[8] > 0;
  sums.mismatch.SetSums({numbers.begin() + static_cast<std::ptrdiff_t>(own), numbers.end()});
  loss.ratio_max = largest[0];
  sums.mismatch.max = largest[1];
  return absl::OkStatus();
}

absl::StatusOr<bool> TorchTrainer::AccumulateAll(const MiniBatch& mini,
                                                 const PolicyLossOptions& loss,
                                                 const ProximalLogProbs& proximal,
                                                 const std::function<bool()>& stop,
                                                 MiniBatchSums& sums) {
  const auto own = static_cast<int64_t>(mini.micro_batches.size());
  ASSIGN_OR_RETURN(const int64_t rounds, optimizer_.Rounds(own));
  if (rounds == 0) optimizer_.AddGradientsOfZero();
  bool stopped = false;
  for (int64_t round = 0; round < rounds; ++round) {
    stopped = stopped || (stop && stop());
    if (stopped && options_.ranks == nullptr) return false;
    if (round < own && !stopped) {
      const auto m = static_cast<size_t>(round);
      RETURN_IF_ERROR(
          Accumulate(mini.micro_batches[m], loss, proximal.empty() ? nullptr : &proximal[m], sums));
    }
    RETURN_IF_ERROR(optimizer_.AfterBackward());
  }
  RETURN_IF_ERROR(SumOverRanks(sums, stopped));
  return !stopped;
}

absl::StatusOr<bool> TorchTrainer::Update(const MiniBatchSums& sums, StepResult& result) {
  return CatchTorch("optimizer step", [&]() -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(const double norm, optimizer_.ReduceGradients());
    if (!std::isfinite(sums.loss.loss) || !std::isfinite(norm)) {
      result.skipped = true;
      return false;
    }
    result.grad_norm = std::max(result.grad_norm, norm);
    RETURN_IF_ERROR(optimizer_.Step(result.learning_rate, GradClipScale(norm, options_.grad_clip)));
    if (lora_ != nullptr) lora_->Merge();
    return true;  // by Adam's momentum also when this mini-batch had no gradient
  });
}

absl::StatusOr<StepResult> TorchTrainer::Train(const TrainRequest& request,
                                               const std::function<bool()>& stop) {
  LrSchedule schedule = options_.schedule;
  schedule.peak = request.learning_rate;
  PolicyLossOptions loss = request.loss.value_or(options_.loss);
  loss.kl_coefficient *= kl_scale_;
  StepResult result;
  result.learning_rate = LearningRateAt(schedule, request.step.value());
  result.kl_coefficient = loss.kl_coefficient;
  ASSIGN_OR_RETURN(const std::vector<ProximalLogProbs> proximal, Proximal(loss, request));
  MiniBatchSums total;
  MismatchStats mismatch;  // of the mini-batches before the first update
  bool updated = false;
  for (size_t i = 0; i < request.mini_batches.size(); ++i) {
    const MiniBatch& mini = request.mini_batches[i];
    MiniBatchSums sums;
    optimizer_.ZeroGrad();
    if (!updated) RETURN_IF_ERROR(AddProbe(mini, sums.mismatch));
    ASSIGN_OR_RETURN(
        const bool finished,
        AccumulateAll(mini, loss, proximal[i], updated ? std::function<bool()>() : stop, sums));
    if (!finished) {
      optimizer_.ZeroGrad();
      return absl::CancelledError(
          absl::StrCat("step ", request.step.value(), " was stopped before its first update"));
    }
    if (!updated) mismatch.Add(sums.mismatch);
    total.Add(sums);
    ASSIGN_OR_RETURN(const bool changed, Update(sums, result));
    updated = updated || changed;
  }
  optimizer_.ZeroGrad();
  const double updates = static_cast<double>(std::max<size_t>(1, request.mini_batches.size()));
  result.loss = total.loss.loss / updates;
  result.kl = loss.kl_in_reward ? request.reward_kl : total.loss.kl_mean();
  result.entropy = total.entropy / static_cast<double>(std::max<int64_t>(1, total.tokens));
  result.clip_ratio = total.loss.clip_ratio();
  result.mismatch_max = mismatch.largest();
  result.mismatch_mean = mismatch.mean();
  result.mismatch_p99 = mismatch.p99();
  result.mismatch_kl = mismatch.kl();
  const bool measured = loss.kl_in_reward || total.loss.tokens > 0;
  if (loss.kl_coefficient > 0 && measured && !result.skipped) {
    kl_scale_ = NextKlScale(kl_scale_, result.kl, loss.kl_target, loss.kl_horizon);
  }
  return result;
}

absl::StatusOr<std::vector<TensorData>> TorchTrainer::ExportWeights() {
  return CatchTorch("exporting the weights", [&]() -> absl::StatusOr<std::vector<TensorData>> {
    if (options_.export_dtype.empty() || options_.export_dtype == options_.dtype) {
      return CopyOf(model_->State());
    }
    ASSIGN_OR_RETURN(const at::ScalarType dtype, ParseDtype(options_.export_dtype));
    std::vector<TensorData> weights;
    for (const NamedTensor& parameter : model_->parameters()) {
      const at::Tensor tensor = parameter.tensor.detach().to(dtype).contiguous();
      weights.push_back(
          {parameter.name, dtype == at::kFloat ? "F32" : "BF16", tensor.sizes().vec(),
           std::string(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes())});
    }
    return weights;
  });
}

absl::StatusOr<TrainerState> TorchTrainer::ExportState() {
  return CatchTorch("exporting the trainer's state", [&]() -> absl::StatusOr<TrainerState> {
    ASSIGN_OR_RETURN(ShardedAdamW::State whole, optimizer_.Export());
    TrainerState state;
    state.weights = std::move(whole.masters);
    state.optimizer = std::move(whole.moments);
    state.extra_json =
        nlohmann::json{{"updates", optimizer_.steps()}, {"kl_scale", kl_scale_}}.dump();
    return state;
  });
}

absl::Status TorchTrainer::ImportState(const TrainerState& state) {
  return CatchTorch("importing the trainer's state", [&]() -> absl::Status {
    TrainerCounters counters;
    const bool own = options_.ranks == nullptr || options_.ranks->rank() == 0;
    if (own) {
      ASSIGN_OR_RETURN(counters, CountersFromJson(state.extra_json));
      RETURN_IF_ERROR(Annotate(optimizer_.Check(ViewOf(state.weights), ViewOf(state.optimizer)),
                               "trainer state"));
    }
    RETURN_IF_ERROR(
        optimizer_.Import(ViewOf(state.weights), ViewOf(state.optimizer), counters.updates));
    if (lora_ != nullptr) lora_->Merge();
    kl_scale_ = counters.kl_scale;
    if (options_.ranks == nullptr) return absl::OkStatus();
    std::vector<double> scale = {own ? kl_scale_ : 0};
    RETURN_IF_ERROR(options_.ranks->Sum(absl::MakeSpan(scale), "giving out the KL's scale"));
    kl_scale_ = scale[0];
    return absl::OkStatus();
  });
}

absl::Status TorchTrainer::SavePolicy(const std::string& folder) {
  RETURN_IF_ERROR(model_->Save(files_, folder));
  if (lora_ != nullptr) {
    RETURN_IF_ERROR(lora_->Save(files_, JoinPath(folder, "adapter"), options_.policy));
  }
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
