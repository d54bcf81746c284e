// The trainer on LibTorch: packing changes nothing, gradients are those of the loss, state goes out
// and in bit by bit, and an update that is not finite leaves everything as it was.
#include "services/learner/torch_trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "services/learner/packed_forward.h"
#include "tests/support/step_clock.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/learner/tiny_policy.h"

namespace crescendo {
namespace {

std::unique_ptr<TorchTrainer> MakeTestTrainer(TempDir& dir, TorchTrainerOptions options = {}) {
  options.policy = dir.path();
  auto trainer = TorchTrainer::Create(*dir.files, options);
  INFO(trainer.status());
  REQUIRE(trainer.ok());
  return std::move(trainer).value();
}

// Groups of random tokens whose old log-probs are near the policy's own only by chance.
std::vector<GroupExperience> MakeGroups(uint64_t seed, int groups) {
  CounterRng rng(seed);
  std::vector<GroupExperience> out;
  for (int g = 0; g < groups; ++g) {
    GroupExperience group;
    group.group = GroupId(static_cast<uint64_t>(g));
    const size_t prompt = 2 + rng.Below(5);
    for (size_t i = 0; i < prompt; ++i) {
      group.header.prompt_tokens.push_back(static_cast<int32_t>(rng.Below(19)));
    }
    group.header.samples = 4;
    for (int s = 0; s < 4; ++s) {
      SampleExperience sample;
      const size_t length = 1 + rng.Below(12);
      for (size_t i = 0; i < length; ++i) {
        sample.tokens.push_back(static_cast<int32_t>(rng.Below(19)));
        sample.log_probs.push_back(static_cast<float>(-3 + 0.5 * rng.Normal()));
      }
      sample.closed = true;
      sample.finish = FinishReason::kStop;
      sample.verdict = s % 2 == 0 ? Verdict::kCorrect : Verdict::kIncorrect;
      sample.reward = s % 2 == 0 ? 1 : 0;
      group.samples.push_back(std::move(sample));
    }
    out.push_back(std::move(group));
  }
  return out;
}

TrainRequest MakeRequest(const std::vector<GroupExperience>& groups, int microbatch_tokens,
                         int minibatches = 1) {
  std::vector<GroupAdvantages> advantages;
  for (const GroupExperience& group : groups) {
    advantages.push_back(ComputeAdvantages(RewardOptions{}, group));
  }
  PackOptions pack;
  pack.microbatch_tokens = microbatch_tokens;
  pack.minibatches = minibatches;
  auto mini_batches = PackBatch(pack, groups, advantages);
  REQUIRE(mini_batches.ok());
  TrainRequest request;
  request.step = StepId(0);
  request.learning_rate = 1e-3;
  request.mini_batches = *std::move(mini_batches);
  return request;
}

StepResult MustTrain(Trainer& trainer, const TrainRequest& request) {
  const auto result = trainer.Train(request, nullptr);
  INFO(result.status());
  REQUIRE(result.ok());
  return *result;
}

std::vector<float> AllWeights(PolicyModel& model) {
  std::vector<float> all;
  for (const NamedTensor& parameter : model.parameters()) {
    const at::Tensor flat = parameter.tensor.detach().contiguous();
    all.insert(all.end(), flat.const_data_ptr<float>(),
               flat.const_data_ptr<float>() + flat.numel());
  }
  return all;
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(double{a[i]} - double{b[i]}));
  }
  return largest;
}

TEST_CASE("A step does not depend on how its samples are packed") {
  TempDir dir;
  SaveTinyPolicy(dir);
  const std::vector<GroupExperience> groups = MakeGroups(1, 6);
  auto whole = MakeTestTrainer(dir);
  auto parts = MakeTestTrainer(dir);
  const TrainRequest one = MakeRequest(groups, 4096);
  const TrainRequest many = MakeRequest(groups, 24);
  REQUIRE(one.mini_batches[0].micro_batches.size() == 1);
  REQUIRE(many.mini_batches[0].micro_batches.size() > 4);
  const StepResult a = MustTrain(*whole, one);
  const StepResult b = MustTrain(*parts, many);
  CHECK(a.loss == Approx(b.loss).margin(1e-6));
  CHECK(a.grad_norm == Approx(b.grad_norm).epsilon(1e-4));
  CHECK(a.entropy == Approx(b.entropy).epsilon(1e-5));
  CHECK(a.mismatch_max == Approx(b.mismatch_max).epsilon(1e-4));
  CHECK(a.clip_ratio == Approx(b.clip_ratio));
  CHECK(a.grad_norm > 0);
  // Adam's first step is +-learning rate wherever the gradient is well away from 0.
  CHECK(LargestDifference(AllWeights(whole->model()), AllWeights(parts->model())) < 2.5e-4);
}

