// The CUDA kernels against the CPU kernels, and against formulas in double where these have no
// counterpart.
#include "common/model/cuda_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/cuda_math.cuh"
#include "common/model/kernels.h"
#include "tests/unit/model/cuda_test_support.h"

namespace crescendo::cuda {
namespace {

template <typename T>
constexpr Dtype kDtype = sizeof(T) == 4 ? Dtype::kF32 : Dtype::kBf16;
// A unit in the last place of a bf16 of size 1.
template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 2e-6 : 8e-3;

template <typename T>
std::vector<T> Random(size_t n, uint64_t seed, double scale = 1.0) {
  CounterRng rng(seed);
  std::vector<T> values(n);
  for (T& x : values) x = Narrow<T>(static_cast<float>(scale * rng.Normal()));
  return values;
}

template <typename T>
void CheckNear(const std::vector<T>& found, const std::vector<T>& expected,
               double tolerance = kTolerance<T>) {
  REQUIRE(found.size() == expected.size());
  double worst = 0.0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double e = Widen(expected[i]);
    const double error = std::abs(Widen(found[i]) - e) / std::max(1.0, std::abs(e));
    worst = error <= worst ? worst : error;  // a NaN stays
  }
  CHECK(worst <= tolerance);
}

// fn(T()) for fp32 and bf16.
template <typename F>
void ForEachType(const F& fn) {
  SECTION("fp32") { fn(float()); }
  SECTION("bf16") { fn(Bf16()); }
}

}  // namespace

TEST_CASE("the device's draw is TokenUniform, and its e^x the CPU's") {
  CounterRng rng(11);
  for (int i = 0; i < 2000; ++i) {
    const uint64_t seed = rng(), group = rng();
    const auto sample = static_cast<uint32_t>(rng()), position = static_cast<uint32_t>(rng());
    REQUIRE(UniformOf(seed, group, sample, position) ==
            TokenUniform(seed, group, sample, position));
  }
  for (float x = -90.0f; x < 5.0f; x += 0.0137f) {
    float cpu;
    kernels::Kernels().row_exp(&x, &cpu, 1, 0.0f, 1.0f);
    REQUIRE(std::abs(Exp(x) - cpu) <= 3e-7f * cpu);
  }
}

TEST_CASE("GatherRows copies rows of any length") {
  if (!HaveDevice()) return;
  ForEachType([](auto type) {
    using T = decltype(type);
    for (const int n : {1, 8, 33, 1024, 1536}) {
      const auto table = Random<T>(static_cast<size_t>(5 * n), 3);
      const std::vector<int32_t> ids = {4, 0, 0, 2};
      const OnDevice<T> d_table(table), out(static_cast<size_t>(4 * n));
      const OnDevice<int32_t> d_ids(ids);
      REQUIRE(GatherRows(kDtype<T>, {d_table.data(), d_ids.data(), out.data(), 4, n}, nullptr) ==
              cudaSuccess);
      std::vector<T> expected;
      for (const int32_t id : ids) {
        expected.insert(expected.end(), table.begin() + id * n, table.begin() + (id + 1) * n);
      }
      CheckNear(out.Read(), expected, 0.0);
    }
  });
}

TEST_CASE("RmsNorm is the CPU's, with the residual added first where there is one") {
  if (!HaveDevice()) return;
  ForEachType([](auto type) {
    using T = decltype(type);
    for (const int n : {1, 8, 64, 100, 1027, 1536, 4096}) {
      for (const bool add : {false, true}) {
        const int rows = 3;
        const auto count = static_cast<size_t>(rows * n);
        std::vector<T> x = Random<T>(count, 1), delta = Random<T>(count, 2);
        const std::vector<T> weight = Random<T>(static_cast<size_t>(n), 3);
        const OnDevice<T> d_x(x), d_delta(delta), d_weight(weight), y(count);
        RmsNormArgs args{};
        args.x = d_x.data();
        args.delta = add ? d_delta.data() : nullptr;
        args.weight = d_weight.data();
        args.y = y.data();
        args.rows = rows;
        args.n = n;
        args.eps = 1e-5f;
        REQUIRE(RmsNorm(kDtype<T>, args, nullptr) == cudaSuccess);
        for (size_t i = 0; add && i < count; ++i) x[i] = Narrow<T>(Widen(x[i]) + Widen(delta[i]));
        std::vector<T> expected(count);
        kernels::TypedKernels<T>().rms_norm(x.data(), n, weight.data(), expected.data(), n, nullptr,
                                            rows, n, 1e-5f);
        CheckNear(y.Read(), expected);
        CheckNear(d_x.Read(), x, 0.0);
      }
    }
  });
}

