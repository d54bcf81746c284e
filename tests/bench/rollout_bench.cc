// Benches of the rollout engine; each prints one JSON line.
//   rollout_bench demo [THREADS [MODEL]]           decode speed of a policy at 256 sequences, with
//                                                  where the time goes
//   rollout_bench deterministic [THREADS [MODEL]]  the same with policy.deterministic, against it
//   rollout_bench scheduler    cost of planning a step of 256 sequences, slots busy with a long
//   tail rollout_bench prefix       prefill work and KV blocks of one 512-token prompt, G = 16
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/model/policy_model.h"
#include "common/model/torch_guard.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "services/rollout/engine.h"
#include "services/rollout/torch_model_runner.h"

namespace crescendo {
namespace {

// Adds up the time spent in the model.
class TimedRunner : public ModelRunner {
 public:
  explicit TimedRunner(ModelRunner* inner) : inner_(inner) {}
  absl::Status Run(const BatchPlan& plan, absl::Span<DrawnToken> results) override {
    const absl::Time start = absl::Now();
    const absl::Status status = inner_->Run(plan, results);
    seconds_ += absl::ToDoubleSeconds(absl::Now() - start);
    return status;
  }
  absl::Status SwapWeights(PolicyVersion version) override { return inner_->SwapWeights(version); }
  double seconds() const { return seconds_; }

 private:
  ModelRunner* inner_;
  double seconds_ = 0;
};

// Draws tokens at once: what is left is the engine's own cost. A sample's length is fixed by its
// id.
class InstantRunner : public ModelRunner {
 public:
  explicit InstantRunner(int mean, bool skewed) : mean_(mean), skewed_(skewed) {}
  absl::Status Run(const BatchPlan& plan, absl::Span<DrawnToken> results) override {
    for (size_t i = 0; i < plan.draws.size(); ++i) {
      const TokenDraw& draw = plan.draws[i];
      CounterRng rng(draw.group.value(), draw.sample);
      // Log-normal with p99 = 8 x median: sigma = ln 8 / 2.326.
      const double length = skewed_ ? mean_ * std::exp(0.894 * rng.Normal()) : 1e9;
      results[i] = DrawnToken{draw.position + 1 >= length ? 1 : 7, -1.0f};
    }
    return absl::OkStatus();
  }
  absl::Status SwapWeights(PolicyVersion) override { return absl::OkStatus(); }