// The loss of one micro-batch as a number.
double LossOf(PolicyModel& model, const PackedMicroBatch& micro, const PolicyLossOptions& options) {
  const at::NoGradGuard no_grad;
  const TokenLogProbs outputs = ForwardLogProbs(model, micro, true);
  std::vector<LossSample> samples;
  for (const PackedSample& s : micro.samples) {
    samples.push_back({static_cast<size_t>(s.loss_begin), static_cast<size_t>(s.loss_end),
                       s.advantage, s.token_weight});
  }
  PolicyLossInput input;
  input.log_probs = FloatSpan(outputs.log_prob);
  input.entropies = FloatSpan(outputs.entropy);
  input.old_log_probs = micro.old_log_probs;
  input.samples = samples;
  return PolicyLoss(input, options).stats.loss;
}

TEST_CASE("Gradients of the loss by weights pass finite differences along random directions") {
  TempDir dir;
  SaveTinyPolicy(dir);
  auto model = PolicyModel::Load(*dir.files, dir.path());
  REQUIRE(model.ok());
  PolicyModel& policy = **model;
  policy.SetRequiresGrad(true);
  const TrainRequest request = MakeRequest(MakeGroups(2, 3), 4096);
  const PackedMicroBatch& micro = request.mini_batches[0].micro_batches[0];
  const TokenLogProbs forward = ForwardLogProbs(policy, micro, true);
  std::vector<LossSample> samples;
  for (const PackedSample& s : micro.samples) {
    samples.push_back({static_cast<size_t>(s.loss_begin), static_cast<size_t>(s.loss_end),
                       s.advantage, s.token_weight});
  }
  PolicyLossInput input;
  input.log_probs = FloatSpan(forward.log_prob);
  input.entropies = FloatSpan(forward.entropy);
  input.old_log_probs = micro.old_log_probs;
  input.samples = samples;
  PolicyLossOptions options;
  options.clip_low = options.clip_high = 1e9;  // smooth
  options.entropy_coefficient = GENERATE(0.0, 0.7);
  const PolicyLossResult result = PolicyLoss(input, options);
  BackwardLogProbs(forward, result.gradient, result.entropy_gradient);
  CounterRng rng(3);
  for (const NamedTensor& parameter : policy.parameters()) {
    INFO(parameter.name);
    REQUIRE(parameter.tensor.grad().defined());
    const at::NoGradGuard no_grad;
    at::Tensor direction = at::empty_like(parameter.tensor.detach());
    float* data = direction.data_ptr<float>();
    for (int64_t i = 0; i < direction.numel(); ++i) data[i] = static_cast<float>(rng.Normal());
    direction.div_(direction.norm());
    const double h = 2e-3;
    const at::Tensor kept = parameter.tensor.detach().clone();
    const at::Tensor weight = parameter.tensor.detach();
    weight.add_(direction, h);
    const double above = LossOf(policy, micro, options);
    weight.copy_(kept).sub_(direction, h);
    const double below = LossOf(policy, micro, options);
    weight.copy_(kept);
    const double slope = (parameter.tensor.grad() * direction).sum().item<double>();
    CHECK((above - below) / (2 * h) == Approx(slope).epsilon(0.02).margin(3e-4));
  }
}

TEST_CASE("Export and import continue bit by bit") {
  TempDir dir;
  SaveTinyPolicy(dir);
  auto first = MakeTestTrainer(dir);
  MustTrain(*first, MakeRequest(MakeGroups(4, 4), 64, 2));
  const auto state = first->ExportState();
  REQUIRE(state.ok());
  auto second = MakeTestTrainer(dir);
  REQUIRE(second->ImportState(*state).ok());
  const TrainRequest next = MakeRequest(MakeGroups(5, 4), 64, 2);
  MustTrain(*first, next);
  MustTrain(*second, next);
  CHECK(AllWeights(first->model()) == AllWeights(second->model()));
  const auto a = first->ExportState();
  const auto b = second->ExportState();
  REQUIRE(a.ok());
  REQUIRE(b.ok());
  CHECK((a->weights == b->weights));
  CHECK((a->optimizer == b->optimizer));
  CHECK(a->extra_json == b->extra_json);
}

