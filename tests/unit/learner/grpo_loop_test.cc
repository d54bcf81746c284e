// Learning itself, in one process: the demo's base policy, the real trainer, and a rollout without
// services. The bounds are those that the recipe's prototypes measured (five seeds).
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/os/posix_env.h"
#include "services/learner/advantage.h"
#include "services/learner/batch_packer.h"
#include "services/learner/torch_trainer.h"
#include "tests/unit/learner/local_rollout.h"

namespace crescendo {
namespace {

constexpr char kBase[] = "deploy/recipes/demo-base";
constexpr int kGroupSamples = 8;

struct Lab {
  std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<DemoProblem> train, held_out;
  std::unique_ptr<TorchTrainer> trainer;
};

template <typename T>
T Take(absl::StatusOr<T> value) {
  INFO(value.status());
  REQUIRE(value.ok());
  return std::move(value).value();
}

Lab MakeLab(const std::string& policy) {
  Lab lab;
  lab.tokenizer = Take(Tokenizer::FromHuggingFace(*lab.files, policy));
  lab.train = Take(ReadDemoProblems(*lab.files, *lab.tokenizer, "deploy/recipes/demo-train.jsonl"));
  lab.held_out =
      Take(ReadDemoProblems(*lab.files, *lab.tokenizer, "deploy/recipes/demo-eval.jsonl"));
  TorchTrainerOptions options;
  options.policy = policy;
  options.adamw = {.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0};
  lab.trainer = Take(TorchTrainer::Create(*lab.files, options));
  return lab;
}

struct LoopOptions {
  int groups_per_step = 8;
  int steps = 20;
  std::vector<int> limits = {48, 96, 144};
  std::vector<int> switches = {10, 15};  // steps at which the next limit begins
  bool random_reward = false;
  uint64_t seed = 1;
};

struct LoopResult {
  int64_t generated_tokens = 0;
  double mismatch_max = 0;
};

GroupExperience MakeGroup(const Lab& lab, const DemoProblem& problem, GroupId id,
                          const Completion* completions) {
  GroupExperience group;
  group.group = id;
  group.header.prompt_tokens = problem.prompt;
  group.header.samples = kGroupSamples;
  for (int s = 0; s < kGroupSamples; ++s) {
    const Completion& completion = completions[s];
    SampleExperience sample;
    sample.tokens = completion.tokens;
    sample.log_probs = completion.log_probs;
    sample.closed = true;
    sample.finish = completion.truncated ? FinishReason::kTruncated : FinishReason::kStop;
    const bool correct = IsCorrect(*lab.tokenizer, completion, problem.answer);
    sample.verdict = correct ? Verdict::kCorrect : Verdict::kIncorrect;
    sample.reward = correct ? 1 : 0;
    group.samples.push_back(std::move(sample));
  }
  return group;
}

void Step(Lab& lab, const LoopOptions& options, int step, int limit, LoopResult& result) {
  const int groups = options.groups_per_step;
  RolloutOptions rollout;
  rollout.context_tokens = limit;
  rollout.seed = options.seed;
  rollout.first_group = static_cast<uint64_t>(step) * groups;
  rollout.samples = kGroupSamples;
  std::vector<const DemoProblem*> problems;
  std::vector<std::vector<int32_t>> prompts;
  CounterRng rng(options.seed, 77 + static_cast<uint64_t>(step));
  for (int g = 0; g < groups; ++g) {
    problems.push_back(&lab.train[rng.Below(lab.train.size())]);
    prompts.push_back(problems.back()->prompt);
  }
  const std::vector<Completion> completions = Take(Rollout(lab.trainer->model(), prompts, rollout));
  std::vector<GroupExperience> batch;
  std::vector<GroupAdvantages> advantages;
  RewardOptions reward;
  reward.random_reward = options.random_reward;
  reward.seed = options.seed;
  for (int g = 0; g < groups; ++g) {
    batch.push_back(MakeGroup(lab, *problems[g], GroupId(rollout.first_group + g),
                              &completions[static_cast<size_t>(g) * kGroupSamples]));
    advantages.push_back(ComputeAdvantages(reward, batch.back()));
  }
  for (const Completion& completion : completions) {
    result.generated_tokens += static_cast<int64_t>(completion.tokens.size());
  }
  PackOptions pack;
  pack.minibatches = 2;
  pack.microbatch_tokens = 8192;
  TrainRequest request;
  request.step = StepId(step);
  request.learning_rate = 3e-4;
  request.mini_batches = Take(PackBatch(pack, batch, advantages));
  const StepResult trained = Take(lab.trainer->Train(request, nullptr));
  CHECK(!trained.skipped);
  result.mismatch_max = std::max(result.mismatch_max, trained.mismatch_max);
}

Evaluation EvaluateHeldOut(Lab& lab, int limit, double temperature, int samples = 1) {
  RolloutOptions options;
  options.samples = samples;
  options.context_tokens = limit;
  options.temperature = temperature;
  options.seed = 4242;
  return Take(Evaluate(lab.trainer->model(), *lab.tokenizer, lab.held_out, options));
}

std::string Line(const Evaluation& e) {
  return absl::StrFormat("pass@1 %.3f, tokens %.1f (right %.1f, wrong %.1f), truncated %.3f",
                         e.pass, e.tokens, e.tokens_right, e.tokens_wrong, e.truncated);
}

LoopResult RunLoop(Lab& lab, const LoopOptions& options) {
  LoopResult result;
  size_t stage = 0;
  for (int step = 0; step < options.steps; ++step) {
    if (stage < options.switches.size() && step == options.switches[stage]) ++stage;
    Step(lab, options, step, options.limits[stage], result);
  }
  return result;
}

bool HaveBase(const Lab& lab) {
  return lab.files->Exists(std::string(kBase) + "/model.safetensors");
}

TEST_CASE("20 steps of GRPO on the demo's base raise held-out pass@1 by a quarter") {
  Lab lab = MakeLab(kBase);
  REQUIRE(HaveBase(lab));
  const Evaluation base = EvaluateHeldOut(lab, 144, 1);
  INFO("base: " << Line(base));
  CHECK(base.pass >= 0.30);
  CHECK(base.pass <= 0.45);
  CHECK(base.truncated >= 0.30);
  CHECK(base.truncated <= 0.50);
  CHECK(base.tokens >= 85);
  CHECK(base.tokens <= 115);
  const LoopResult result = RunLoop(lab, {});
  const Evaluation after = EvaluateHeldOut(lab, 144, 1);
  INFO("after: " << Line(after) << ", " << result.generated_tokens << " tokens");
  CHECK(after.pass >= base.pass + 0.25);
  CHECK(after.truncated <= 0.05);
  CHECK(result.mismatch_max <= 1e-4);
}

TEST_CASE("Random rewards teach nothing") {
  Lab lab = MakeLab(kBase);
  const Evaluation base = EvaluateHeldOut(lab, 144, 1);
  LoopOptions options;
  options.limits = {144};
  options.switches = {};
  options.random_reward = true;
  for (int round = 0; round < 2; ++round) {
    options.steps = 10;
    options.seed = 1 + static_cast<uint64_t>(round);
    RunLoop(lab, options);
    const Evaluation after = EvaluateHeldOut(lab, 144, 1);
    INFO("base: " << Line(base) << "; after: " << Line(after));
    CHECK(after.pass <= base.pass + 0.03);
  }
}

// Not run by default: `grpo_loop_test "[table]"` prints the recipe's table for the policy in
// $CRESCENDO_POLICY, and with $CRESCENDO_SEEDS the curves of that many runs of the demo's shape.
TEST_CASE("Table of a policy", "[.][table]") {
  const char* policy = std::getenv("CRESCENDO_POLICY");
  const std::string folder = policy != nullptr ? policy : kBase;
  const char* seeds = std::getenv("CRESCENDO_SEEDS");
  Lab lab = MakeLab(folder);
  std::cout << "greedy 192: " << Line(EvaluateHeldOut(lab, 192, 0)) << std::endl;
  for (const int limit : {48, 144, 192}) {
    std::cout << "T=1 " << limit << ", 4 samples: " << Line(EvaluateHeldOut(lab, limit, 1, 4))
              << std::endl;
  }
  for (int seed = 1; seeds != nullptr && seed <= std::atoi(seeds); ++seed) {
    Lab run = MakeLab(folder);
    LoopOptions options;
    options.groups_per_step = 32;
    options.seed = static_cast<uint64_t>(seed);
    LoopResult result;
    for (int step = 0; step < 30; ++step) {
      Step(run, options, step, step < 9 ? 48 : step < 17 ? 96 : 144, result);
      if (step % 5 != 4) continue;
      std::cout << "seed " << seed << " step " << step + 1 << ": "
                << Line(EvaluateHeldOut(run, 144, 1)) << ", generated " << result.generated_tokens
                << ", mismatch " << result.mismatch_max << std::endl;
    }
  }
}

}  // namespace
}  // namespace crescendo