 private:
  int mean_;
  bool skewed_;
};

GroupRequest Request(uint64_t id, int samples, int prompt, int limit) {
  GroupRequest request;
  request.id = GroupId(id);
  request.seed = 1;
  request.limit = limit;
  request.prompt.assign(prompt, 5);
  for (int i = 0; i < samples; ++i) request.samples.push_back({static_cast<uint32_t>(i), {}});
  return request;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

// The demo's policy (../shared/notes/demo.md), with random weights: speed does not depend on them.
ModelConfig DemoConfig() {
  ModelConfig config;
  config.architecture = Architecture::kQwen2;
  config.vocab_size = 47;
  config.hidden_size = 96;
  config.layers = 3;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 24;
  config.mlp_size = 192;
  config.rope_theta = 100;
  config.qkv_bias = true;
  return config;
}

struct DecodeSpeed {
  double tokens_per_second = 0;
  double tokens_per_cpu_second = 0;
  double model_share = 0;
  double step_us = 0;
};

// Groups of 8 samples of `limit` tokens; the first steps are not counted.
absl::StatusOr<DecodeSpeed> Decode(const std::string& path, int threads, bool deterministic,
                                   uint64_t groups = 32, int limit = 144) {
  std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  SetComputeThreads(threads);
  const LoadOptions load{.deterministic = deterministic};
  ASSIGN_OR_RETURN(auto model, path.empty() ? PolicyModel::Init(DemoConfig(), 1, load)
                                            : PolicyModel::Load(*files, path, load));
  TorchRunnerOptions options;
  options.threads = threads;
  ASSIGN_OR_RETURN(auto torch, TorchModelRunner::Create(std::move(model), options));
  TimedRunner timed(torch.get());
  EngineOptions engine_options;  // no stop token: all samples run to the limit
  Engine engine(engine_options, &timed);
  for (uint64_t id = 0; id < groups; ++id) engine.AddGroup(Request(id, 8, 16, limit));
  absl::Time start = absl::Now();
  std::clock_t cpu_start = std::clock();
  double model_before = 0;
  uint64_t drawn_before = 0;
  int64_t steps = 0;
  do {
    RETURN_IF_ERROR(engine.Step().status());
    if (++steps == 8) {  // warm
      start = absl::Now();
      cpu_start = std::clock();
      model_before = timed.seconds();
      drawn_before = engine.drawn_tokens();
    }
  } while (engine.worked());
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  const double tokens = static_cast<double>(engine.drawn_tokens() - drawn_before);
  const double cpu_seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
  return DecodeSpeed{tokens / seconds, tokens / cpu_seconds,
                     (timed.seconds() - model_before) / seconds, seconds / (tokens / 256) * 1e6};
}

int Demo(const std::string& path, int threads) {
  const auto speed = Decode(path, threads, /*deterministic=*/false);
  if (!speed.ok()) return Fail(speed.status());
  std::printf(
      "{\"bench\":\"rollout_demo\",\"tokens_per_second\":%.0f,\"sequences\":256,\"threads\":%d,"
      "\"model_share\":%.3f,\"step_us\":%.0f}\n",
      speed->tokens_per_second, threads, speed->model_share, speed->step_us);
  return 0;
}

// What policy.deterministic costs, in the process's CPU time, which other programs' turns are not
// in: the best of some turns each, one after the other. A model from a file decodes 64 samples.
int Deterministic(const std::string& path, int threads) {
  const bool demo = path.empty();
  double best[2] = {0, 0};
  for (int turn = 0; turn < (demo ? 5 : 2); ++turn) {
    for (const bool deterministic : {false, true}) {
      const auto speed = Decode(path, threads, deterministic, demo ? 32 : 8, demo ? 144 : 24);
      if (!speed.ok()) return Fail(speed.status());
      best[deterministic] = std::max(best[deterministic], speed->tokens_per_cpu_second);
    }
  }
  std::printf(
      "{\"bench\":\"rollout_deterministic\",\"slowdown\":%.2f,\"tokens_per_cpu_second\":%.0f,"
      "\"deterministic_tokens_per_cpu_second\":%.0f,\"sequences\":%d,\"threads\":%d}\n",
      best[0] / best[1], best[0], best[1], demo ? 256 : 64, threads);
  return 0;
}

int SchedulerBench() {
  double step_us = 0;
  {
    InstantRunner runner(0, false);
    EngineOptions options;
    options.blocks = 65536;
    Engine engine(options, &runner);
    for (uint64_t id = 0; id < 32; ++id) engine.AddGroup(Request(id, 8, 64, 2048));
    for (int i = 0; i < 100; ++i) (void)engine.Step();
    const absl::Time start = absl::Now();
    for (int i = 0; i < 1500; ++i) (void)engine.Step();
    step_us = absl::ToDoubleMicroseconds(absl::Now() - start) / 1500;
  }
  InstantRunner runner(100, true);
  EngineOptions options;
  options.stop_tokens = {1};
  options.blocks = 65536;
  Engine engine(options, &runner);
  uint64_t next = 0;
  double busy = 0;
  int steps = 0;
  for (; steps < 5000; ++steps) {
    while (engine.waiting() + engine.running() < 256 + 64)
      engine.AddGroup(Request(next++, 8, 64, 4096));
    (void)engine.Step();
    if (steps >= 100) busy += engine.running() / 256.0;
  }
  std::printf(
      "{\"bench\":\"rollout_scheduler\",\"step_us\":%.1f,\"sequences\":256,\"slots_busy\":%.3f}\n",
      step_us, busy / (steps - 100));
  return 0;
}

int Prefix() {
  const auto run = [](bool share) {
    InstantRunner runner(0, false);
    EngineOptions options;
    options.blocks = 65536;
    Engine engine(options, &runner);
    if (share) {
      engine.AddGroup(Request(0, 16, 512, 8));
    } else {
      for (uint64_t id = 0; id < 16; ++id) engine.AddGroup(Request(id, 1, 512, 8));
    }
    do {
      (void)engine.Step();
    } while (engine.worked());
    return std::make_pair(static_cast<double>(engine.prefilled_tokens()),
                          static_cast<double>(engine.blocks().used_blocks_peak() - 16));
  };
  const auto shared = run(true);
  const auto apart = run(false);
  std::printf(
      "{\"bench\":\"rollout_prefix\",\"prefill_ratio\":%.4f,\"prompt_block_ratio\":%.4f,\"asked\":%"
      ".4f}\n",
      shared.first / apart.first, shared.second / apart.second, 1.1 / 16);
  return 0;
}

// Log-probabilities of what a busy engine draws, against one pass over each whole sequence.
int Parity(const std::string& path, int rounds) {
  const at::NoGradGuard no_grad;
  std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  auto model = PolicyModel::Load(*files, path);
  auto reference = PolicyModel::Load(*files, path);
  if (!model.ok() || !reference.ok()) return Fail(model.status());
  auto torch = TorchModelRunner::Create(*std::move(model), {});
  if (!torch.ok()) return Fail(torch.status());
  auto cache = PagedKvCache::Create((*reference)->config(), 64, 16);
  if (!cache.ok()) return Fail(cache.status());
  PagedAttention attention(cache->get(), (*reference)->config().query_heads);
  std::vector<int32_t> table(64);
  for (int i = 0; i < 64; ++i) table[i] = i;
  EngineOptions options;
  for (const int64_t id : (*reference)->config().eos_token_ids) {
    options.stop_tokens.push_back(static_cast<int32_t>(id));
  }
  Engine engine(options, torch->get());
  CounterRng rng(7);
  uint64_t next = 0;
  int64_t samples = 0, over = 0;
  double worst = 0;
  std::map<uint64_t, std::vector<int32_t>> prompts;
  std::map<std::pair<uint64_t, uint32_t>, std::pair<std::vector<int32_t>, std::vector<float>>>
      drawn;
  do {
    while (next < static_cast<uint64_t>(rounds) && engine.waiting() + engine.running() < 256 &&
           rng.Below(4) != 0) {
      for (int i = 0; i < 8; ++i) {
        GroupRequest request = Request(next, 8, 6 + static_cast<int>(rng.Below(30)), 144);
        for (int32_t& token : request.prompt) token = static_cast<int32_t>(3 + rng.Below(40));
        prompts[next++] = request.prompt;
        engine.AddGroup(std::move(request));
      }
    }
    auto outputs = engine.Step();
    if (!outputs.ok()) return Fail(outputs.status());
    for (const EngineOutput& out : *outputs) {
      auto& [tokens, log_probs] = drawn[{out.group.value(), out.sample}];
      tokens.push_back(out.token);
      log_probs.push_back(out.log_prob);
      if (out.finish == FinishReason::kUnspecified) continue;
      std::vector<int32_t> all = prompts[out.group.value()];
      const auto prompt = static_cast<int64_t>(all.size());
      all.insert(all.end(), tokens.begin(), tokens.end() - 1);
      const PagedSequence sequence{table, 0, static_cast<int32_t>(all.size())};
      if (!attention.SetBatch({&sequence, 1}).ok()) return 1;
      at::Tensor ids = at::empty({static_cast<int64_t>(all.size())}, at::kLong);
      std::copy(all.begin(), all.end(), ids.data_ptr<int64_t>());
      const at::Tensor hidden = (*reference)->Hidden(ids, attention.Positions(), attention);
      const at::Tensor expected = at::log_softmax(
          (*reference)->Logits(hidden.narrow(0, prompt - 1, static_cast<int64_t>(tokens.size()))),
          1);
      double sample_worst = 0;
      size_t where = 0;
      for (size_t i = 0; i < tokens.size(); ++i) {
        const double delta =
            std::abs(expected.data_ptr<float>()[i * expected.size(1) + tokens[i]] - log_probs[i]);
        if (delta > sample_worst) where = i;
        sample_worst = std::max(sample_worst, delta);
      }
      if (sample_worst > 1e-4) {
        ++over;
        std::printf("group %lu sample %u prompt %ld tokens %zu: %g at %zu\n", out.group.value(),
                    out.sample, prompt, tokens.size(), sample_worst, where);
      }
      worst = std::max(worst, sample_worst);
      ++samples;
      drawn.erase({out.group.value(), out.sample});
    }
  } while (engine.worked() || next < static_cast<uint64_t>(rounds));
  std::printf("{\"bench\":\"rollout_parity\",\"samples\":%ld,\"over_1e-4\":%ld,\"max\":%g}\n",
              samples, over, worst);
  return over > 0;
}

int Main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "demo") {
    return Demo(argc > 3 ? argv[3] : "", argc > 2 ? std::atoi(argv[2]) : 2);
  }
  if (mode == "deterministic") {
    return Deterministic(argc > 3 ? argv[3] : "", argc > 2 ? std::atoi(argv[2]) : 2);
  }
  if (mode == "scheduler") return SchedulerBench();
  if (mode == "prefix") return Prefix();
  if (mode == "parity" && argc > 2) return Parity(argv[2], argc > 3 ? std::atoi(argv[3]) : 256);
  std::fprintf(stderr,
               "usage: rollout_bench demo [THREADS] [MODEL] | deterministic [THREADS] [MODEL] | "
               "scheduler | prefix | parity MODEL [GROUPS]\n");
  return 2;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  crescendo::PrepareComputeProcess(argv);
  return crescendo::Main(argc, argv);
}