TEST_CASE("A state that does not fit is refused before anything changes") {
  TempDir dir;
  SaveTinyPolicy(dir);
  auto trainer = MakeTestTrainer(dir);
  auto state = trainer->ExportState();
  REQUIRE(state.ok());
  for (TensorData& weight : state->weights) std::fill(weight.bytes.begin(), weight.bytes.end(), 0);
  SECTION("a weight is missing") { state->weights.pop_back(); }
  SECTION("a moment is missing") { state->optimizer.pop_back(); }
  SECTION("a weight is cut") { state->weights[0].bytes.pop_back(); }
  SECTION("a weight is bf16") { state->weights[0].dtype = "BF16"; }
  SECTION("no update count") { state->extra_json = "{}"; }
  SECTION("not JSON") { state->extra_json = "{"; }
  const std::vector<float> before = AllWeights(trainer->model());
  CHECK(trainer->ImportState(*state).code() == absl::StatusCode::kInvalidArgument);
  CHECK(AllWeights(trainer->model()) == before);
}

TEST_CASE("An update that is not finite is skipped and said") {
  TempDir dir;
  SaveTinyPolicy(dir);
  auto trainer = MakeTestTrainer(dir);
  TrainRequest request = MakeRequest(MakeGroups(6, 3), 4096);
  request.mini_batches[0].micro_batches[0].samples[0].advantage =
      std::numeric_limits<double>::quiet_NaN();
  const auto before = trainer->ExportState();
  const StepResult result = MustTrain(*trainer, request);
  CHECK(result.skipped);
  const auto after = trainer->ExportState();
  REQUIRE(before.ok());
  REQUIRE(after.ok());
  CHECK((after->weights == before->weights));
  CHECK((after->optimizer == before->optimizer));
  CHECK(after->extra_json == before->extra_json);
  CHECK(!MustTrain(*trainer, MakeRequest(MakeGroups(6, 3), 4096)).skipped);
}

TEST_CASE("Asked to stop before the first update, the trainer is as before") {
  TempDir dir;
  SaveTinyPolicy(dir);
  auto trainer = MakeTestTrainer(dir);
  const std::vector<float> before = AllWeights(trainer->model());
  const TrainRequest request = MakeRequest(MakeGroups(7, 4), 24);
  int polls = 0;
  const auto result = trainer->Train(request, [&] { return ++polls == 3; });
  CHECK(result.status().code() == absl::StatusCode::kCancelled);
  CHECK(AllWeights(trainer->model()) == before);
  auto fresh = MakeTestTrainer(dir);
  MustTrain(*trainer, request);
  MustTrain(*fresh, request);
  CHECK(AllWeights(trainer->model()) == AllWeights(fresh->model()));
}

TEST_CASE("Warm-up scales the plan's rate, and an empty mini-batch is an update of gradient 0") {
  TempDir dir;
  SaveTinyPolicy(dir);
  TorchTrainerOptions options;
  options.schedule.warmup_steps = 4;
  options.adamw.weight_decay = 0;
  auto trainer = MakeTestTrainer(dir, options);
  TrainRequest request;
  request.step = StepId(1);
  request.learning_rate = 1e-2;
  request.mini_batches.resize(2);
  const std::vector<float> before = AllWeights(trainer->model());
  const StepResult result = MustTrain(*trainer, request);
  CHECK(result.learning_rate == Approx(5e-3));
  CHECK(result.loss == 0);
  CHECK(result.grad_norm == 0);
  CHECK(AllWeights(trainer->model()) == before);
  const auto state = trainer->ExportState();
  REQUIRE(state.ok());
  CHECK(nlohmann::json::parse(state->extra_json)["updates"] == 2);
}

TEST_CASE("A step says how long its phases took, and nothing without a clock") {
  StepClock clock;
  TempDir dir;
  SaveTinyPolicy(dir);
  TorchTrainerOptions options;
  options.clock = &clock;
  const std::vector<GroupExperience> groups = MakeGroups(3, 2);
  TrainRequest request = MakeRequest(groups, 1 << 20);  // one micro-batch
  for (const bool by_sequence : {false, true}) {
    auto trainer = MakeTestTrainer(dir, options);
    request.loss = PolicyLossOptions();
    request.loss->ratio = by_sequence ? RatioKind::kSequence : RatioKind::kToken;
    const StepPhases phases = MustTrain(*trainer, request).phases;
    // Every look at the clock takes a second: the forward pass and the probe; the backward pass and
    // the two sums over ranks; the update.
    CHECK(phases.forward == 2);
    CHECK(phases.backward == 3);
    CHECK(phases.optimizer == 1);
    CHECK(MustTrain(*trainer, request).phases.optimizer == 1);  // of this step alone
  }
  const StepPhases none = MustTrain(*MakeTestTrainer(dir), request).phases;
  CHECK(none.forward + none.backward + none.optimizer == 0);
}

