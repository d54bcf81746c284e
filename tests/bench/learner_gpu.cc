// Training on a CUDA device: one step (forward, log-probs of all tokens with entropies, backward,
// gradient norm, AdamW) of a 1.5B Qwen2 (DeepSeek-R1-Distill-Qwen-1.5B's shape, random weights,
// bf16 on fp32 masters) over packed sequences of 8K, 16K and 24K tokens. One JSON line a case.
//
// Model FLOPs are those that the arithmetic asks for, whatever is computed again: 6 a token and
// weight of the linear layers and the head, 6 x layers x query size a token and position of its
// (causal) sequence. `mfu` is their rate over the device's bf16 peak; `of_products`, over what a
// product of 8192 x 8192 matrices reaches here. Where memory runs out, all layers are recomputed.
//   learner_gpu [--rehearse]
// --rehearse: a tiny policy on the CPU with the same operations, to try the bench itself.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/model/log_prob.h"
#include "common/model/packed_attention.h"
#include "common/model/policy_model.h"
#include "common/model/torch_guard.h"
#include "services/learner/compute_device.h"
#include "services/learner/optimizer.h"
#include "tests/bench/distill_shape.h"

namespace crescendo {
namespace {

constexpr int kWarmSteps = 2;
constexpr int kTimedSteps = 5;

ModelConfig Shape(bool tiny) {
  ModelConfig config = DistillShape();
  if (tiny) {
    config.vocab_size = 512, config.hidden_size = 64, config.layers = 2, config.mlp_size = 128;
    config.query_heads = 4, config.kv_heads = 2, config.head_dim = 16;
  }
  return config;
}

double ModelFlops(const ModelConfig& c, int64_t tokens, int64_t context) {
  const double layer = static_cast<double>(c.hidden_size) * (c.query_size() + 2.0 * c.kv_size()) +
                       static_cast<double>(c.query_size()) * c.hidden_size +
                       3.0 * c.hidden_size * c.mlp_size;
  const double weights = c.layers * layer + static_cast<double>(c.vocab_size) * c.hidden_size;
  const double attention =
      6.0 * c.layers * static_cast<double>(c.query_size()) * static_cast<double>(context);
  return static_cast<double>(tokens) * (6.0 * weights + attention);
}

// As the driver names the device; "cpu" without one.
std::string DeviceName(at::Device device) {
  if (device.is_cpu()) return "cpu";
  char name[256] = "unknown";
  void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  void* entry = driver == nullptr ? nullptr : dlsym(driver, "cuDeviceGetName");
  if (entry != nullptr) {
    (void)reinterpret_cast<int (*)(char*, int, int)>(entry)(name, sizeof(name), device.index());
  }
  return name;
}

// Dense bf16 TFLOP/s of the makers' data sheets; 0: not known here.
double PeakTflops(const std::string& name) {
  const std::pair<const char*, double> known[] = {{"H100 PCIe", 756}, {"H100", 989}, {"H200", 989},
                                                  {"A100", 312},      {"L40S", 362}, {"4090", 165}};
  for (const auto& [part, tflops] : known) {
    if (absl::StrContains(name, part)) return tflops;
  }
  return 0;
}

double Seconds(at::Device device, const std::function<void()>& fn) {
  WaitForDevice(device);
  const absl::Time start = absl::Now();
  fn();
  WaitForDevice(device);
  return absl::ToDoubleSeconds(absl::Now() - start);
}

// TFLOP/s of large bf16 products.
double ProductTflops(at::Device device, int64_t size) {
  const at::Tensor a =
      at::ones({size, size}, at::TensorOptions().dtype(at::kBFloat16).device(device));
  at::Tensor out = at::mm(a, a);
  constexpr int kProducts = 20;
  const double seconds = Seconds(device, [&] {
    for (int i = 0; i < kProducts; ++i) at::mm_out(out, a, a);
  });
  return 2.0 * kProducts * static_cast<double>(size * size * size) / seconds / 1e12;
}

struct Times {
  double forward = 0, head = 0, backward = 0, optimizer = 0;
  double all() const { return forward + head + backward + optimizer; }
};

Times Step(PolicyModel& model, AdamW& adamw, const std::vector<int32_t>& bounds) {
  const at::Device device = model.device();
  const at::Tensor positions = PackedAttention(bounds).Positions();
  PackedAttention attention(bounds, false, true);
  const at::Tensor tokens = at::randint(model.config().vocab_size, {bounds.back()}, at::kLong);
  const at::Tensor targets = tokens.roll(-1);
  Times times;
  at::Tensor hidden, d_hidden;
  times.forward = Seconds(device, [&] { hidden = model.Hidden(tokens, positions, attention); });
  times.head = Seconds(device, [&] {
    const at::NoGradGuard no_grad;
    d_hidden = at::empty_like(hidden);
    const float slope = 1.0f / static_cast<float>(bounds.back());
    (void)TokenLogProbBackward(
        hidden.detach(), model.head_weight(), targets, 0.6, /*want_entropy=*/true, false,
        [&](int64_t begin, int64_t end, const float*, const float*, float* d_log_prob, float*) {
          std::fill(d_log_prob, d_log_prob + (end - begin), -slope);
        },
        d_hidden, true);
  });
  times.backward = Seconds(device, [&] { hidden.backward(d_hidden); });
  times.optimizer = Seconds(device, [&] {
    adamw.FoldGradients();
    adamw.Step(1e-6, GradClipScale(adamw.GradNorm(), 1.0));
    adamw.ZeroGrad();
  });
  return times;
}

// The step of median time.
absl::StatusOr<Times> Measure(const ModelConfig& config, at::Device device, int64_t context,
                              int64_t tokens, int recompute_layers) {
  ASSIGN_OR_RETURN(const std::unique_ptr<PolicyModel> model,
                   PolicyModel::Init(config, 1,
                                     {.dtype = at::kBFloat16,
                                      .device = device,
                                      .aten = true,
                                      .functions = FunctionsOf(device)}));
  return CatchTorch(absl::StrCat("a step of ", tokens, " tokens"), [&]() -> absl::StatusOr<Times> {
    model->SetRequiresGrad(true);
    model->SetRecomputeLayers(recompute_layers);
    AdamW adamw(model->parameters(), AdamWOptions{.aten = true});
    std::vector<int32_t> bounds = {0};
    while (bounds.back() < tokens) bounds.push_back(static_cast<int32_t>(bounds.back() + context));
    std::vector<Times> steps;
    for (int i = -kWarmSteps; i < kTimedSteps; ++i) {
      const Times times = Step(*model, adamw, bounds);
      if (i >= 0) steps.push_back(times);
    }
    std::sort(steps.begin(), steps.end(),
              [](const Times& a, const Times& b) { return a.all() < b.all(); });
    return steps[steps.size() / 2];
  });
}

absl::Status Run(bool rehearse) {
  const absl::StatusOr<at::Device> device =
      rehearse ? at::Device(at::kCPU) : FindDevice("cuda", std::nullopt, 0);
  if (!device.ok()) {
    std::printf("{\"bench\": \"learner_gpu\", \"skipped\": \"%s\"}\n",
                std::string(device.status().message()).c_str());
    return absl::OkStatus();
  }
  const ModelConfig config = Shape(rehearse);
  const std::string name = DeviceName(*device);
  const double peak = PeakTflops(name);
  const double products = ProductTflops(*device, rehearse ? 256 : 8192);
  for (const int64_t kilo : {8, 16, 24}) {
    const int64_t context = rehearse ? kilo * 8 : kilo * 1024;
    const int64_t tokens = kilo == 8 ? 2 * context : context;
    int recomputed = 0;
    absl::StatusOr<Times> times = Measure(config, *device, context, tokens, recomputed);
    if (absl::IsResourceExhausted(times.status())) {
      recomputed = -1;
      times = Measure(config, *device, context, tokens, recomputed);
    }
    RETURN_IF_ERROR(times.status());
    const double rate = ModelFlops(config, tokens, context) / times->all() / 1e12;
    std::printf(
        "{\"bench\": \"learner_gpu\", \"device\": \"%s\", \"context\": %lld, \"tokens\": %lld, "
        "\"recompute_layers\": %d, \"step_s\": %.4f, \"tokens_per_s\": %.0f, "
        "\"model_tflops\": %.4g, \"peak_tflops\": %.0f, \"mfu\": %.3f, \"of_products\": %.3f, "
        "\"forward_s\": %.4f, \"log_prob_head_s\": %.4f, \"backward_s\": %.4f, "
        "\"optimizer_s\": %.4f}\n",
        name.c_str(), static_cast<long long>(context), static_cast<long long>(tokens), recomputed,
        times->all(), static_cast<double>(tokens) / times->all(), rate, peak,
        peak > 0 ? rate / peak : 0.0, rate / products, times->forward, times->head, times->backward,
        times->optimizer);
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  const bool rehearse = argc == 2 && std::strcmp(argv[1], "--rehearse") == 0;
  if (argc > 1 && !rehearse) {
    std::fprintf(stderr, "usage: learner_gpu [--rehearse]\n");
    return 2;
  }
  const absl::Status status = crescendo::Run(rehearse);
  if (!status.ok()) std::fprintf(stderr, "learner_gpu: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
