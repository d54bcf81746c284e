// The policy on a device against the CPU's: logits, tokens, graphs, weight swaps, bad input.
#include "common/model/cuda_policy.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/paged_attention.h"
#include "common/model/paged_kv_cache.h"
#include "common/model/sampler.h"
#include "tests/unit/model/cuda_test_support.h"

namespace crescendo {
namespace {

constexpr int kBlocks = 64;
constexpr int kBlockTokens = 16;

ModelConfig SmallConfig(Architecture architecture, int head_dim = 12) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 53, config.hidden_size = 40, config.layers = 2, config.query_heads = 4;
  config.kv_heads = 2, config.head_dim = head_dim, config.mlp_size = 56;
  config.rope_theta = 100.0;
  config.tie_embeddings = architecture == Architecture::kQwen3;
  config.qkv_bias = architecture == Architecture::kQwen2;
  config.qk_norm = architecture == Architecture::kQwen3;
  config.max_positions = 512;
  config.eos_token_ids = {2};
  return config;
}

std::unique_ptr<PolicyModel> Make(const ModelConfig& config, uint64_t seed,
                                  at::ScalarType dtype = at::kFloat) {
  auto model = PolicyModel::Init(config, seed, {dtype});
  REQUIRE(model.ok());
  // Biases and norms away from 0 and 1, so that they count.
  at::manual_seed(1);
  for (const NamedTensor& p : (*model)->parameters()) {
    if (p.tensor.dim() == 1) p.tensor.add_(at::randn_like(p.tensor) * 0.3);
  }
  return std::move(*model);
}

std::unique_ptr<CudaPolicy> OnCuda(const PolicyModel& model, bool graphs) {
  CudaPolicyOptions options;
  options.blocks = kBlocks;
  options.block_tokens = kBlockTokens;
  options.dtype = model.dtype() == at::kFloat ? cuda::Dtype::kF32 : cuda::Dtype::kBf16;
  options.graphs = graphs;
  options.step_tokens = 32;
  options.sequences = 4;
  auto policy = CudaPolicy::Create(model.config(), model.State(), options);
  INFO(policy.status());
  REQUIRE(policy.ok());
  return std::move(*policy);
}

// A sequence as both sides are told of it.
struct Text {
  std::vector<int32_t> tokens;
  std::vector<int32_t> blocks;
  int32_t done = 0;  // tokens in the cache
};

std::vector<Text> Texts(const std::vector<int>& lengths, int blocks = 6) {
  std::vector<Text> texts;
  CounterRng rng(3);
  int32_t block = 0;
  for (const int length : lengths) {
    Text text;
    for (int i = 0; i < length; ++i) text.tokens.push_back(static_cast<int32_t>(rng.Below(53)));
    // Room to grow; the blocks of different texts alternate.
    for (int b = 0; b < blocks; ++b) text.blocks.push_back((block + 7 * b) % kBlocks);
    ++block;
    texts.push_back(std::move(text));
  }
  return texts;
}

// What each text computes in a step; a text that ends its tokens draws one.
struct StepPart {
  int text;
  int tokens;
};

class CpuPolicy {
 public:
  explicit CpuPolicy(PolicyModel* model) : model_(model) {
    auto cache = PagedKvCache::Create(model->config(), kBlocks, kBlockTokens, model->dtype());
    REQUIRE(cache.ok());
    cache_ = std::move(*cache);
    attention_ = std::make_unique<PagedAttention>(cache_.get(), model->config().query_heads);
  }
  PagedKvCache& cache() { return *cache_; }

  // Logits of the last token of each part, [parts, vocab].
  at::Tensor Logits(const std::vector<Text>& texts, const std::vector<StepPart>& parts) {
    const at::NoGradGuard no_grad;
    std::vector<PagedSequence> sequences;
    std::vector<int64_t> tokens;
    for (const StepPart& part : parts) {
      const Text& text = texts[static_cast<size_t>(part.text)];
      sequences.push_back({text.blocks, text.done, part.tokens});
      tokens.insert(tokens.end(), text.tokens.begin() + text.done,
                    text.tokens.begin() + text.done + part.tokens);
    }
    REQUIRE(attention_->SetBatch(sequences).ok());
    const at::Tensor hidden =
        model_->Hidden(at::tensor(tokens, at::kLong), attention_->Positions(), *attention_);
    return model_->Logits(hidden.index_select(0, at::tensor(attention_->last_rows(), at::kLong)));
  }