TEST_CASE("The KL to the reference is 0 at first, grows, and is not there without a coefficient") {
  TempDir dir;
  SaveTinyPolicy(dir);
  TorchTrainerOptions options;
  options.loss.kl_coefficient = 0.1;
  auto trainer = MakeTestTrainer(dir, options);
  const TrainRequest request = MakeRequest(MakeGroups(8, 4), 4096);
  CHECK(MustTrain(*trainer, request).kl == Approx(0).margin(1e-7));
  CHECK(MustTrain(*trainer, request).kl > 1e-6);
  auto without = MakeTestTrainer(dir);
  MustTrain(*without, request);
  CHECK(MustTrain(*without, request).kl == 0);
}

TEST_CASE(
    "Importance weights against the step's first weights: without a cap the plain ratio's slope") {
  TempDir dir;
  SaveTinyPolicy(dir);
  const TrainRequest request = MakeRequest(MakeGroups(12, 4), 4096);
  TorchTrainerOptions options;
  options.loss.clip_low = options.loss.clip_high = 1e9;
  const StepResult plain = MustTrain(*MakeTestTrainer(dir, options), request);
  options.loss.off_policy = OffPolicy::kTruncated;
  options.loss.importance_cap = 1e8;
  const StepResult weighted = MustTrain(*MakeTestTrainer(dir, options), request);
  CHECK(weighted.loss == Approx(plain.loss).epsilon(1e-5));
  CHECK(weighted.grad_norm == Approx(plain.grad_norm).epsilon(1e-4));
  CHECK(weighted.mismatch_max == plain.mismatch_max);
  // Clipped to nothing around the proximal policy, the first update is still the whole gradient.
  options.loss.clip_low = options.loss.clip_high = 1e-3;
  CHECK(MustTrain(*MakeTestTrainer(dir, options), request).clip_ratio == 0);
  options.loss.importance_cap = 0.1;
  CHECK(MustTrain(*MakeTestTrainer(dir, options), request).grad_norm < 0.5 * plain.grad_norm);
}

TEST_CASE("The first mini-batch's proximal policy is its own; the next one's, that of the begin") {
  TempDir dir;
  SaveTinyPolicy(dir);
  TorchTrainerOptions options;
  options.loss.off_policy = OffPolicy::kDecoupled;
  options.loss.clip_low = options.loss.clip_high = 1e-7;
  auto trainer = MakeTestTrainer(dir, options);
  TrainRequest request = MakeRequest(MakeGroups(12, 4), 4096, 2);
  // Every ratio of the first is 1; after an update hardly one of the second is.
  const StepResult result = MustTrain(*trainer, request);
  CHECK(result.clip_ratio > 0.1);
  CHECK(result.clip_ratio < 0.6);
  request.mini_batches.pop_back();
  CHECK(MustTrain(*trainer, request).clip_ratio == 0);
}

