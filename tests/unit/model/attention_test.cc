// Packed and paged attention against plain ATen, in values and gradients.
#include <ATen/ATen.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/kernels.h"
#include "common/model/packed_attention.h"
#include "common/model/paged_attention.h"
#include "common/model/paged_kv_cache.h"
#include "common/model/torch_guard.h"

namespace crescendo {
namespace {

struct Shape {
  int query_heads, kv_heads, head_dim;
};

at::Tensor Random(at::IntArrayRef sizes, uint64_t seed) {
  at::Tensor t = at::empty(sizes, at::kFloat);
  CounterRng rng(seed);
  float* p = t.data_ptr<float>();
  for (int64_t i = 0; i < t.numel(); ++i) p[i] = static_cast<float>(rng.Normal());
  return t;
}

// The definition: softmax(q k^T / sqrt(d) + causal mask) v for one sequence, in double.
at::Tensor Reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t n = q.size(0);
  const int64_t group = q.size(1) / k.size(1);
  const at::Tensor qd = q.to(at::kDouble).transpose(0, 1);
  const at::Tensor kd = k.to(at::kDouble).transpose(0, 1).repeat_interleave(group, 0);
  const at::Tensor vd = v.to(at::kDouble).transpose(0, 1).repeat_interleave(group, 0);
  at::Tensor scores = at::matmul(qd, kd.transpose(1, 2)) / std::sqrt(double(q.size(2)));
  const at::Tensor mask = at::ones({n, n}, at::kBool).triu(1);
  scores = scores.masked_fill(mask, -INFINITY);
  return at::matmul(at::softmax(scores, -1), vd).transpose(0, 1).reshape({n, -1});
}

at::Tensor PackedReference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const std::vector<int32_t>& bounds) {
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    const int64_t first = bounds[i], n = bounds[i + 1] - bounds[i];
    if (n > 0) {
      parts.push_back(
          Reference(q.narrow(0, first, n), k.narrow(0, first, n), v.narrow(0, first, n)));
    }
  }
  return at::cat(parts, 0);
}

double MaxDiff(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

const Shape kShapes[] = {{4, 2, 24}, {9, 3, 64}, {4, 4, 32}, {12, 2, 128}, {3, 1, 10}, {5, 5, 2}};

}  // namespace

TEST_CASE("packed attention equals the definition, in values and gradients") {
  for (const int threads : {1, 2}) {
    SetComputeThreads(threads);
    for (const Shape& s : kShapes) {
      const std::vector<int32_t> bounds = {0, 1, 1, 8, 47, 80, 213, 230};
      const int64_t n = bounds.back();
      at::Tensor q = Random({n, s.query_heads, s.head_dim}, 1).requires_grad_();
      at::Tensor k = Random({n, s.kv_heads, s.head_dim}, 2).requires_grad_();
      at::Tensor v = Random({n, s.kv_heads, s.head_dim}, 3).requires_grad_();
      const at::Tensor weight = Random({n, int64_t{s.query_heads} * s.head_dim}, 4);
      PackedAttention attention(bounds);
      const at::Tensor out = attention.Attend(0, q, k, v);
      const at::Tensor expected = PackedReference(q, k, v, bounds);
      INFO("head_dim " << s.head_dim << " threads " << threads);
      CHECK(MaxDiff(out.detach(), expected.detach()) < 5e-6);
      (out * weight).sum().backward();
      const at::Tensor dq = q.grad().clone(), dk = k.grad().clone(), dv = v.grad().clone();
      q.mutable_grad().reset(), k.mutable_grad().reset(), v.mutable_grad().reset();
      (expected * weight).sum().backward();
      CHECK(MaxDiff(dq, q.grad()) < 2e-5);
      CHECK(MaxDiff(dk, k.grad()) < 2e-5);
      CHECK(MaxDiff(dv, v.grad()) < 2e-5);
      at::NoGradGuard no_grad;
      CHECK(at::equal(attention.Attend(0, q, k, v), out));
    }
  }
}

TEST_CASE("a token of a packed batch sees no other sequence: its bits do not change with them") {
  SetComputeThreads(2);
  const std::vector<int32_t> bounds = {0, 40, 100};
  at::Tensor q = Random({100, 4, 24}, 1), k = Random({100, 2, 24}, 2), v = Random({100, 2, 24}, 3);
  PackedAttention attention(bounds);
  const at::Tensor before = attention.Attend(0, q, k, v).clone();
  k.narrow(0, 0, 40).fill_(7.0), v.narrow(0, 0, 40).fill_(NAN);
  const at::Tensor after = attention.Attend(0, q, k, v);
  CHECK(at::equal(before.narrow(0, 40, 60), after.narrow(0, 40, 60)));
}

