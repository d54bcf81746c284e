// The trainer with the operations of a CUDA device: on the CPU it trains what the kernels train,
// whatever the objective; on a device, where there is one, too. Where there is none it says so.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "services/learner/compute_device.h"
#include "services/learner/nccl_backend.h"
#include "services/learner/torch_trainer.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/learner/tiny_policy.h"

namespace crescendo {
namespace {

constexpr int kSteps = 3;

ModelConfig ConfigOf(Architecture architecture, bool tied) {
  ModelConfig config = TinyConfig();
  config.architecture = architecture;
  config.head_dim = 8;  // what flash attention takes
  config.qkv_bias = architecture == Architecture::kQwen2;
  config.qk_norm = architecture == Architecture::kQwen3;
  config.tie_embeddings = tied;
  return config;
}

// The CUDA device, where there is one. Asked before anything of LibTorch is used, which remembers
// whether there was any.
const absl::StatusOr<at::Device>& CudaDevice() {
  static const absl::StatusOr<at::Device> device = FindDevice("cuda", std::nullopt, 0);
  return device;
}

void SavePolicy(TempDir& dir, const ModelConfig& config) {
  (void)CudaDevice();
  SaveTinyPolicy(dir, config);
}

// Two updates a step, several micro-batches each.
TrainRequest RequestOf(int step) {
  CounterRng rng(40 + static_cast<uint64_t>(step));
  std::vector<GroupExperience> groups;
  std::vector<GroupAdvantages> advantages;
  for (int g = 0; g < 4; ++g) {
    GroupExperience group;
    group.group = GroupId(static_cast<uint64_t>(g));
    group.header.prompt_tokens = {1, static_cast<int32_t>(rng.Below(19)), 3};
    group.header.samples = 4;
    for (int s = 0; s < 4; ++s) {
      SampleExperience sample;
      const size_t length = 1 + rng.Below(14);
      for (size_t i = 0; i < length; ++i) {
        sample.tokens.push_back(static_cast<int32_t>(rng.Below(19)));
        sample.log_probs.push_back(static_cast<float>(-3 + 0.3 * rng.Normal()));
      }
      sample.closed = true;
      sample.finish = FinishReason::kStop;
      sample.verdict = s % 2 == 0 ? Verdict::kCorrect : Verdict::kIncorrect;
      sample.reward = s % 2 == 0 ? 1 : 0;
      group.samples.push_back(std::move(sample));
    }
    advantages.push_back(ComputeAdvantages(RewardOptions{}, group));
    groups.push_back(std::move(group));
  }
  PackOptions pack;
  pack.microbatch_tokens = 48;
  pack.minibatches = 2;
  auto mini_batches = PackBatch(pack, groups, advantages);
  REQUIRE(mini_batches.ok());
  TrainRequest request;
  request.step = StepId(static_cast<uint64_t>(step));
  request.learning_rate = 1e-3;
  request.mini_batches = *std::move(mini_batches);
  return request;
}

struct Run {
  std::vector<StepResult> steps;
  std::vector<TensorData> weights;
  TrainerState state;
};

Run Train(TempDir& dir, TorchTrainerOptions options, const TrainerState* from = nullptr) {
  options.policy = dir.path();
  auto trainer = TorchTrainer::Create(*dir.files, options);
  INFO(trainer.status());
  REQUIRE(trainer.ok());
  if (from != nullptr) REQUIRE((*trainer)->ImportState(*from).ok());
  Run run;
  for (int step = 0; step < kSteps; ++step) {
    const auto result = (*trainer)->Train(RequestOf(step), nullptr);
    INFO(result.status());
    REQUIRE(result.ok());
    CHECK_FALSE(result->skipped);
    run.steps.push_back(*result);
  }
  auto weights = (*trainer)->ExportWeights();
  REQUIRE(weights.ok());
  run.weights = *std::move(weights);
  auto state = (*trainer)->ExportState();
  REQUIRE(state.ok());
  run.state = *std::move(state);
  return run;
}

double LargestDifference(const std::vector<TensorData>& a, const std::vector<TensorData>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    REQUIRE(a[i].name == b[i].name);
    REQUIRE(a[i].shape == b[i].shape);
    REQUIRE(a[i].bytes.size() == b[i].bytes.size());
    for (size_t at = 0; a[i].dtype == "F32" && at < a[i].bytes.size(); at += sizeof(float)) {
      float x, y;
      std::memcpy(&x, a[i].bytes.data() + at, sizeof(x));
      std::memcpy(&y, b[i].bytes.data() + at, sizeof(y));
      largest = std::max(largest, std::abs(double{x} - double{y}));
    }
  }
  return largest;
}

void CheckAlike(const Run& found, const Run& expected, double margin) {
  for (int step = 0; step < kSteps; ++step) {
    INFO("step " << step);
    const StepResult &a = found.steps[step], &b = expected.steps[step];
    CHECK(a.loss == Approx(b.loss).margin(margin));
    CHECK(a.kl == Approx(b.kl).margin(margin));
    CHECK(a.entropy == Approx(b.entropy).margin(margin));
    CHECK(a.grad_norm == Approx(b.grad_norm).epsilon(margin));
    CHECK(a.mismatch_mean == Approx(b.mismatch_mean).margin(margin));
    CHECK(a.clip_ratio == Approx(b.clip_ratio).margin(margin));
  }
  CHECK(LargestDifference(found.weights, expected.weights) < margin);
  CHECK(LargestDifference(found.state.weights, expected.state.weights) < margin);
  CHECK(LargestDifference(found.state.optimizer, expected.state.optimizer) < margin);
}

// What a device is compared in: every part of the objective that the backward pass knows.
TorchTrainerOptions Objective(const std::string& name) {
  TorchTrainerOptions options;
  options.loss.kl_coefficient = 0.05;
  options.loss.entropy_coefficient = 0.01;
  options.adamw.weight_decay = 0.01;
  // A step is then no jump where a gradient is nothing but its rounding.
  options.adamw.epsilon = 1e-5;
  options.grad_clip = 0.5;
  if (name == "recompute") options.recompute_layers = -1;
  if (name == "sequence") {
    options.loss.ratio = RatioKind::kSequence;
    options.loss.off_policy = OffPolicy::kTruncated;
    options.loss.importance_cap = 2;
    options.recompute_layers = 1;
  }
  if (name == "lora") {
    options.lora_rank = 4;
    options.lora_targets = "q_proj,v_proj,down_proj";
  }
  return options;
}

TEST_CASE("Steps with the operations of a device are those of the kernels: every architecture") {
  const auto architecture =
      GENERATE(Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3);
  const bool tied = GENERATE(false, true);
  TempDir dir;
  SavePolicy(dir, ConfigOf(architecture, tied));
  TorchTrainerOptions options = Objective("token");
  const Run expected = Train(dir, options);
  options.aten = true;
  CheckAlike(Train(dir, options), expected, 1e-5);
}

TEST_CASE("Steps with the operations of a device are those of the kernels: every pass") {
  const std::string objective = GENERATE("recompute", "sequence", "lora");
  TempDir dir;
  SavePolicy(dir, ConfigOf(Architecture::kQwen2, false));
  TorchTrainerOptions options = Objective(objective);
  const Run expected = Train(dir, options);
  options.aten = true;
  const Run found = Train(dir, options);
  INFO(objective);
  CheckAlike(found, expected, 1e-5);
  // A checkpoint of either goes on with the other.
  const Run here = Train(dir, options, &expected.state);
  options.aten = false;
  CheckAlike(here, Train(dir, options, &found.state), 2e-5);
}

TEST_CASE("With the operations of a device a run has the same bits twice, also from a checkpoint") {
  TempDir dir;
  SavePolicy(dir, ConfigOf(Architecture::kQwen3, true));
  TorchTrainerOptions options = Objective("token");
  options.aten = true;
  const Run first = Train(dir, options), second = Train(dir, options);
  CHECK((first.weights == second.weights));
  CHECK((first.state.optimizer == second.state.optimizer));
  CHECK((Train(dir, options, &first.state).weights == Train(dir, options, &second.state).weights));
}

TEST_CASE("bfloat16 with the operations of a device keeps fp32 masters") {
  TempDir dir;
  SavePolicy(dir, ConfigOf(Architecture::kQwen2, false));
  TorchTrainerOptions options = Objective("token");
  options.dtype = "bfloat16";
  const Run expected = Train(dir, options);
  options.aten = true;
  const Run found = Train(dir, options);
  CHECK(found.steps[0].loss == Approx(expected.steps[0].loss).margin(0.02));
  CHECK(found.steps[0].grad_norm == Approx(expected.steps[0].grad_norm).epsilon(0.1));
  REQUIRE(found.weights[0].dtype == "BF16");
  REQUIRE(found.state.weights[0].dtype == "F32");
  CHECK(LargestDifference(found.state.weights, expected.state.weights) < 0.02);
}

TEST_CASE(
    "A device that is not there is an error that names the key; one that is trains the same") {
  TempDir dir;
  SavePolicy(dir, ConfigOf(Architecture::kQwen2, false));
  TorchTrainerOptions options = Objective("token");
  const auto& device = CudaDevice();
  options.policy = dir.path();
  options.device = "cuda";
  if (!device.ok()) {
    WARN("skipped, no CUDA device is used here: " << device.status());
    CHECK(absl::IsFailedPrecondition(device.status()));
    CHECK(absl::StrContains(device.status().message(),
                            "learner.device: expected a CUDA device, found none"));
    CHECK(TorchTrainer::Create(*dir.files, options).status() == device.status());
    return;
  }
  for (const std::string objective : {"token", "recompute", "sequence", "lora"}) {
    INFO(objective);
    TorchTrainerOptions here = Objective(objective);
    const Run expected = Train(dir, here);
    here.device = "cuda";
    CheckAlike(Train(dir, here), expected, 1e-4);
    here.dtype = "bfloat16";  // flash attention
    const Run flash = Train(dir, here);
    here.device = "cpu";
    const Run narrow = Train(dir, here);
    CHECK(flash.steps[0].loss == Approx(narrow.steps[0].loss).margin(0.02));
    CHECK(flash.steps[0].grad_norm == Approx(narrow.steps[0].grad_norm).epsilon(0.1));
    here.device = "cuda";
    CHECK((Train(dir, here).weights == flash.weights));
  }
}

TEST_CASE("Several ranks on devices without the library of NCCL: an error that names it") {
  const absl::Status status = LoadNccl().status();  // it lies beside the programs, not the tests
  CHECK(absl::IsFailedPrecondition(status));
  CHECK(absl::StrContains(status.message(), "several ranks on CUDA devices need NCCL"));
  CHECK(absl::StrContains(status.message(), "libcrescendo_nccl.so"));
}

TEST_CASE("Deterministic mode, whose bits are the CPU's, does not go with a device") {
  TempDir dir;
  SavePolicy(dir, ConfigOf(Architecture::kQwen2, false));
  TorchTrainerOptions options;
  options.policy = dir.path();
  options.device = "cuda";
  options.deterministic = true;
  const absl::Status status = TorchTrainer::Create(*dir.files, options).status();
  CHECK(absl::IsInvalidArgument(status));
  CHECK(absl::StrContains(status.message(), "learner.device: is \"cuda\", expected \"cpu\""));
}

}  // namespace
}  // namespace crescendo
