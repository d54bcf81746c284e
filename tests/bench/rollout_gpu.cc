// Decoding on a CUDA device: tokens/s of a 1.5B Qwen2 (DeepSeek-R1-Distill-Qwen-1.5B's shape,
// random weights, bf16) at 64 and 256 sequences with mean contexts of 4K and 8K, as a share of what
// the memory's bandwidth allows: a step reads the weights but the embedding once, and every key and
// value. One JSON line a case; step_ms_short, the same batch with contexts of 16 tokens, says how
// much of the step is not attention.
//   rollout_gpu [BATCH CONTEXT]
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/model/cuda_memory.h"
#include "common/model/cuda_policy.h"
#include "common/model/model_weights.h"
#include "tests/bench/distill_shape.h"

namespace crescendo {
namespace {

constexpr int kBlockTokens = 16;
constexpr int kWarmSteps = 5;
constexpr int kTimedSteps = 40;

// Uniform weights of variance 1 / fan-in (norms 1), made quickly: the time of a step does not
// depend on them.
std::vector<std::string> RandomBytes(const std::vector<ParameterSpec>& specs) {
  std::vector<std::string> all;
  uint64_t state = 0x9E3779B97F4A7C15u;
  for (const ParameterSpec& spec : specs) {
    int64_t count = 1;
    for (const int64_t size : spec.shape) count *= size;
    const bool norm = spec.shape.size() == 1 && spec.name.find("norm") != std::string::npos;
    const float scale = std::sqrt(3.0f / static_cast<float>(spec.shape.back()));
    std::string bytes(static_cast<size_t>(count) * 2, '\0');
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      const float uniform = static_cast<float>(state >> 40) * 0x1p-23f - 1.0f;
      const float value = norm ? 1.0f : scale * uniform;
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof(bits));
      const auto half = static_cast<uint16_t>(bits >> 16);
      std::memcpy(&bytes[2 * i], &half, sizeof(half));
    }
    all.push_back(std::move(bytes));
  }
  return all;
}

// Bytes a second that a copy inside the device's memory moves, reads and writes together.
absl::StatusOr<double> CopyBandwidth() {
  constexpr int64_t kBytes = int64_t{1} << 30;
  constexpr int kCopies = 20;
  ASSIGN_OR_RETURN(const CudaMemory a,
                   CudaMemory::Allocate(CudaMemory::Kind::kDevice, kBytes, "a copy"));
  ASSIGN_OR_RETURN(const CudaMemory b,
                   CudaMemory::Allocate(CudaMemory::Kind::kDevice, kBytes, "a copy"));
  absl::Time start;
  for (int i = -3; i < kCopies; ++i) {
    if (i == 0) {
      RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(nullptr), "wait for copies"));
      start = absl::Now();
    }
    RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(b.data(), a.data(), static_cast<size_t>(kBytes),
                                               cudaMemcpyDeviceToDevice, nullptr),
                               "copy"));
  }
  RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(nullptr), "wait for copies"));
  return 2.0 * kBytes * kCopies / absl::ToDoubleSeconds(absl::Now() - start);
}