TEST_CASE("An adaptive KL coefficient follows the measured KL and goes on from a checkpoint") {
  TempDir dir;
  SaveTinyPolicy(dir);
  TorchTrainerOptions options;
  options.loss.kl_coefficient = 0.5;
  options.loss.kl_target = 1e-9;
  options.loss.kl_horizon = 2;
  auto trainer = MakeTestTrainer(dir, options);
  const TrainRequest request = MakeRequest(MakeGroups(8, 4), 4096);
  const StepResult first = MustTrain(*trainer, request);  // KL 0, as far as rounding goes
  CHECK(first.kl_coefficient == 0.5);
  const double scale = trainer->kl_scale();
  const StepResult second = MustTrain(*trainer, request);
  CHECK(second.kl_coefficient == 0.5 * scale);
  CHECK(trainer->kl_scale() == Approx(scale * 1.1));
  const auto state = trainer->ExportState();
  REQUIRE(state.ok());
  auto resumed = MakeTestTrainer(dir, options);
  REQUIRE(resumed->ImportState(*state).ok());
  CHECK(resumed->kl_scale() == trainer->kl_scale());
  TrainerState old = *state;
  old.extra_json = R"({"updates":2})";
  REQUIRE(resumed->ImportState(old).ok());
  CHECK(resumed->kl_scale() == 1);
  old.extra_json = R"({"updates":2,"kl_scale":-1})";
  CHECK(resumed->ImportState(old).code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("The KL of a sample for its reward is the sum of the estimates at what was sampled") {
  TempDir dir;
  SaveTinyPolicy(dir);
  TorchTrainerOptions options;
  options.reference = true;
  auto trainer = MakeTestTrainer(dir, options);
  const PackedMicroBatch micro =
      MakeRequest(MakeGroups(3, 2), 4096).mini_batches[0].micro_batches[0];
  const auto kl = trainer->SampleKl(micro, KlEstimator::kK1);
  REQUIRE(kl.ok());
  const at::NoGradGuard no_grad;
  const at::Tensor reference = ForwardLogProbs(trainer->model(), micro).log_prob;
  REQUIRE(kl->size() == micro.samples.size());
  for (size_t i = 0; i < kl->size(); ++i) {
    double sum = 0;
    for (int32_t t = micro.samples[i].loss_begin; t < micro.samples[i].loss_end; ++t) {
      sum += double{micro.old_log_probs[t]} - double{FloatSpan(reference)[t]};
    }
    CHECK((*kl)[i] == Approx(sum));
  }
  CHECK(MakeTestTrainer(dir)->SampleKl(micro, KlEstimator::kK1).status().code() ==
        absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("A step without anything to train measures its mismatch on a probe, or tells none") {
  TempDir dir;
  SaveTinyPolicy(dir);
  auto trainer = MakeTestTrainer(dir);
  std::vector<GroupExperience> groups = MakeGroups(4, 3);
  for (GroupExperience& group : groups) {
    for (SampleExperience& sample : group.samples) sample.reward = 1;
  }
  const StepResult result = MustTrain(*trainer, MakeRequest(groups, 4096));
  CHECK(result.grad_norm == 0);
  CHECK(result.mismatch_max > 0.1);  // the fixture's log-probs are not the policy's
  CHECK(result.mismatch_mean > 0);
  CHECK(result.mismatch_p99 > result.mismatch_mean);
  CHECK(result.mismatch_kl > 0);
  TrainRequest nothing;
  nothing.mini_batches.resize(1);
  CHECK(std::isnan(MustTrain(*trainer, nothing).mismatch_max));
}

TEST_CASE("bfloat16 trains on fp32 masters and exports bfloat16 weights") {
  TempDir dir;
  SaveTinyPolicy(dir);
  TorchTrainerOptions options;
  options.dtype = "bfloat16";
  auto trainer = MakeTestTrainer(dir, options);
  auto exact = MakeTestTrainer(dir);
  const TrainRequest request = MakeRequest(MakeGroups(9, 6), 4096);
  const StepResult rounded = MustTrain(*trainer, request);
  const StepResult wide = MustTrain(*exact, request);
  CHECK(rounded.loss == Approx(wide.loss).margin(0.05));
  CHECK(rounded.grad_norm == Approx(wide.grad_norm).epsilon(0.1));
  const auto weights = trainer->ExportWeights();
  REQUIRE(weights.ok());
  CHECK((*weights)[0].dtype == "BF16");
  const auto state = trainer->ExportState();
  REQUIRE(state.ok());
  CHECK(state->weights[0].dtype == "F32");
  REQUIRE(trainer->ImportState(*state).ok());
  const auto again = trainer->ExportState();
  REQUIRE(again.ok());
  CHECK((again->weights == state->weights));
}

TEST_CASE("Weights go out in the model's order, and a saved policy loads again") {
  TempDir dir;
  SaveTinyPolicy(dir);
  REQUIRE(dir.files->WriteFile(dir / "tokenizer.json", "{}").ok());
  auto trainer = MakeTestTrainer(dir);
  MustTrain(*trainer, MakeRequest(MakeGroups(10, 4), 4096));
  const auto weights = trainer->ExportWeights();
  REQUIRE(weights.ok());
  REQUIRE(weights->size() == trainer->model().parameters().size());
  for (size_t i = 0; i < weights->size(); ++i) {
    CHECK((*weights)[i].name == trainer->model().parameters()[i].name);
  }
  REQUIRE(trainer->SavePolicy(dir / "out").ok());
  CHECK(dir.files->Exists(dir / "out/tokenizer.json"));
  auto model = PolicyModel::Load(*dir.files, dir / "out");
  REQUIRE(model.ok());
  CHECK(AllWeights(**model) == AllWeights(trainer->model()));
  CHECK(trainer->vocabulary_size() == 19);
}

}  // namespace
}  // namespace crescendo