TEST_CASE("every instruction set computes the same attention within rounding") {
  SetComputeThreads(1);
  const int64_t n = 75, heads = 4, dim = 24;
  const at::Tensor q = Random({n, heads, dim}, 1), k = Random({n, 2, dim}, 2),
                   v = Random({n, 2, dim}, 3);
  const at::Tensor expected = Reference(q, k, v);
  for (const char* name : {"generic", "avx2", "avx512"}) {
    const kernels::Table* table = kernels::KernelsFor(name);
    if (table == nullptr) {
      WARN("this CPU has no " << name);
      continue;
    }
    at::Tensor out = at::zeros({n, heads * dim}, at::kFloat);
    at::Tensor scratch = at::empty({kernels::PackedScratchFloats(n, dim, false)}, at::kFloat);
    for (int64_t head = 0; head < 2; ++head) {
      kernels::PackedTask t{};
      t.q = q.data_ptr<float>() + head * 2 * dim;
      t.k = k.data_ptr<float>() + head * dim;
      t.v = v.data_ptr<float>() + head * dim;
      t.q_stride = t.out_stride = heads * dim;
      t.k_stride = t.v_stride = 2 * dim;
      t.out = out.data_ptr<float>() + head * 2 * dim;
      t.length = n;
      t.group = 2;
      t.head_dim = dim;
      t.scale = 1.0f / std::sqrt(static_cast<float>(dim));
      table->f32.packed_forward(t, scratch.data_ptr<float>());
    }
    INFO(name);
    CHECK(MaxDiff(out, expected) < 5e-6);
  }
}

namespace {

// Sequences of random lengths through a paged cache in the given steps (tokens a step), each with
// scattered blocks.
void CheckPaged(const Shape& s, int32_t block_size, at::ScalarType dtype,
                const std::vector<int32_t>& lengths, const std::vector<int32_t>& step_sizes,
                double tolerance) {
  ModelConfig config;
  config.layers = 2;
  config.query_heads = s.query_heads;
  config.kv_heads = s.kv_heads;
  config.head_dim = s.head_dim;
  std::vector<std::vector<int32_t>> tables(lengths.size());
  int32_t blocks = 0;
  for (const int32_t n : lengths) blocks += (n + block_size - 1) / block_size;
  std::vector<int32_t> free_blocks(static_cast<size_t>(blocks) + 3);
  std::iota(free_blocks.begin(), free_blocks.end(), 0);
  CounterRng rng(9);
  rng.Shuffle(free_blocks);
  auto cache = PagedKvCache::Create(config, blocks + 3, block_size, dtype);
  REQUIRE(cache.ok());
  for (size_t i = 0; i < lengths.size(); ++i) {
    for (int32_t n = 0; n < lengths[i]; n += block_size) {
      tables[i].push_back(free_blocks.back());
      free_blocks.pop_back();
    }
  }
  std::vector<at::Tensor> q, k, v, out(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    q.push_back(Random({lengths[i], s.query_heads, s.head_dim}, 100 + i).to(dtype));
    k.push_back(Random({lengths[i], s.kv_heads, s.head_dim}, 200 + i).to(dtype));
    v.push_back(Random({lengths[i], s.kv_heads, s.head_dim}, 300 + i).to(dtype));
    out[i] = at::zeros({lengths[i], int64_t{s.query_heads} * s.head_dim}, at::kFloat);
  }
  PagedAttention attention(cache->get(), s.query_heads);
  std::vector<int32_t> done(lengths.size(), 0);
  for (size_t step = 0;; ++step) {
    std::vector<PagedSequence> batch;
    std::vector<size_t> members;
    std::vector<at::Tensor> bq, bk, bv;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const int32_t want = step_sizes[(step + i) % step_sizes.size()];
      const int32_t n = std::min(want, lengths[i] - done[i]);
      if (n <= 0) continue;
      batch.push_back({tables[i], done[i], n});
      members.push_back(i);
      bq.push_back(q[i].narrow(0, done[i], n));
      bk.push_back(k[i].narrow(0, done[i], n));
      bv.push_back(v[i].narrow(0, done[i], n));
    }
    if (batch.empty()) break;
    REQUIRE(attention.SetBatch(batch).ok());
    const at::Tensor all = attention.Attend(1, at::cat(bq), at::cat(bk), at::cat(bv));
    int64_t row = 0;
    for (size_t m = 0; m < members.size(); ++m) {
      const size_t i = members[m];
      out[i].narrow(0, done[i], batch[m].new_tokens).copy_(all.narrow(0, row, batch[m].new_tokens));
      CHECK(attention.last_rows()[m] == row + batch[m].new_tokens - 1);
      row += batch[m].new_tokens;
      done[i] += batch[m].new_tokens;
    }
  }
  for (size_t i = 0; i < lengths.size(); ++i) {
    INFO("sequence " << i << " head_dim " << s.head_dim << " block " << block_size);
    CHECK(MaxDiff(out[i], Reference(q[i], k[i], v[i])) < tolerance);
  }
}

}  // namespace