 private:
  PolicyModel* model_;
  std::unique_ptr<PagedKvCache> cache_;
  std::unique_ptr<PagedAttention> attention_;
};

cuda::Draw DrawOf(int text, const Text& state) {
  cuda::Draw draw;
  draw.seed = 77;
  draw.group = static_cast<uint64_t>(text);
  draw.position = static_cast<uint32_t>(state.tokens.size());
  return draw;
}

std::vector<cuda::Drawn> RunCuda(CudaPolicy* policy, const std::vector<Text>& texts,
                                 const std::vector<StepPart>& parts) {
  CudaBatch batch;
  for (const StepPart& part : parts) {
    const Text& text = texts[static_cast<size_t>(part.text)];
    CudaSequence sequence;
    sequence.new_tokens =
        absl::MakeConstSpan(text.tokens)
            .subspan(static_cast<size_t>(text.done), static_cast<size_t>(part.tokens));
    sequence.context_before = text.done;
    sequence.blocks = text.blocks;
    if (text.done + part.tokens == static_cast<int>(text.tokens.size())) {
      sequence.first_draw = static_cast<int32_t>(batch.draws.size());
      sequence.draws = 1;
      batch.draws.push_back(DrawOf(part.text, text));
    }
    batch.sequences.push_back(sequence);
  }
  std::vector<cuda::Drawn> drawn(batch.draws.size());
  const absl::Status status = policy->Step(batch, absl::MakeSpan(drawn));
  INFO(status);
  REQUIRE(status.ok());
  return drawn;
}

// Adds what was drawn to the texts that were drawn from.
void Advance(std::vector<Text>* texts, const std::vector<StepPart>& parts,
             const std::vector<cuda::Drawn>& drawn) {
  size_t next = 0;
  for (const StepPart& part : parts) {
    Text& text = (*texts)[static_cast<size_t>(part.text)];
    text.done += part.tokens;
    if (text.done == static_cast<int>(text.tokens.size())) {
      text.tokens.push_back(drawn[next++].token);
    }
  }
}

double WorstLogit(const CudaPolicy& policy, const at::Tensor& expected,
                  const std::vector<Text>& texts, const std::vector<StepPart>& parts) {
  const auto logits = policy.LastLogits();
  REQUIRE(logits.ok());
  const int64_t vocab = policy.config().vocab_size;
  double worst = 0.0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Text& text = texts[static_cast<size_t>(parts[i].text)];
    if (text.done + parts[i].tokens < static_cast<int>(text.tokens.size())) continue;
    for (int64_t v = 0; v < vocab; ++v) {
      const float found = (*logits)[static_cast<size_t>(policy.logit_rows()[i] * vocab + v)];
      const double error =
          std::abs(found - expected.data_ptr<float>()[static_cast<int64_t>(i) * vocab + v]);
      worst = error <= worst ? worst : error;
    }
  }
  return worst;
}

// Steps that mix prefill chunks and decoding, then decode only, with changing batch sizes.
const std::vector<std::vector<StepPart>> kSteps = {
    {{0, 9}, {1, 20}},
    {{1, 20}, {0, 1}, {2, 1}},
    {{0, 1}, {1, 1}, {2, 1}},
    {{2, 1}, {0, 1}, {1, 1}},
    {{0, 1}, {1, 1}, {2, 1}},
    {{0, 1}, {2, 1}},
    {{3, 33}, {0, 1}, {2, 1}},
    {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}},
    {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}},  // (grows past the sequences made room for)
    {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}}};
const std::vector<int> kLengths = {9, 40, 1, 33, 1};

