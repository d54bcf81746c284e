// One batch of samples through the rollout engine on the CPU, against the matrix products alone.
//
//   rollout_cpu GGUF|FOLDER LENGTHS [float32|bfloat16] [THREADS] [deterministic]
//
// LENGTHS is a file: first the tokens of each prompt, then the tokens to draw of each sample, in
// whole numbers. One JSON line; tests/bench/rollout_cpu_peers makes the file, runs the peers on the
// same, and sets the three beside each other. The ratio is given twice: of the clock's times, and
// of the process's CPU times, in which other programs' turns are not.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/model/policy_model.h"
#include "common/model/torch_guard.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "services/rollout/engine.h"
#include "services/rollout/torch_model_runner.h"

namespace crescendo {
namespace {

// Seconds: of the clock, and of the process's CPU time over all threads.
struct Times {
  double clock = 0;
  double cpu = 0;
};
Times Now() {
  return {absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()),
          static_cast<double>(std::clock()) / CLOCKS_PER_SEC};
}
Times Since(const Times& start) {
  const Times now = Now();
  return {now.clock - start.clock, now.cpu - start.cpu};
}

// The weights of every linear layer, for products of any number of rows.
class Products {
 public:
  explicit Products(const PolicyModel& model) : dtype_(model.dtype()) {
    const ModelConfig& c = model.config();
    for (int i = 0; i < c.layers; ++i) {
      Add(c.query_size() + 2 * c.kv_size(), c.hidden_size);
      Add(c.hidden_size, c.query_size());
      Add(2 * c.mlp_size, c.hidden_size);
      Add(c.hidden_size, c.mlp_size);
    }
    head_ = Random(c.vocab_size, c.hidden_size);
  }

  // The fastest of some rounds. `drawn` rows reach the head.
  Times Seconds(int64_t rows, int64_t drawn) {
    std::map<int64_t, at::Tensor> inputs;
    for (const at::Tensor& w : weights_) {
      if (inputs.count(w.size(1)) == 0) inputs[w.size(1)] = Random(rows, w.size(1));
    }
    const at::Tensor last = Random(drawn, head_.size(1));
    Times best{1e9, 1e9};
    for (int round = 0; round < 5; ++round) {
      const Times start = Now();
      for (const at::Tensor& w : weights_) at::linear(inputs[w.size(1)], w);
      at::linear(last, head_);
      const Times took = Since(start);
      best = {std::min(best.clock, took.clock), std::min(best.cpu, took.cpu)};
    }
    return best;
  }

 private:
  at::Tensor Random(int64_t rows, int64_t columns) const {
    return at::randn({rows, columns}, at::kFloat).to(dtype_);
  }
  void Add(int64_t out, int64_t in) { weights_.push_back(Random(out, in)); }

  at::ScalarType dtype_;
  std::vector<at::Tensor> weights_;
  at::Tensor head_;
};

// A step's rows and the rows it draws from.
struct Shape {
  int64_t rows;
  int64_t drawn;
};

// Notes each step's shape and the time spent in the model.
class Recorder : public ModelRunner {
 public:
  explicit Recorder(ModelRunner* inner) : inner_(inner) {}
  absl::Status Run(const BatchPlan& plan, absl::Span<DrawnToken> results) override {
    shapes_.push_back({plan.new_tokens, static_cast<int64_t>(plan.draws.size())});
    return inner_->Run(plan, results);
  }
  absl::Status SwapWeights(PolicyVersion version) override { return inner_->SwapWeights(version); }
  const std::vector<Shape>& shapes() const { return shapes_; }