TEST_CASE("paged attention equals the definition: prefill, chunks and decode mixed") {
  for (const int threads : {1, 2}) {
    SetComputeThreads(threads);
    for (const Shape& s : kShapes) {
      CheckPaged(s, 16, at::kFloat, {1, 17, 64, 100, 5}, {1000}, 5e-6);
      CheckPaged(s, 16, at::kFloat, {3, 33, 48, 90}, {7, 1, 20}, 5e-6);
      CheckPaged(s, 64, at::kFloat, {3, 130, 48}, {1, 64}, 5e-6);
      CheckPaged(s, 32, at::kBFloat16, {3, 33, 48, 90}, {7, 1, 20}, 2e-2);
    }
  }
}

TEST_CASE("a bad paged batch is refused with the sequence's number") {
  ModelConfig config;
  config.layers = 1, config.query_heads = 2, config.kv_heads = 1, config.head_dim = 8;
  auto cache = PagedKvCache::Create(config, 4, 16);
  REQUIRE(cache.ok());
  PagedAttention attention(cache->get(), 2);
  const std::vector<int32_t> one = {3}, wrong = {4};
  const PagedSequence good{one, 0, 16}, short_table{one, 0, 17}, outside{wrong, 0, 1},
      empty{one, 3, 0};
  CHECK(attention.SetBatch({good}).ok());
  for (const PagedSequence& bad : {short_table, outside, empty}) {
    const absl::Status status = attention.SetBatch({good, bad});
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).find("sequence 1") != std::string::npos);
    CHECK(attention.batch_tokens() == 0);
  }
  CHECK(!PagedKvCache::Create(config, 0, 16).ok());
  CHECK(!PagedKvCache::Create(config, 4, 17).ok());
  // 2^24 blocks of 128 tokens and 64 heads of 1024 are 2^42 bytes: refused, not tried to the end.
  config.kv_heads = 64, config.query_heads = 64, config.head_dim = 1024, config.layers = 1000;
  CHECK(PagedKvCache::Create(config, 1 << 24, 128).status().code() ==
        absl::StatusCode::kResourceExhausted);
}

TEST_CASE("a copied block holds the same keys and values in every layer") {
  ModelConfig config;
  config.layers = 2, config.query_heads = 2, config.kv_heads = 1, config.head_dim = 8;
  auto cache = PagedKvCache::Create(config, 2, 16);
  REQUIRE(cache.ok());
  PagedAttention attention(cache->get(), 2);
  const at::Tensor q = Random({10, 2, 8}, 1), k = Random({10, 1, 8}, 2), v = Random({10, 1, 8}, 3);
  const std::vector<int32_t> first = {0}, second = {1};
  for (int layer = 0; layer < 2; ++layer) {
    REQUIRE(attention.SetBatch({PagedSequence{first, 0, 9}}).ok());
    attention.Attend(layer, q.narrow(0, 0, 9), k.narrow(0, 0, 9), v.narrow(0, 0, 9));
  }
  (*cache)->CopyBlock(0, 1);
  for (int layer = 0; layer < 2; ++layer) {
    REQUIRE(attention.SetBatch({PagedSequence{second, 9, 1}}).ok());
    const at::Tensor out =
        attention.Attend(layer, q.narrow(0, 9, 1), k.narrow(0, 9, 1), v.narrow(0, 9, 1));
    CHECK(MaxDiff(out, Reference(q, k, v).narrow(0, 9, 1)) < 5e-6);
  }
}

}  // namespace crescendo