TEST_CASE("SwiGlu is the CPU's") {
  if (!HaveDevice()) return;
  ForEachType([](auto type) {
    using T = decltype(type);
    for (const int n : {1, 8, 52, 1027, 2304}) {
      const int rows = 3;
      const auto gate_up = Random<T>(static_cast<size_t>(2 * rows * n), 7, 3.0);
      const OnDevice<T> d_gate_up(gate_up), out(static_cast<size_t>(rows * n));
      REQUIRE(SwiGlu(kDtype<T>, {d_gate_up.data(), out.data(), rows, n}, nullptr) == cudaSuccess);
      std::vector<T> expected(static_cast<size_t>(rows * n));
      kernels::TypedKernels<T>().swiglu(gate_up.data(), expected.data(), rows, n);
      CheckNear(out.Read(), expected);
    }
  });
}

TEST_CASE("CopyBlocks copies a block in every plane and nothing else") {
  if (!HaveDevice()) return;
  for (const int64_t words : {4, 5}) {  // of a block: with and without 16-byte copies
    const int blocks = 6, planes = 3;
    std::vector<int32_t> pool(static_cast<size_t>(words * blocks * planes));
    for (size_t i = 0; i < pool.size(); ++i) pool[i] = static_cast<int32_t>(i);
    const OnDevice<int32_t> d_pool(pool), from_to(std::vector<int32_t>{1, 4, 1, 0, 3, 5});
    CopyBlocksArgs args{};
    args.pool = d_pool.data();
    args.from_to = from_to.data();
    args.copies = 3;
    args.planes = planes;
    args.plane_bytes = words * blocks * 4;
    args.block_bytes = words * 4;
    REQUIRE(CopyBlocks(args, nullptr) == cudaSuccess);
    for (int64_t p = 0; p < planes; ++p) {
      for (int64_t w = 0; w < words; ++w) {
        const auto at = [&](int64_t block) -> int32_t& {
          return pool[static_cast<size_t>((p * blocks + block) * words + w)];
        };
        at(4) = at(1);
        at(0) = at(1);
        at(5) = at(3);
      }
    }
    CHECK(d_pool.Read() == pool);
  }
}

