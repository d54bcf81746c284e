// Log-probabilities of tokens: values, entropy and gradients against plain ATen.
#include "common/model/log_prob.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "catch2/catch.hpp"
#include "common/model/sampler.h"
#include "common/model/torch_guard.h"
#include "common/os/process.h"

namespace crescendo {
namespace {

double MaxDiff(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

}  // namespace

TEST_CASE("log-probability, entropy and gradients equal ATen's, over several chunks too") {
  at::manual_seed(3);
  SetComputeThreads(2);
  for (const auto& [tokens, vocab, temperature] :
       {std::tuple<int64_t, int64_t, double>{37, 47, 1.0},
        {150, 66000, 0.6},  // 64-row chunks
        {5, 1, 1.0},
        {20, 1030, 1.3}}) {
    const at::Tensor hidden = at::randn({tokens, 24}).requires_grad_();
    const at::Tensor head = (at::randn({vocab, 24}) * 0.5).requires_grad_();
    const at::Tensor targets = at::randint(vocab, {tokens}, at::kLong);
    const at::Tensor weight = at::randn({tokens});
    const TokenLogProbs got = TokenLogProb(hidden, head, targets, temperature, true);
    const at::Tensor all = at::log_softmax(
        at::matmul(hidden.to(at::kDouble), head.to(at::kDouble).t()) / temperature, -1);
    const at::Tensor expected = all.gather(1, targets.unsqueeze(1)).squeeze(1);
    INFO("vocab " << vocab);
    CHECK(MaxDiff(got.log_prob.detach(), expected.detach()) < 5e-6);
    const at::Tensor entropy = -(all.exp() * all).sum(-1);
    CHECK(MaxDiff(got.entropy.detach(), entropy.detach()) < 1e-5);
    const at::Tensor bonus = at::randn({tokens}) * (at::rand({tokens}) < 0.5);  // not of all rows
    ((got.log_prob * weight).sum() + (got.entropy * bonus).sum()).backward();
    const at::Tensor d_hidden = hidden.grad().clone(), d_head = head.grad().clone();
    hidden.mutable_grad().reset(), head.mutable_grad().reset();
    ((expected * weight).sum() + (entropy * bonus).sum()).backward();
    CHECK(MaxDiff(d_hidden, hidden.grad()) < 2e-5);
    CHECK(MaxDiff(d_head, head.grad()) < 4e-5);
    at::NoGradGuard no_grad;
    CHECK(at::equal(TokenLogProb(hidden, head, targets, temperature).log_prob, got.log_prob));
  }
}

TEST_CASE("the sampler's log-probability has the bits of the learner's for the same logits") {
  at::manual_seed(5);
  SetComputeThreads(1);
  const int64_t vocab = 1500, rows = 64;
  const at::Tensor hidden = at::randn({rows, 32}), head = at::randn({vocab, 32});
  const at::Tensor logits = at::mm(hidden, head.t());
  for (const double temperature : {1.0, 0.7}) {
    RowSampling sampling;
    sampling.temperature = temperature;
    std::vector<RowSampling> params(rows, sampling);
    std::vector<double> uniforms(rows);
    for (int64_t i = 0; i < rows; ++i) uniforms[i] = (static_cast<double>(i) + 0.5) / rows;
    std::vector<SampledToken> out(rows);
    REQUIRE(SampleRows(logits, params, uniforms, absl::MakeSpan(out)).ok());
    at::Tensor targets = at::empty({rows}, at::kLong);
    for (int64_t i = 0; i < rows; ++i) targets.data_ptr<int64_t>()[i] = out[i].token;
    const at::Tensor learner = TokenLogProb(hidden, head, targets, temperature).log_prob;
    for (int64_t i = 0; i < rows; ++i) CHECK(learner.data_ptr<float>()[i] == out[i].log_prob);
  }
}

TEST_CASE("bf16: the gradient of the head is summed in fp32") {
  at::manual_seed(4);
  const at::Tensor hidden = at::randn({300, 32}).to(at::kBFloat16).requires_grad_();
  const at::Tensor head = at::randn({700, 32}).to(at::kBFloat16).requires_grad_();
  const at::Tensor targets = at::randint(700, {300}, at::kLong);
  TokenLogProb(hidden, head, targets, 1.0).log_prob.sum().backward();
  const at::Tensor h = hidden.detach().to(at::kDouble).requires_grad_();
  const at::Tensor w = head.detach().to(at::kDouble).requires_grad_();
  at::log_softmax(at::matmul(h, w.t()), -1).gather(1, targets.unsqueeze(1)).sum().backward();
  CHECK(MaxDiff(head.grad(), w.grad()) < 0.02 * w.grad().abs().max().item<double>());
  CHECK(MaxDiff(hidden.grad(), h.grad()) < 0.02 * h.grad().abs().max().item<double>());
}

TEST_CASE("targets outside the vocabulary and bad shapes are errors, not reads past the end") {
  const at::Tensor hidden = at::randn({2, 8}), head = at::randn({5, 8});
  const auto status = [&](const at::Tensor& targets, double temperature) {
    return CatchTorch("log-prob", [&] { TokenLogProb(hidden, head, targets, temperature); });
  };
  const at::Tensor good = at::zeros({2}, at::kLong);
  CHECK(status(good, 1.0).ok());
  CHECK(!status(good + 5, 1.0).ok());
  CHECK(!status(good - 1, 1.0).ok());
  CHECK(!status(at::zeros({3}, at::kLong), 1.0).ok());
  CHECK(!status(good, 0.0).ok());
}

TEST_CASE("forward and backward in one give what autograd gives, and call for slopes in order") {
  at::manual_seed(11);
  SetComputeThreads(2);
  const at::ScalarType dtype = GENERATE(at::kFloat, at::kBFloat16);
  const int64_t tokens = 150, vocab = GENERATE(40, 260'000);  // in one chunk, in chunks of 64
  const at::Tensor hidden = at::randn({tokens, 12}).to(dtype).requires_grad_();
  const at::Tensor head = (at::randn({vocab, 12}) * 0.5).to(dtype).requires_grad_();
  const at::Tensor targets = at::randint(vocab, {tokens}, at::kLong);
  const at::Tensor weight = at::randn({tokens}), bonus = at::randn({tokens});
  const TokenLogProbs graph = TokenLogProb(hidden, head, targets, 0.8, true);
  ((graph.log_prob * weight).sum() + (graph.entropy * bonus).sum()).backward();
  const at::Tensor d_head = head.grad().to(at::kFloat);
  head.mutable_grad().reset();
  const at::NoGradGuard no_grad;
  at::Tensor d_hidden = at::empty_like(hidden);
  int64_t next = 0;
  const auto slopes = [&](int64_t begin, int64_t end, const float* log_prob, const float* entropy,
                          float* d_log_prob, float* d_entropy) {
    CHECK(begin == next);
    next = end;
    CHECK(log_prob[0] == graph.log_prob[begin].item<float>());
    CHECK(entropy[0] == graph.entropy[begin].item<float>());
    for (int64_t t = begin; t < end; ++t) {
      d_log_prob[t - begin] = weight[t].item<float>();
      d_entropy[t - begin] = bonus[t].item<float>();
    }
  };
  const TokenLogProbs fused =
      TokenLogProbBackward(hidden, head, targets, 0.8, true, false, slopes, d_hidden);
  CHECK(next == tokens);
  CHECK(at::equal(fused.log_prob, graph.log_prob));
  CHECK(at::equal(fused.entropy, graph.entropy));
  const double tolerance = dtype == at::kFloat ? 1e-5 : 2e-2;
  CHECK(MaxDiff(d_hidden, hidden.grad()) <= tolerance * hidden.grad().abs().max().item<double>());
  REQUIRE(head.grad().scalar_type() == at::kFloat);
  CHECK(MaxDiff(head.grad(), d_head) <= tolerance * d_head.abs().max().item<double>());
}

TEST_CASE("no matrix of tokens x vocabulary is ever in memory") {
  SetComputeThreads(2);
  const int64_t tokens = 2000, vocab = 100'000;  // 800 MB of logits
  at::manual_seed(12);
  const at::Tensor hidden = at::randn({tokens, 4}), head = at::randn({vocab, 4}).requires_grad_();
  const at::Tensor targets = at::randint(vocab, {tokens}, at::kLong);
  const at::NoGradGuard no_grad;
  at::Tensor d_hidden = at::empty_like(hidden);
  const auto slopes = [](int64_t begin, int64_t end, const float*, const float*, float* d_log_prob,
                         float*) { std::fill_n(d_log_prob, end - begin, 0.5f); };
  const int64_t before = PeakResidentBytes();
  TokenLogProb(hidden, head, targets, 1.0);
  TokenLogProbBackward(hidden, head, targets, 1.0, false, false, slopes, d_hidden);
  CHECK(PeakResidentBytes() - before < 250 << 20);
}

}  // namespace crescendo
