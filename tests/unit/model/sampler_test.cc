// The sampler: distribution, truncation, log-probabilities, independence of rows.
#include "common/model/sampler.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/torch_guard.h"

namespace crescendo {
namespace {

// `count` draws from one row of logits at evenly spread uniforms: frequencies are then exact to
// 1 / count.
std::vector<double> Frequencies(const std::vector<float>& logits, const RowSampling& sampling,
                                int64_t count) {
  const auto vocab = static_cast<int64_t>(logits.size());
  at::Tensor rows = at::empty({count, vocab}, at::kFloat);
  std::vector<double> uniforms;
  for (int64_t i = 0; i < count; ++i) {
    std::copy(logits.begin(), logits.end(), rows.data_ptr<float>() + i * vocab);
    uniforms.push_back((static_cast<double>(i) + 0.5) / static_cast<double>(count));
  }
  std::vector<SampledToken> out(static_cast<size_t>(count));
  std::vector<RowSampling> params(static_cast<size_t>(count), sampling);
  REQUIRE(SampleRows(rows, params, uniforms, absl::MakeSpan(out)).ok());
  std::vector<double> frequency(logits.size(), 0.0);
  for (const SampledToken& token : out) {
    frequency[static_cast<size_t>(token.token)] += 1.0 / static_cast<double>(count);
  }
  return frequency;
}

std::vector<float> RandomLogits(size_t n, uint64_t seed) {
  CounterRng rng(seed);
  std::vector<float> logits(n);
  for (float& x : logits) x = static_cast<float>(2.0 * rng.Normal());
  return logits;
}

std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0.0;
  for (const float x : logits) p.push_back(std::exp(x / temperature));
  for (const double x : p) sum += x;
  for (double& x : p) x /= sum;
  return p;
}

}  // namespace

TEST_CASE("draws follow the softmax at the temperature, for short and long rows") {
  SetComputeThreads(2);
  for (const size_t vocab : {size_t{1}, size_t{5}, size_t{47}, size_t{1500}}) {
    const std::vector<float> logits = RandomLogits(vocab, vocab);
    for (const double temperature : {1.0, 0.6, 2.0}) {
      RowSampling sampling;
      sampling.temperature = temperature;
      constexpr int64_t kDraws = 4000;
      const std::vector<double> got = Frequencies(logits, sampling, kDraws);
      const std::vector<double> expected = Softmax(logits, temperature);
      for (size_t i = 0; i < vocab; ++i) CHECK(std::abs(got[i] - expected[i]) < 1.01 / kDraws);
    }
  }
}

TEST_CASE("top-k, top-p and min-p cut where Hugging Face cuts") {
  // Probabilities .4 .3 .2 .1, the most probable not first.
  std::vector<float> logits;
  for (const double p : {0.2, 0.4, 0.1, 0.3}) logits.push_back(static_cast<float>(std::log(p)));
  const auto check = [&](const RowSampling& sampling, const std::vector<double>& expected) {
    const std::vector<double> got = Frequencies(logits, sampling, 7000);
    for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(expected[i]).margin(1.0 / 3500));
  };
  RowSampling k;
  k.top_k = 2;
  check(k, {0, 4.0 / 7, 0, 3.0 / 7});
  RowSampling p;
  p.top_p = 0.65;  // .4 + .3 reaches it
  check(p, {0, 4.0 / 7, 0, 3.0 / 7});
  p.top_p = 0.39;
  check(p, {0, 1, 0, 0});
  RowSampling m;
  m.min_p = 0.45;  // of .4: .18
  check(m, {2.0 / 9, 4.0 / 9, 0, 3.0 / 9});
  RowSampling all;
  all.top_k = 3, all.top_p = 0.9, all.min_p = 0.1;
  check(all, {2.0 / 9, 4.0 / 9, 0, 3.0 / 9});
  all.top_k = 100, all.top_p = 1.0, all.min_p = 0.0;
  check(all, {0.2, 0.4, 0.1, 0.3});
}

TEST_CASE("log-probabilities are those of the whole distribution, tempered and untempered") {
  const std::vector<float> logits = RandomLogits(1000, 7);
  const at::Tensor row = at::from_blob(const_cast<float*>(logits.data()), {1, 1000}, at::kFloat);
  for (const double temperature : {0.0, 0.5, 1.0, 3.0}) {
    RowSampling sampling;
    sampling.temperature = temperature;
    sampling.top_k = 20;
    const double uniform = 0.7;
    SampledToken out;
    REQUIRE(SampleRows(row, {sampling}, {uniform}, absl::MakeSpan(&out, 1)).ok());
    const auto i = static_cast<size_t>(out.token);
    const double t = temperature == 0.0 ? 1.0 : temperature;
    CHECK(out.log_prob == Approx(std::log(Softmax(logits, t)[i])).margin(2e-6));
    CHECK(out.log_prob_untempered == Approx(std::log(Softmax(logits, 1.0)[i])).margin(2e-6));
  }
}

TEST_CASE("temperature 0 takes the first of the largest") {
  const at::Tensor logits = at::tensor({1.0f, 5.0f, 5.0f, -3.0f}).reshape({1, 4});
  RowSampling greedy;
  greedy.temperature = 0.0;
  SampledToken out;
  for (const double uniform : {1e-9, 0.999}) {
    REQUIRE(SampleRows(logits, {greedy}, {uniform}, absl::MakeSpan(&out, 1)).ok());
    CHECK(out.token == 1);
  }
}