// Milliseconds of a decoding step, the median.
absl::StatusOr<double> StepMs(CudaPolicy* policy, const std::vector<int32_t>& contexts) {
  const size_t batch_size = contexts.size();
  std::vector<std::vector<int32_t>> tables(batch_size);
  int32_t next_block = 0;
  for (size_t i = 0; i < batch_size; ++i) {
    const int blocks = (contexts[i] + kWarmSteps + kTimedSteps) / kBlockTokens + 1;
    for (int b = 0; b < blocks; ++b) tables[i].push_back(next_block++);
  }
  std::vector<int32_t> tokens(batch_size, 5);
  std::vector<cuda::Drawn> drawn(batch_size);
  std::vector<double> times;
  for (int step = 0; step < kWarmSteps + kTimedSteps; ++step) {
    CudaBatch batch;
    for (size_t i = 0; i < batch_size; ++i) {
      CudaSequence sequence;
      sequence.new_tokens = absl::MakeConstSpan(&tokens[i], 1);
      sequence.context_before = contexts[i] + step;
      sequence.blocks = tables[i];
      sequence.first_draw = static_cast<int32_t>(i);
      sequence.draws = 1;
      batch.sequences.push_back(sequence);
      cuda::Draw draw;
      draw.group = i;
      draw.position = static_cast<uint32_t>(step);
      batch.draws.push_back(draw);
    }
    const absl::Time start = absl::Now();
    RETURN_IF_ERROR(policy->Step(batch, absl::MakeSpan(drawn)));
    if (step >= kWarmSteps) times.push_back(absl::ToDoubleMilliseconds(absl::Now() - start));
    for (size_t i = 0; i < batch_size; ++i) tokens[i] = drawn[i].token;
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Contexts from half to one and a half of the mean, in no order.
std::vector<int32_t> Contexts(int batch, int mean) {
  std::vector<int32_t> contexts;
  for (int i = 0; i < batch; ++i) contexts.push_back(mean / 2 + mean * i / std::max(1, batch - 1));
  CounterRng rng(1);
  rng.Shuffle(contexts);
  return contexts;
}

absl::Status Case(const std::vector<TensorBytes>& state, const std::string& device,
                  double bandwidth, int batch, int mean) {
  const ModelConfig config = DistillShape();
  const std::vector<int32_t> contexts = Contexts(batch, mean);
  const int64_t tokens = std::accumulate(contexts.begin(), contexts.end(), int64_t{0});
  CudaPolicyOptions options;
  options.blocks = static_cast<int>(tokens / kBlockTokens + int64_t{batch} * 5);
  options.step_tokens = batch;
  options.sequences = batch;
  ASSIGN_OR_RETURN(const auto policy, CudaPolicy::Create(config, state, options));
  ASSIGN_OR_RETURN(const double step_ms, StepMs(policy.get(), contexts));
  ASSIGN_OR_RETURN(const double short_ms,
                   StepMs(policy.get(), std::vector<int32_t>(static_cast<size_t>(batch), 16)));
  const int64_t weights = 2 * (config.parameter_count() - config.vocab_size * config.hidden_size);
  const int64_t kv = tokens * config.kv_bytes_per_token(2);
  const double limit = batch * bandwidth / static_cast<double>(weights + kv);
  const double rate = batch / step_ms * 1e3;
  std::printf(
      "{\"bench\": \"rollout_gpu\", \"batch\": %d, \"context\": %d, \"tokens_per_s\": %.0f, "
      "\"limit_tokens_per_s\": %.0f, \"ratio\": %.3f, \"step_ms\": %.3f, \"step_ms_short\": %.3f, "
      "\"weight_bytes\": %lld, \"kv_bytes\": %lld, \"copy_bandwidth_gb_s\": %.0f, "
      "\"attention\": \"%s\", \"graph_launches\": %lld, \"machine\": \"%s\"}\n",
      batch, mean, rate, limit, rate / limit, step_ms, short_ms, static_cast<long long>(weights),
      static_cast<long long>(kv), bandwidth / 1e9,
      policy->uses_flashinfer() ? "flashinfer" : "simple",
      static_cast<long long>(policy->graph_launches()), device.c_str());
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Run(const std::vector<std::pair<int, int>>& cases) {
  cudaDeviceProp properties{};
  RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, 0), "read device properties"));
  ASSIGN_OR_RETURN(const double bandwidth, CopyBandwidth());
  const std::vector<ParameterSpec> specs = ParameterSpecs(DistillShape());
  const std::vector<std::string> bytes = RandomBytes(specs);
  std::vector<TensorBytes> state;
  for (size_t i = 0; i < specs.size(); ++i) {
    state.push_back({specs[i].name, "BF16", specs[i].shape, bytes[i]});
  }
  for (const auto& [batch, mean] : cases) {
    const absl::Status status = Case(state, properties.name, bandwidth, batch, mean);
    if (absl::IsResourceExhausted(status)) {
      std::printf(
          "{\"bench\": \"rollout_gpu\", \"batch\": %d, \"context\": %d, \"skipped\": \"%s\"}\n",
          batch, mean, std::string(status.message()).c_str());
      continue;
    }
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  std::vector<std::pair<int, int>> cases = {{64, 4096}, {64, 8192}, {256, 4096}, {256, 8192}};
  if (argc == 3) {
    int batch = 0;
    int mean = 0;
    if (!absl::SimpleAtoi(argv[1], &batch) || !absl::SimpleAtoi(argv[2], &mean) || batch < 1 ||
        mean < 2) {
      std::fprintf(stderr, "usage: rollout_gpu [BATCH CONTEXT]\n");
      return 2;
    }
    cases = {{batch, mean}};
  }
  if (const absl::Status device = crescendo::CheckCudaDevice(); !device.ok()) {
    std::printf("{\"bench\": \"rollout_gpu\", \"skipped\": \"%s\"}\n",
                std::string(device.message()).c_str());
    return 0;
  }
  const absl::Status status = crescendo::Run(cases);
  if (status.ok()) return 0;
  std::fprintf(stderr, "rollout_gpu: %s\n", std::string(status.message()).c_str());
  return 1;
}