 private:
  ModelRunner* inner_;
  std::vector<Shape> shapes_;
};

// The products' time over all steps, measured every 8 rows.
Times BoundSeconds(Products& products, const std::vector<Shape>& shapes) {
  std::map<std::pair<int64_t, int64_t>, Times> known;
  Times total;
  for (const Shape& shape : shapes) {
    const auto up = [](int64_t n) { return (n + 7) / 8 * 8; };
    const std::pair<int64_t, int64_t> key{up(shape.rows), std::max<int64_t>(1, up(shape.drawn))};
    auto it = known.find(key);
    if (it == known.end()) it = known.emplace(key, products.Seconds(key.first, key.second)).first;
    total.clock += it->second.clock;
    total.cpu += it->second.cpu;
  }
  return total;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "rollout_cpu: %s\n", status.ToString().c_str());
  return 1;
}

int Run(const std::string& path, const std::string& lengths, const std::string& dtype, int threads,
        bool deterministic) {
  std::ifstream in(lengths);
  int prompt = 0;
  std::vector<int> limits;
  in >> prompt;
  for (int limit; in >> limit;) limits.push_back(limit);
  if (prompt < 1 || limits.empty()) {
    std::fprintf(stderr, "rollout_cpu: %s: expected a prompt's length and samples' lengths\n",
                 lengths.c_str());
    return 2;
  }
  const at::NoGradGuard no_grad;
  SetComputeThreads(threads);
  std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  LoadOptions load;
  load.dtype = dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
  load.deterministic = deterministic;
  load.for_decoding = true;
  auto model = PolicyModel::Load(*files, path, load);
  if (!model.ok()) return Fail(model.status());
  Products products(**model);
  TorchRunnerOptions options;
  options.threads = threads;
  options.block_tokens = 32;
  auto torch = TorchModelRunner::Create(*std::move(model), options);
  if (!torch.ok()) return Fail(torch.status());

  Recorder recorder(torch->get());
  EngineOptions engine_options;  // no stop token: each sample runs to its limit
  engine_options.block_tokens = options.block_tokens;
  Engine engine(engine_options, &recorder);
  int64_t tokens = 0;
  for (size_t i = 0; i < limits.size(); ++i) {
    GroupRequest request;
    request.id = GroupId(i);
    request.seed = 1;
    request.limit = limits[i];
    for (int t = 0; t < prompt; ++t) request.prompt.push_back(100 + (t * 37 + int(i) * 11) % 1000);
    request.samples.push_back({0, {}});
    tokens += limits[i];
    engine.AddGroup(std::move(request));
  }
  const Times start = Now();
  do {
    if (auto outputs = engine.Step(); !outputs.ok()) return Fail(outputs.status());
  } while (engine.worked());
  const Times took = Since(start);
  const Times bound = BoundSeconds(products, recorder.shapes());
  std::printf(
      "{\"bench\":\"rollout_cpu\",\"engine\":\"crescendo\",\"dtype\":\"%s\",\"threads\":%d,"
      "\"sequences\":%zu,\"prompt_tokens\":%d,\"tokens\":%lld,\"seconds\":%.3f,"
      "\"tokens_per_second\":%.1f,\"bound_tokens_per_second\":%.1f,\"ratio_to_bound\":%.3f,"
      "\"cpu_seconds\":%.3f,\"cpu_ratio_to_bound\":%.3f}\n",
      dtype.c_str(), threads, limits.size(), prompt, static_cast<long long>(tokens), took.clock,
      static_cast<double>(tokens) / took.clock, static_cast<double>(tokens) / bound.clock,
      bound.clock / took.clock, took.cpu, bound.cpu / took.cpu);
  return 0;
}

int Main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(
        stderr,
        "usage: rollout_cpu GGUF|FOLDER LENGTHS [float32|bfloat16] [THREADS] [deterministic]\n");
    return 2;
  }
  return Run(argv[1], argv[2], argc > 3 ? argv[3] : "float32", argc > 4 ? std::atoi(argv[4]) : 2,
             argc > 5 && std::string(argv[5]) == "deterministic");
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  crescendo::PrepareComputeProcess(argv);
  return crescendo::Main(argc, argv);
}