TEST_CASE("a row's draw does not depend on its batch") {
  SetComputeThreads(2);
  at::manual_seed(1);
  const at::Tensor logits = at::randn({50, 700}) * 3;
  std::vector<RowSampling> params(50);
  std::vector<double> uniforms;
  for (uint32_t i = 0; i < 50; ++i) {
    uniforms.push_back(TokenUniform(1, i, 0, 0));
    if (i % 3 == 1) params[i].top_p = 0.9;
    if (i % 3 == 2) params[i].temperature = 0.8;
  }
  std::vector<SampledToken> together(50);
  REQUIRE(SampleRows(logits, params, uniforms, absl::MakeSpan(together)).ok());
  for (size_t i = 0; i < 50; ++i) {
    SampledToken alone;
    REQUIRE(SampleRows(logits.narrow(0, static_cast<int64_t>(i), 1), {params[i]}, {uniforms[i]},
                       absl::MakeSpan(&alone, 1))
                .ok());
    CHECK(alone.token == together[i].token);
    CHECK(alone.log_prob == together[i].log_prob);
  }
}

TEST_CASE("the most probable tokens come in order, with their share of the tempered distribution") {
  const std::vector<float> logits = RandomLogits(1500, 7);
  at::Tensor row = at::empty({1, 1500}, at::kFloat);
  std::copy(logits.begin(), logits.end(), row.data_ptr<float>());
  std::vector<int32_t> order(1500);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const std::vector<double> p = Softmax(logits, 0.7);
  RowSampling sampling;
  sampling.temperature = 0.7;
  for (const int count : {0, 1, kTopTokensMax}) {
    sampling.top_tokens = count;
    SampledToken out;
    REQUIRE(SampleRows(row, {sampling}, {0.3}, absl::MakeSpan(&out, 1)).ok());
    REQUIRE(out.top.size() == static_cast<size_t>(count));
    for (size_t i = 0; i < out.top.size(); ++i) {
      CHECK(out.top[i].token == order[i]);
      CHECK(out.top[i].log_prob == Approx(std::log(p[static_cast<size_t>(order[i])])).margin(1e-5));
      if (out.top[i].token == out.token) CHECK(out.top[i].log_prob == out.log_prob);
    }
  }
  // Equal logits: the lower id first. A vocabulary of fewer tokens: all.
  SampledToken few;
  REQUIRE(SampleRows(at::zeros({1, 3}), {sampling}, {0.5}, absl::MakeSpan(&few, 1)).ok());
  REQUIRE(few.top.size() == 3);
  for (int i = 0; i < 3; ++i) CHECK(few.top[static_cast<size_t>(i)].token == i);
  sampling.top_tokens = kTopTokensMax + 1;
  CHECK(ValidateRowSampling(sampling).code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("bf16 logits are drawn from as their fp32 values are") {
  SetComputeThreads(2);
  at::manual_seed(2);
  const at::Tensor narrow = (at::randn({20, 700}) * 3).to(at::kBFloat16);
  const std::vector<RowSampling> params(20);
  std::vector<double> uniforms;
  for (uint32_t i = 0; i < 20; ++i) uniforms.push_back(TokenUniform(1, i, 0, 0));
  std::vector<SampledToken> a(20);
  std::vector<SampledToken> b(20);
  REQUIRE(SampleRows(narrow, params, uniforms, absl::MakeSpan(a)).ok());
  REQUIRE(SampleRows(narrow.to(at::kFloat), params, uniforms, absl::MakeSpan(b)).ok());
  for (size_t i = 0; i < 20; ++i) {
    CHECK(a[i].token == b[i].token);
    CHECK(a[i].log_prob == b[i].log_prob);
  }
}

TEST_CASE("extreme draws and logits give a token that has weight") {
  at::Tensor logits = at::full({1, 2000}, -200.0f);
  logits[0][3] = 100.0f;
  SampledToken out;
  for (const double uniform : {1e-300, 0.5, 1.0 - 1e-16}) {
    REQUIRE(SampleRows(logits, {RowSampling()}, {uniform}, absl::MakeSpan(&out, 1)).ok());
    CHECK(out.token == 3);
    CHECK(out.log_prob == 0.0f);
  }
}

TEST_CASE("NaN, infinity and bad parameters are refused by name") {
  for (const float bad : {NAN, INFINITY}) {
    at::Tensor logits = at::zeros({3, 100});
    logits[2][40] = bad;
    std::vector<SampledToken> out(3);
    const absl::Status status = SampleRows(logits, std::vector<RowSampling>(3),
                                           std::vector<double>(3, 0.5), absl::MakeSpan(out));
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).find("row 2") != std::string::npos);
  }
  RowSampling good;
  CHECK(ValidateRowSampling(good).ok());
  for (const double t : {-1.0, 1e-5, double(NAN), 1e9}) {
    RowSampling bad;
    bad.temperature = t;
    CHECK(std::string(ValidateRowSampling(bad).message()).find("temperature") != std::string::npos);
  }
  RowSampling bad;
  bad.top_p = 0.0;
  CHECK(std::string(ValidateRowSampling(bad).message()).find("top_p") != std::string::npos);
  bad = RowSampling();
  bad.min_p = 1.0;
  CHECK(std::string(ValidateRowSampling(bad).message()).find("min_p") != std::string::npos);
  bad = RowSampling();
  bad.top_k = -1;
  CHECK(std::string(ValidateRowSampling(bad).message()).find("top_k") != std::string::npos);
}

}  // namespace crescendo
