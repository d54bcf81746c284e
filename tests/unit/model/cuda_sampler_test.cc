// The device's sampler against the CPU's: the same tokens from the same logits and keys.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/cuda_kernels.h"
#include "common/model/sampler.h"
#include "tests/unit/model/cuda_test_support.h"

namespace crescendo {
namespace {

std::vector<cuda::Drawn> SampleOnDevice(const at::Tensor& logits,
                                        const std::vector<cuda::Draw>& draws) {
  const float* x = logits.data_ptr<float>();
  const OnDevice<float> d_logits(std::vector<float>(x, x + logits.numel()));
  const OnDevice<cuda::Draw> d_draws(draws);
  const OnDevice<cuda::Drawn> out(draws.size());
  REQUIRE(cuda::Sample({d_logits.data(), d_draws.data(), out.data(), static_cast<int>(draws.size()),
                        static_cast<int>(logits.size(1))},
                       nullptr) == cudaSuccess);
  return out.Read();
}

// Draws `count` tokens from one row on both sides.
void CheckSame(const at::Tensor& row, const RowSampling& params, int count, uint64_t seed) {
  INFO("vocabulary " << row.size(1) << ", temperature " << params.temperature << ", top_k "
                     << params.top_k << ", top_p " << params.top_p << ", min_p " << params.min_p);
  const auto size = static_cast<size_t>(count);
  std::vector<cuda::Draw> draws(size);
  std::vector<double> uniforms;
  for (int i = 0; i < count; ++i) {
    cuda::Draw& draw = draws[static_cast<size_t>(i)];
    draw.seed = seed;
    draw.group = uint64_t{1} << 63 | 5u;
    draw.sample = 3;
    draw.position = static_cast<uint32_t>(i);
    draw.temperature = params.temperature;
    draw.top_k = params.top_k;
    draw.top_p = params.top_p;
    draw.min_p = static_cast<float>(params.min_p);
    draw.row = 0;
    uniforms.push_back(TokenUniform(seed, draw.group, draw.sample, draw.position));
  }
  std::vector<SampledToken> expected(size);
  REQUIRE(SampleRows(row.expand({count, row.size(1)}).contiguous(),
                     std::vector<RowSampling>(size, params), uniforms, absl::MakeSpan(expected))
              .ok());
  const std::vector<cuda::Drawn> found = SampleOnDevice(row, draws);
  for (size_t i = 0; i < size; ++i) {
    INFO("draw " << i);
    CHECK(found[i].token == expected[i].token);
    CHECK(std::abs(found[i].log_prob - expected[i].log_prob) <= 2e-6f);
    CHECK(std::abs(found[i].log_prob_untempered - expected[i].log_prob_untempered) <= 2e-6f);
  }
}

// Normal logits; rounded to quarters there are many ties.
at::Tensor Logits(int64_t vocab, double spread, bool ties, uint64_t seed) {
  at::Tensor row = at::empty({1, vocab}, at::kFloat);
  CounterRng rng(seed);
  for (int64_t i = 0; i < vocab; ++i) {
    const double x = spread * rng.Normal();
    row.data_ptr<float>()[i] = static_cast<float>(ties ? std::round(4 * x) / 4 : x);
  }
  return row;
}

}  // namespace

TEST_CASE("the same tokens as on the CPU without truncation") {
  if (!HaveDevice()) return;
  for (const int64_t vocab : {1, 2, 31, 512, 513, 4000, 40000}) {
    for (const double temperature : {1.0, 0.6, 0.0}) {
      CheckSame(Logits(vocab, 3.0, false, 7), RowSampling{temperature, 0, 1.0, 0.0}, 8, 99);
    }
  }
  CheckSame(Logits(3000, 3.0, true, 7), RowSampling{0.0, 0, 1.0, 0.0}, 1, 99);
  CheckSame(Logits(3000, 40.0, false, 8), RowSampling{1.5, 0, 1.0, 0.0}, 16, 5);
}

TEST_CASE("the same tokens as on the CPU under top-k, top-p, min-p and all of them") {
  if (!HaveDevice()) return;
  const RowSampling cases[] = {{1.0, 1, 1.0, 0.0},    {1.0, 20, 1.0, 0.0},  {0.6, 0, 0.95, 0.0},
                               {1.0, 0, 1.0, 0.05},   {0.8, 40, 0.9, 0.02}, {1.0, 0, 1e-9, 0.0},
                               {1.3, 5000, 1.0, 0.0}, {1.0, 7, 0.999, 0.3}};
  for (const RowSampling& params : cases) {
    CheckSame(Logits(700, 2.0, false, 3), params, 3, 21);
    CheckSame(Logits(700, 2.0, true, 4), params, 3, 22);
  }
  CheckSame(Logits(9000, 2.0, true, 4), RowSampling{1.0, 100, 0.9, 0.01}, 4, 23);
}

TEST_CASE("a row that is not finite gives no token, and a draw without a row none either") {
  if (!HaveDevice()) return;
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  for (const float value : bad) {
    at::Tensor row = Logits(900, 1.0, false, 2);
    row.data_ptr<float>()[613] = value;
    cuda::Draw draw;
    draw.row = 0;
    CHECK(SampleOnDevice(row, {draw})[0].token == -1);
  }
}

}  // namespace crescendo