TEST_CASE("QkvToCache: bias, head norms, RoPE, and the places of the cache") {
  if (!HaveDevice()) return;
  ForEachType([](auto type) {
    using T = decltype(type);
    for (const int dim : {8, 64, 128}) {
      for (const bool extras : {false, true}) {  // Qwen2's bias and Qwen3's norms at once
        const int rows = 4, query_heads = 6, kv_heads = 2, blocks = 3, block_tokens = 16;
        const int heads = query_heads + 2 * kv_heads;
        const int width = heads * dim;
        const auto qkv = Random<T>(static_cast<size_t>(rows * width), 1);
        const auto bias = Random<T>(static_cast<size_t>(width), 2);
        const auto q_norm = Random<T>(static_cast<size_t>(dim), 3);
        const auto k_norm = Random<T>(static_cast<size_t>(dim), 4);
        std::vector<float> cosine(static_cast<size_t>(50 * dim / 2)), sine(cosine.size());
        for (size_t i = 0; i < cosine.size(); ++i) {
          cosine[i] = std::cos(0.37f * static_cast<float>(i));
          sine[i] = std::sin(0.37f * static_cast<float>(i));
        }
        const std::vector<int32_t> positions = {0, 7, 31, 49};
        const std::vector<int32_t> slots = {5, 47, -1, 16};
        const auto cache_size = static_cast<size_t>(blocks * block_tokens * kv_heads * dim);
        const std::vector<T> empty(cache_size, Narrow<T>(-3.0f));
        const OnDevice<T> d_qkv(qkv), d_bias(bias), d_q_norm(q_norm), d_k_norm(k_norm);
        const OnDevice<float> d_cosine(cosine), d_sine(sine);
        const OnDevice<int32_t> d_positions(positions), d_slots(slots);
        const OnDevice<T> q(static_cast<size_t>(rows * query_heads * dim)), keys(empty),
            values(empty);
        QkvArgs args{};
        args.qkv = d_qkv.data();
        if (extras) {
          args.bias = d_bias.data();
          args.q_norm = d_q_norm.data();
          args.k_norm = d_k_norm.data();
        }
        args.cosine = d_cosine.data();
        args.sine = d_sine.data();
        args.positions = d_positions.data();
        args.slots = d_slots.data();
        args.q = q.data();
        args.key_cache = keys.data();
        args.value_cache = values.data();
        args.kv = {kv_heads, dim, block_tokens};
        args.rows = rows;
        args.query_heads = query_heads;
        args.eps = 1e-6f;
        REQUIRE(QkvToCache(kDtype<T>, args, nullptr) == cudaSuccess);

        std::vector<T> expected_q, expected_keys = empty, expected_values = empty;
        for (int r = 0; r < rows; ++r) {
          std::vector<T> row(qkv.begin() + r * width, qkv.begin() + (r + 1) * width);
          for (int i = 0; extras && i < width; ++i) {
            row[static_cast<size_t>(i)] =
                Narrow<T>(Widen(row[static_cast<size_t>(i)]) + Widen(bias[static_cast<size_t>(i)]));
          }
          const auto& table = kernels::TypedKernels<T>();
          T* k = row.data() + query_heads * dim;
          if (extras) {
            table.rms_norm(row.data(), dim, q_norm.data(), row.data(), dim, nullptr, query_heads,
                           dim, 1e-6f);
            table.rms_norm(k, dim, k_norm.data(), k, dim, nullptr, kv_heads, dim, 1e-6f);
          }
          const int64_t angle = positions[static_cast<size_t>(r)] * (dim / 2);
          table.rope(row.data(), row.data(), cosine.data() + angle, sine.data() + angle,
                     query_heads + kv_heads, dim, 1.0f);
          expected_q.insert(expected_q.end(), row.data(), k);
          const int32_t slot = slots[static_cast<size_t>(r)];
          for (int h = 0; slot >= 0 && h < kv_heads; ++h) {
            const int64_t to =
                (static_cast<int64_t>(slot / block_tokens * kv_heads + h) * block_tokens +
                 slot % block_tokens) *
                dim;
            std::copy_n(k + h * dim, dim, expected_keys.begin() + to);
            std::copy_n(k + (kv_heads + h) * dim, dim, expected_values.begin() + to);
          }
        }
        // bf16: a last bit of the norm may tip over, and grows with the weight.
        CheckNear(q.Read(), expected_q, 2 * kTolerance<T>);
        CheckNear(keys.Read(), expected_keys, 2 * kTolerance<T>);
        CheckNear(values.Read(), expected_values, 0.0);
      }
    }
  });
}

namespace {

// A batch of two sequences with their blocks in some order, and rows at chosen positions.
struct AttentionCase {
  int dim, query_heads, kv_heads, block_tokens, splits;
  std::vector<int32_t> row_sequence, positions;
};

template <typename T>
void CheckAttention(const AttentionCase& c) {
  INFO("head size " << c.dim << ", " << c.query_heads << " heads over " << c.kv_heads);
  const int contexts[2] = {1500, 40};
  std::vector<int32_t> start = {0}, ids;
  int blocks = 0;
  for (const int context : contexts) {
    blocks += (context + c.block_tokens - 1) / c.block_tokens;
    start.push_back(blocks);
  }
  for (int b = 0; b < blocks; ++b) ids.push_back(b);
  CounterRng rng(5);
  rng.Shuffle(ids);

  const size_t rows = c.positions.size();
  const KvShape kv{c.kv_heads, c.dim, c.block_tokens};
  const auto cache_size = static_cast<size_t>(blocks * c.block_tokens * c.kv_heads * c.dim);
  const auto q = Random<T>(rows * static_cast<size_t>(c.query_heads * c.dim), 1);
  const auto keys = Random<T>(cache_size, 2), values = Random<T>(cache_size, 3);
  const OnDevice<T> d_q(q), d_keys(keys), d_values(values), out(q.size());
  const OnDevice<int32_t> d_sequence(c.row_sequence), d_positions(c.positions), d_start(start),
      d_ids(ids);
  const OnDevice<float> partial(
      static_cast<size_t>(PartialFloats(static_cast<int>(rows), c.query_heads, c.splits, c.dim)));
  PagedAttentionArgs args{};
  args.q = d_q.data();
  args.key_cache = d_keys.data();
  args.value_cache = d_values.data();
  args.row_sequence = d_sequence.data();
  args.positions = d_positions.data();
  args.block_start = d_start.data();
  args.block_ids = d_ids.data();
  args.out = out.data();
  args.partial = partial.data();
  args.kv = kv;
  args.rows = static_cast<int>(rows);
  args.query_heads = c.query_heads;
  args.splits = c.splits;
  args.scale = 1.0f / std::sqrt(static_cast<float>(c.dim));
  REQUIRE(PagedAttentionSimple(kDtype<T>, args, nullptr) == cudaSuccess);

  std::vector<T> expected;
  for (size_t r = 0; r < rows; ++r) {
    for (int h = 0; h < c.query_heads; ++h) {
      std::vector<double> total(static_cast<size_t>(c.dim));
      double sum = 0.0;
      const int kv_head = h / (c.query_heads / c.kv_heads);
      for (int p = 0; c.row_sequence[r] >= 0 && p <= c.positions[r]; ++p) {
        const int32_t block = ids[static_cast<size_t>(
            start[static_cast<size_t>(c.row_sequence[r])] + p / c.block_tokens)];
        const int64_t at =
            KvOffset(kv, int64_t{block} * c.block_tokens + p % c.block_tokens, kv_head);
        double dot = 0.0;
        for (int d = 0; d < c.dim; ++d) {
          dot += static_cast<double>(
                     Widen(q[(r * static_cast<size_t>(c.query_heads) + static_cast<size_t>(h)) *
                                 static_cast<size_t>(c.dim) +
                             static_cast<size_t>(d)])) *
                 Widen(keys[static_cast<size_t>(at + d)]);
        }
        const double e = std::exp(dot * args.scale);
        sum += e;
        for (int d = 0; d < c.dim; ++d) {
          total[static_cast<size_t>(d)] += e * Widen(values[static_cast<size_t>(at + d)]);
        }
      }
      for (const double t : total) {
        expected.push_back(Narrow<T>(sum == 0.0 ? 0.0f : static_cast<float>(t / sum)));
      }
    }
  }
  CheckNear(out.Read(), expected);
}

}  // namespace

