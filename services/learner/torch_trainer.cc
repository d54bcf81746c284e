#include "services/learner/torch_trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/torch_guard.h"
#include "services/learner/compute_device.h"
#include "services/learner/kl_control.h"
#include "services/learner/lr_schedule.h"
#include "services/learner/packed_forward.h"
#include "services/learner/rank_group.h"

namespace crescendo {
namespace {

std::vector<LossSample> LossSamples(const PackedMicroBatch& micro) {
  std::vector<LossSample> samples;
  samples.reserve(micro.samples.size());
  for (const PackedSample& sample : micro.samples) {
    samples.push_back({static_cast<size_t>(sample.loss_begin), static_cast<size_t>(sample.loss_end),
                       sample.advantage, sample.token_weight});
  }
  return samples;
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

AdamWOptions AdamWOf(const TorchTrainerOptions& options) {
  AdamWOptions adamw = options.adamw;
  adamw.aten = adamw.aten || options.aten;
  return adamw;
}

// The device of this rank, which its ranks then use together.
absl::StatusOr<at::Device> PlaceOf(const TorchTrainerOptions& options) {
  if (options.device != "cpu" && options.deterministic) {
    return absl::InvalidArgumentError(absl::StrCat(
        "learner.device: is \"", options.device,
        "\", expected \"cpu\" with policy.deterministic, whose bits are those of the CPU"));
  }
  const int rank = options.ranks == nullptr ? 0 : options.ranks->rank();
  ASSIGN_OR_RETURN(const at::Device device, FindDevice(options.device, options.local_rank, rank));
  if (options.ranks != nullptr) RETURN_IF_ERROR(options.ranks->UseDevice(device));
  return device;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TorchTrainer>> TorchTrainer::Create(
    FileSystem& files, const TorchTrainerOptions& options) {
  SetComputeThreads(options.threads);
  ASSIGN_OR_RETURN(const at::Device device, PlaceOf(options));
  Models models;
  ASSIGN_OR_RETURN(models.policy, LoadModel(files, options, device, models.shards));
  if (options.reference || options.loss.kl_coefficient > 0 || options.lora_rank > 0) {
    ASSIGN_OR_RETURN(models.reference, LoadModel(files, options, device, models.reference_shards));
  }
  models.policy->SetRequiresGrad(true);
  models.policy->SetRecomputeLayers(options.recompute_layers);
  return CatchTorch("trainer: making the optimizer's state",
                    [&]() -> absl::StatusOr<std::unique_ptr<TorchTrainer>> {
                      std::unique_ptr<Lora> lora;
                      if (options.lora_rank > 0) {
                        const LoraOptions adapters{options.lora_rank, options.lora_alpha,
                                                   options.lora_targets, options.lora_seed};
                        ASSIGN_OR_RETURN(
                            lora, Lora::Create(adapters, *models.reference, models.policy.get(),
                                               models.reference_shards.get(), models.shards.get()));
                      }
                      std::unique_ptr<TorchTrainer> trainer(
                          new TorchTrainer(files, options, std::move(models), std::move(lora)));
                      RETURN_IF_ERROR(trainer->optimizer_.Synchronize());
                      if (trainer->lora_ != nullptr) trainer->lora_->Merge();
                      return trainer;
                    });
}

TorchTrainer::TorchTrainer(FileSystem& files, const TorchTrainerOptions& options, Models models,
                           std::unique_ptr<Lora> lora)
    : files_(files),
      options_(options),
      shards_(std::move(models.shards)),
      reference_shards_(std::move(models.reference_shards)),
      model_(std::move(models.policy)),
      reference_(std::move(models.reference)),
      lora_(std::move(lora)),
      optimizer_(
          shards_ != nullptr && lora_ == nullptr
              ? ShardedAdamW(model_->parameters(), AdamWOf(options), options.ranks, shards_.get())
              : ShardedAdamW(lora_ != nullptr ? lora_->parameters() : model_->parameters(),
                             AdamWOf(options), options.ranks, std::min(options.zero_stage, 2))) {
  if (shards_ == nullptr || lora_ != nullptr) return;  // adapters: after the pass, as in stage 2
  shards_->SetReduce([this](int unit) { return optimizer_.ReduceUnit(unit); });
}

ShardedParameters* TorchTrainer::ShardsOf(const PolicyModel& model) const {
  return &model == model_.get() ? shards_.get() : reference_shards_.get();
}

absl::Status TorchTrainer::Blame(absl::Status status) const {
  for (const ShardedParameters* shards : {shards_.get(), reference_shards_.get()}) {
    if (!status.ok() && shards != nullptr && !shards->status().ok()) return shards->status();
  }
  return status;
}

absl::Status TorchTrainer::EachPass(PolicyModel& model, size_t own,
                                    const std::function<absl::Status(size_t)>& pass) {
  size_t passes = own;
  if (shards_ != nullptr) {
    ASSIGN_OR_RETURN(passes, optimizer_.Rounds(static_cast<int64_t>(own)));
  }
  for (size_t i = 0; i < passes; ++i) {
    RETURN_IF_ERROR(i < own ? pass(i) : Blame(CatchTorch("a pass of other ranks", [&] {
      ShardsOf(model)->PassForward();
    })));
  }
  return absl::OkStatus();
}

absl::Status TorchTrainer::AccumulateNothing(const PolicyLossOptions& loss) {
  if (shards_ == nullptr) return absl::OkStatus();
  return Blame(CatchTorch("a micro-batch of other ranks", [&] {
    if (loss.kl_coefficient > 0 && !loss.kl_in_reward) reference_shards_->PassForward();
    // As Accumulate holds it.
    const bool sequence = loss.ratio == RatioKind::kSequence;
    const WeightUse head(sequence ? shards_.get() : nullptr, model_->HeadUnit());
    shards_->PassForward();
    shards_->PassBackward();
  }));
}

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
  std::vector<float> values;
  RETURN_IF_ERROR(Blame(CatchTorch(operation, [&] {
    const at::NoGradGuard no_grad;
    const at::Tensor log_probs = ForwardLogProbs(model, micro).log_prob;
    const absl::Span<const float> span = FloatSpan(log_probs);
    values.assign(span.begin(), span.end());
  })));
  return values;
}

absl::StatusOr<std::vector<double>> TorchTrainer::SampleKl(const PackedMicroBatch& micro,
                                                           KlEstimator estimator) {
  if (reference_ == nullptr) return Trainer::SampleKl(micro, estimator);
  PhaseTimer timer(options_.clock);
  std::vector<float> reference;
  const size_t own = options_.ranks == nullptr || options_.ranks->rank() == 0 ? 1 : 0;
  RETURN_IF_ERROR(EachPass(*reference_, own, [&](size_t) -> absl::Status {
    ASSIGN_OR_RETURN(reference, LogProbs(*reference_, micro));
    return absl::OkStatus();
  }));
  std::vector<double> sums;
  for (const PackedSample& sample : micro.samples) {
    double sum = 0;
    for (int32_t t = sample.loss_begin; t < sample.loss_end; ++t) {
      const auto i = static_cast<size_t>(t);
      sum += KlEstimate(reference[i], micro.old_log_probs[i], estimator);
    }
    sums.push_back(sum);
  }
  timer.AddTo(phases_.forward);
  return sums;
}

absl::StatusOr<std::vector<TorchTrainer::ProximalLogProbs>> TorchTrainer::Proximal(
    const PolicyLossOptions& loss, const TrainRequest& request) {
  std::vector<ProximalLogProbs> out(request.mini_batches.size());
  if (loss.off_policy == OffPolicy::kNone) return out;
  PhaseTimer timer(options_.clock);
  for (size_t i = 1; i < request.mini_batches.size(); ++i) {
    const std::vector<PackedMicroBatch>& micros = request.mini_batches[i].micro_batches;
    RETURN_IF_ERROR(EachPass(*model_, micros.size(), [&](size_t m) -> absl::Status {
      ASSIGN_OR_RETURN(out[i].emplace_back(), LogProbs(*model_, micros[m]));
      return absl::OkStatus();
    }));
  }
  timer.AddTo(phases_.forward);
  return out;
}

absl::Status TorchTrainer::Accumulate(const PackedMicroBatch& micro, const PolicyLossOptions& loss,
                                      const std::vector<float>* proximal, MiniBatchSums& sums) {
  const std::string operation = absl::StrCat("training a micro-batch of ", micro.tokens.size(),
                                             " tokens, ", micro.targets.size(), " of them sampled");
  PhaseTimer timer(options_.clock);
  return Blame(CatchTorch(operation, [&] {
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
      const WeightUse head(model_->weight_watcher(), model_->HeadUnit());  // its graph keeps it
      policy = ForwardLogProbs(*model_, micro, want_entropy);
      input.log_probs = FloatSpan(policy.log_prob);
      if (own_proximal) input.old_log_probs = input.log_probs;
      if (want_entropy) input.entropies = FloatSpan(policy.entropy);
      const PolicyLossResult result = PolicyLoss(input, loss);
      timer.AddTo(phases_.forward);
      BackwardLogProbs(policy, result.gradient, result.entropy_gradient);
      sums.loss.Add(result.stats);
    } else {
      policy = ForwardAndBackward(
          *model_, micro, want_entropy,
          [&](auto... rows) { sums.loss.Add(SlopesOfRows(input, loss, own_proximal, rows...)); },
          [&] { timer.AddTo(phases_.forward); });
    }
    WaitForDevice(model_->device());
    timer.AddTo(phases_.backward);
    const absl::Span<const float> log_probs = FloatSpan(policy.log_prob);
    sums.tokens += static_cast<int64_t>(log_probs.size());
    AddMismatch(micro, log_probs, sums.mismatch);
    if (want_entropy) {
      for (const float entropy : FloatSpan(policy.entropy)) sums.entropy += entropy;
    }
  }));
}

absl::Status TorchTrainer::AddProbe(const MiniBatch& mini, MismatchStats& mismatch) {
  PhaseTimer timer(options_.clock);
  RETURN_IF_ERROR(EachPass(*model_, mini.probe.size(), [&](size_t m) -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<float> log_probs, LogProbs(*model_, mini.probe[m]));
    AddMismatch(mini.probe[m], log_probs, mismatch);
    return absl::OkStatus();
  }));
  timer.AddTo(phases_.forward);
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
    } else {
      RETURN_IF_ERROR(AccumulateNothing(loss));
    }
    PhaseTimer timer(options_.clock);
    RETURN_IF_ERROR(optimizer_.AfterBackward());
    timer.AddTo(phases_.backward);
  }
  PhaseTimer timer(options_.clock);
  RETURN_IF_ERROR(SumOverRanks(sums, stopped));
  timer.AddTo(phases_.backward);
  return !stopped;
}

absl::StatusOr<bool> TorchTrainer::Update(const MiniBatchSums& sums, StepResult& result) {
  PhaseTimer timer(options_.clock);
  return CatchTorch("optimizer step", [&]() -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(const double norm, optimizer_.ReduceGradients());
    if (!std::isfinite(sums.loss.loss) || !std::isfinite(norm)) {
      result.skipped = true;
      return false;
    }
    result.grad_norm = std::max(result.grad_norm, norm);
    RETURN_IF_ERROR(optimizer_.Step(result.learning_rate, GradClipScale(norm, options_.grad_clip)));
    if (lora_ != nullptr) lora_->Merge();
    WaitForDevice(model_->device());
    timer.AddTo(phases_.optimizer);
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
  result.phases = std::exchange(phases_, {});
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

absl::StatusOr<std::unique_ptr<Trainer>> MakeTorchTrainer(FileSystem& files,
                                                          const TorchTrainerOptions& options) {
  return TorchTrainer::Create(files, options);
}

int TorchTrainer::vocabulary_size() const { return static_cast<int>(model_->config().vocab_size); }

}  // namespace crescendo