void CheckAgainstCpu(const ModelConfig& config, at::ScalarType dtype, double tolerance,
                     std::vector<Text> texts, const std::vector<std::vector<StepPart>>& steps) {
  INFO(ArchitectureName(config.architecture) << ", head size " << config.head_dim);
  const auto model = Make(config, 17, dtype);
  CpuPolicy cpu(model.get());
  const auto cuda = OnCuda(*model, true);
  for (const std::vector<StepPart>& parts : steps) {
    const at::Tensor expected = cpu.Logits(texts, parts);
    const std::vector<cuda::Drawn> drawn = RunCuda(cuda.get(), texts, parts);
    CHECK(WorstLogit(*cuda, expected, texts, parts) <= tolerance);
    if (dtype == at::kFloat) {
      size_t next = 0;
      for (size_t i = 0; i < parts.size(); ++i) {
        const Text& text = texts[static_cast<size_t>(parts[i].text)];
        if (text.done + parts[i].tokens < static_cast<int>(text.tokens.size())) continue;
        const cuda::Draw draw = DrawOf(parts[i].text, text);
        const std::vector<double> uniform = {
            TokenUniform(draw.seed, draw.group, draw.sample, draw.position)};
        std::vector<SampledToken> token(1);
        REQUIRE(SampleRows(expected.narrow(0, static_cast<int64_t>(i), 1).contiguous(),
                           std::vector<RowSampling>(1), uniform, absl::MakeSpan(token))
                    .ok());
        CHECK(drawn[next].token == token[0].token);
        CHECK(std::abs(drawn[next].log_prob - token[0].log_prob) <= 1e-5f);
        ++next;
      }
    }
    Advance(&texts, parts, drawn);
  }
  CHECK(cuda->graph_launches() > 0);
}

}  // namespace

TEST_CASE("fp32: logits within 2e-5 of the CPU's and the same tokens, for every architecture") {
  if (!HaveDevice()) return;
  for (const auto architecture :
       {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3}) {
    CheckAgainstCpu(SmallConfig(architecture), at::kFloat, 2e-5, Texts(kLengths), kSteps);
  }
  CheckAgainstCpu(SmallConfig(Architecture::kQwen2, 64), at::kFloat, 2e-5, Texts(kLengths), kSteps);
}

TEST_CASE("which shapes FlashInfer's kernel serves") {
  CHECK_FALSE(cuda::FlashInferServes(cuda::Dtype::kF32, {2, 64, 16}, 4));
  CHECK_FALSE(cuda::FlashInferServes(cuda::Dtype::kBf16, {2, 80, 16}, 4));
}

TEST_CASE("bf16: logits near the CPU's, head sizes with and without FlashInfer's kernel") {
  if (!HaveDevice()) return;
  for (const int head_dim : {12, 64, 128}) {
    CheckAgainstCpu(SmallConfig(Architecture::kQwen2, head_dim), at::kBFloat16, 0.12,
                    Texts(kLengths), kSteps);
  }
}

TEST_CASE("a context of more than one chunk, in prefill and in decoding") {
  if (!HaveDevice()) return;
  const std::vector<std::vector<StepPart>> steps = {
      {{0, 150}}, {{1, 3}, {0, 150}}, {{0, 1}, {1, 1}}, {{0, 1}, {1, 1}}, {{1, 1}, {0, 1}}};
  CheckAgainstCpu(SmallConfig(Architecture::kQwen2, 64), at::kBFloat16, 0.12, Texts({300, 3}, 21),
                  steps);
  CheckAgainstCpu(SmallConfig(Architecture::kQwen2), at::kFloat, 2e-5, Texts({300, 3}, 21), steps);
}

TEST_CASE("the same bits with CUDA graphs and without") {
  if (!HaveDevice()) return;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const auto model = Make(SmallConfig(Architecture::kQwen2, 64), 5, dtype);
    std::vector<std::vector<float>> results;
    for (const bool graphs : {false, true}) {
      const auto cuda = OnCuda(*model, graphs);
      std::vector<Text> texts = Texts(kLengths);
      std::vector<float> result;
      for (const std::vector<StepPart>& parts : kSteps) {
        const auto drawn = RunCuda(cuda.get(), texts, parts);
        for (const cuda::Drawn& d : drawn) {
          result.push_back(static_cast<float>(d.token));
          result.push_back(d.log_prob);
        }
        Advance(&texts, parts, drawn);
      }
      CHECK((cuda->graph_launches() > 0) == graphs);
      results.push_back(result);
    }
    CHECK(results[0] == results[1]);
  }
}

TEST_CASE("new weights count from the next step on, through a captured graph too") {
  if (!HaveDevice()) return;
  const auto first = Make(SmallConfig(Architecture::kQwen3), 1);
  const auto second = Make(SmallConfig(Architecture::kQwen3), 2);
  const auto cuda = OnCuda(*first, true);
  std::vector<Text> texts = Texts({1, 1});
  const std::vector<StepPart> parts = {{0, 1}, {1, 1}};
  for (int i = 0; i < 4; ++i) Advance(&texts, parts, RunCuda(cuda.get(), texts, parts));
  const int64_t before = cuda->graph_launches();
  REQUIRE(cuda->LoadState(second->State()).ok());
  // Fresh texts, so that the cache holds nothing of the first weights.
  texts = Texts({1, 1});
  CpuPolicy cpu(second.get());
  for (int i = 0; i < 3; ++i) {
    const at::Tensor expected = cpu.Logits(texts, parts);
    const auto drawn = RunCuda(cuda.get(), texts, parts);
    CHECK(WorstLogit(*cuda, expected, texts, parts) <= 2e-5);
    Advance(&texts, parts, drawn);
  }
  CHECK(cuda->graph_launches() == before + 3);
  auto state = first->State();
  state.pop_back();
  const absl::Status status = cuda->LoadState(state);
  CHECK(absl::IsInvalidArgument(status));
  CHECK(absl::StrContains(status.message(), "model.norm.weight"));
}