TEST_CASE("paged attention of any shape is softmax over the sequence's own keys") {
  if (!HaveDevice()) return;
  ForEachType([](auto type) {
    using T = decltype(type);
    const std::vector<int32_t> sequence = {0, 1, -1, 1, 0}, positions = {1499, 0, 0, 39, 511};
    for (const int splits : {1, 3}) {
      CheckAttention<T>({64, 6, 2, 16, splits, sequence, positions});
      CheckAttention<T>({20, 2, 2, 16, splits, sequence, positions});
      CheckAttention<T>({128, 12, 2, 32, splits, {0, -1}, {1023, 0}});
      CheckAttention<T>({256, 9, 1, 16, splits, {1, 0}, {16, 1024}});
    }
  });
}

TEST_CASE("paged attention does not depend on how far the splits reach") {
  if (!HaveDevice()) return;
  const int dim = 16;
  const auto q = Random<float>(2 * dim, 1);
  const auto keys = Random<float>(static_cast<size_t>(1600 * dim), 2);
  const auto values = Random<float>(keys.size(), 3);
  std::vector<int32_t> ids(100);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  const OnDevice<float> d_q(q), d_keys(keys), d_values(values);
  const OnDevice<int32_t> sequence(std::vector<int32_t>{0, 0}),
      positions(std::vector<int32_t>{1030, 3}), start(std::vector<int32_t>{0, 100}), d_ids(ids);
  std::vector<std::vector<float>> results;
  for (const int splits : {3, 8}) {
    const OnDevice<float> out(q.size()),
        partial(static_cast<size_t>(PartialFloats(2, 1, splits, dim)));
    PagedAttentionArgs args{};
    args.q = d_q.data();
    args.key_cache = d_keys.data();
    args.value_cache = d_values.data();
    args.row_sequence = sequence.data();
    args.positions = positions.data();
    args.block_start = start.data();
    args.block_ids = d_ids.data();
    args.out = out.data();
    args.partial = partial.data();
    args.kv = {1, dim, 16};
    args.rows = 2;
    args.query_heads = 1;
    args.splits = splits;
    args.scale = 0.25f;
    REQUIRE(PagedAttentionSimple(Dtype::kF32, args, nullptr) == cudaSuccess);
    results.push_back(out.Read());
  }
  CHECK(results[0] == results[1]);
}

TEST_CASE("sizes that a kernel does not serve are refused") {
  PagedAttentionArgs args{};
  args.rows = 1;
  args.query_heads = 1;
  args.kv = {1, 300, 16};
  CHECK(PagedAttentionSimple(Dtype::kF32, args, nullptr) == cudaErrorInvalidValue);
  SampleArgs sample{};
  sample.count = 1;
  sample.vocab = (1 << 20) + 1;
  CHECK(Sample(sample, nullptr) == cudaErrorInvalidValue);
}

}  // namespace crescendo::cuda