TEST_CASE("copied blocks hold what the first one held, also in a chain; draws share a row") {
  if (!HaveDevice()) return;
  const auto model = Make(SmallConfig(Architecture::kLlama), 17);
  const auto cuda = OnCuda(*model, true);
  std::vector<Text> texts = Texts({9});
  CudaBatch batch;
  CudaSequence prompt;
  prompt.new_tokens = texts[0].tokens;
  prompt.blocks = texts[0].blocks;
  prompt.draws = 3;
  batch.sequences.push_back(prompt);
  for (uint32_t sample = 0; sample < 3; ++sample) {
    batch.draws.push_back(DrawOf(0, texts[0]));
    batch.draws.back().sample = sample;
  }
  std::vector<cuda::Drawn> drawn(3);
  REQUIRE(cuda->Step(batch, absl::MakeSpan(drawn)).ok());

  // The same next token for three samples: one in the first block, one in a copy, one in the copy's
  // copy, which was made in the same step.
  const std::vector<int32_t> next = {drawn[0].token};
  const std::vector<std::vector<int32_t>> tables = {{texts[0].blocks[0]}, {40}, {41}};
  batch = CudaBatch();
  batch.copies = {{texts[0].blocks[0], 40}, {40, 41}, {40, 42}};
  for (const auto& table : tables) {
    CudaSequence sample;
    sample.new_tokens = next;
    sample.context_before = 9;
    sample.blocks = table;
    sample.first_draw = static_cast<int32_t>(batch.draws.size());
    sample.draws = 1;
    batch.sequences.push_back(sample);
    batch.draws.push_back(DrawOf(0, texts[0]));
  }
  REQUIRE(cuda->Step(batch, absl::MakeSpan(drawn)).ok());
  CHECK(drawn[1].token == drawn[0].token);
  CHECK(drawn[1].log_prob == drawn[0].log_prob);
  CHECK(drawn[2].log_prob == drawn[0].log_prob);
}

TEST_CASE("bad input is refused before anything runs") {
  if (!HaveDevice()) return;
  const auto model = Make(SmallConfig(Architecture::kLlama), 17);
  const auto cuda = OnCuda(*model, true);
  const std::vector<int32_t> good_token = {1}, bad_token = {53}, good_block = {0},
                             bad_block = {kBlocks}, none;
  const auto refused = [&](const std::vector<int32_t>& tokens, int32_t before,
                           const std::vector<int32_t>& blocks, absl::string_view what) {
    CudaBatch batch;
    CudaSequence sequence;
    sequence.new_tokens = tokens;
    sequence.context_before = before;
    sequence.blocks = blocks;
    batch.sequences.push_back(sequence);
    const absl::Status status = cuda->Step(batch, absl::Span<cuda::Drawn>());
    INFO(status);
    CHECK(absl::IsInvalidArgument(status));
    CHECK(absl::StrContains(status.message(), what));
  };
  refused(bad_token, 0, good_block, "vocabulary");
  refused(good_token, 16, good_block, "table");
  refused(good_token, 0, bad_block, "block 64");
  refused(none, 0, good_block, "at least 1 new token");
  refused(good_token, -1, good_block, "at least 1 new token");
}

TEST_CASE("the ladder of graph sizes holds each batch, and is short") {
  std::vector<int> sizes;
  for (int n = 1; n <= 512; ++n) {
    CHECK(GraphBatch(n) >= n);
    CHECK(GraphBatch(n) <= n + std::max(7, n / 4));
    if (sizes.empty() || sizes.back() != GraphBatch(n)) sizes.push_back(GraphBatch(n));
  }
  CHECK(sizes.size() <= 30);
  CHECK(GraphBatch(513) == 0);
}

}  // namespace crescendo
