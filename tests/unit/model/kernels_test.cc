// The row kernels of every instruction set that this CPU has, against the formulas in double.
#include "common/model/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/model/tile_product.h"

namespace crescendo::kernels {
namespace {

// Fn(table) for each instruction set of this CPU.
template <typename F>
void ForEachTable(const F& fn) {
  for (const char* name : {"generic", "avx2", "avx512"}) {
    const Table* table = KernelsFor(name);
    if (table == nullptr) {
      WARN("this CPU has no " << name);
      continue;
    }
    INFO(name);
    CHECK(std::string(table->instruction_set) == name);
    fn(*table);
  }
}

std::vector<float> Random(size_t n, uint64_t seed) {
  CounterRng rng(seed);
  std::vector<float> values(n);
  for (float& x : values) x = static_cast<float>(rng.Normal() * 2.0);
  return values;
}

Bf16 ToBf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
float FromBf16(Bf16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

const size_t kLengths[] = {1, 3, 8, 15, 16, 17, 40, 96, 515, 1027};

}  // namespace

TEST_CASE("RMSNorm, SwiGLU and RoPE of every instruction set") {
  ForEachTable([](const Table& table) {
    for (const size_t n : kLengths) {
      const std::vector<float> x = Random(2 * n, n), weight = Random(n, n + 1);
      std::vector<float> y(2 * n, 9.0f), rstd(2);
      const auto size = static_cast<int64_t>(n);
      table.f32.rms_norm(x.data(), size, weight.data(), y.data(), size, rstd.data(), 2, size,
                         1e-6f);
      for (size_t row = 0; row < 2; ++row) {
        double sum = 0.0;
        for (size_t i = 0; i < n; ++i) sum += double(x[row * n + i]) * x[row * n + i];
        const double scale = 1.0 / std::sqrt(sum / double(n) + 1e-6);
        CHECK(rstd[row] == Approx(scale));
        for (size_t i = 0; i < n; ++i) {
          CHECK(y[row * n + i] == Approx(x[row * n + i] * scale * weight[i]).margin(1e-5));
        }
      }
      std::vector<float> gated(n + 1, 7.0f);
      table.f32.swiglu(x.data(), gated.data(), 1, size);
      for (size_t i = 0; i < n; ++i) {
        CHECK(gated[i] == Approx(x[i] / (1.0 + std::exp(-double(x[i]))) * x[n + i]).margin(1e-6));
      }
      CHECK(gated[n] == 7.0f);  // nothing behind the end is written
      std::vector<float> cosine, sine, turned(2 * n), back(2 * n);
      for (const float angle : Random(n, 3)) {
        cosine.push_back(std::cos(angle));
        sine.push_back(std::sin(angle));
      }
      table.f32.rope(x.data(), turned.data(), cosine.data(), sine.data(), 1, 2 * size, 1.0f);
      for (size_t i = 0; i < n; ++i) {
        CHECK(turned[i] == Approx(x[i] * cosine[i] - x[n + i] * sine[i]).margin(1e-5));
        CHECK(turned[n + i] == Approx(x[n + i] * cosine[i] + x[i] * sine[i]).margin(1e-5));
      }
      table.f32.rope(turned.data(), back.data(), cosine.data(), sine.data(), 1, 2 * size, -1.0f);
      for (size_t i = 0; i < 2 * n; ++i) CHECK(back[i] == Approx(x[i]).margin(1e-5));
    }
  });
}

TEST_CASE("bf16 rows are rounded to nearest even, and written within their bounds") {
  ForEachTable([](const Table& table) {
    for (const size_t n : kLengths) {
      const std::vector<float> x = Random(2 * n, n);
      std::vector<Bf16> in, out(n + 1, Bf16{0x1234});
      for (const float v : x) in.push_back(ToBf16(v));
      const auto size = static_cast<int64_t>(n);
      table.bf16.swiglu(in.data(), out.data(), 1, size);
      for (size_t i = 0; i < n; ++i) {
        const double gate = FromBf16(in[i]), up = FromBf16(in[n + i]);
        CHECK(FromBf16(out[i]) == Approx(gate / (1.0 + std::exp(-gate)) * up).epsilon(0.01));
      }
      CHECK(out[n].bits == 0x1234);
      std::vector<float> wide(n);
      table.bf16_to_f32(in.data(), wide.data(), size);
      for (size_t i = 0; i < n; ++i) CHECK(wide[i] == FromBf16(in[i]));
    }
  });
}

TEST_CASE("softmax sums, entropy and gradients of a row; not finite is seen") {
  ForEachTable([](const Table& table) {
    for (const size_t n : kLengths) {
      std::vector<float> x = Random(n, n);
      const auto size = static_cast<int64_t>(n);
      const float max = table.row_max(x.data(), size);
      CHECK(max == *std::max_element(x.begin(), x.end()));
      constexpr double kInverse = 1.25;
      double sum = 0.0, weighted = 0.0;
      for (const float v : x) {
        const double z = (double(v) - max) * kInverse;
        sum += std::exp(z), weighted += z * std::exp(z);
      }
      std::vector<float> blocks((n + kSumBlock - 1) / kSumBlock);
      const SoftmaxSums sums =
          table.softmax_sums(x.data(), size, max, kInverse, blocks.data(), true);
      CHECK(sums.exp == Approx(sum).epsilon(1e-6));
      CHECK(sums.z_exp == Approx(weighted).epsilon(1e-5).margin(1e-6));
      double of_blocks = 0.0;
      for (const float block : blocks) of_blocks += double(block);
      CHECK(of_blocks == Approx(sums.exp));
      std::vector<float> gradient = x;
      table.log_prob_gradient(gradient.data(), size, max, kInverse, sums.exp, 0.5f);
      for (size_t i = 0; i < n; ++i) {
        CHECK(gradient[i] ==
              Approx(-0.5 * std::exp((double(x[i]) - max) * kInverse) / sum).margin(1e-7));
      }
      for (const float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
            -std::numeric_limits<float>::infinity()}) {
        std::vector<float> broken = x;
        broken[n / 2] = bad;
        CHECK(!std::isfinite(table.row_max(broken.data(), size)));
      }
    }
  });
}

namespace {

float Value(float x) { return x; }
float Value(Bf16 x) { return FromBf16(x); }
template <typename T>
std::vector<T> RandomOf(size_t n, uint64_t seed) {
  std::vector<T> values;
  for (const float x : Random(n, seed)) {
    if constexpr (sizeof(T) == sizeof(float)) {
      values.push_back(x);
    } else {
      values.push_back(ToBf16(x));
    }
  }
  return values;
}
template <typename T>
std::vector<T> InTileOrder(std::vector<T> weight, int64_t in) {
  std::vector<T> scratch(static_cast<size_t>(kStripRows<T> * in));
  const auto strips = static_cast<int64_t>(weight.size() / scratch.size());
  ToTileOrder(weight.data(), strips, in, scratch.data());
  return weight;
}

template <typename T>
void CheckTileOrder() {
  for (const int64_t in : {32, 96}) {
    const int64_t out = 3 * kStripRows<T>;
    const auto weight = RandomOf<T>(static_cast<size_t>(out * in), 5);
    const auto tiled = InTileOrder(weight, in);
    for (int64_t row = 0; row < out; ++row) {
      std::vector<T> found(static_cast<size_t>(in));
      ReadTileOrderRow(tiled.data(), in, row, found.data());
      CHECK(std::memcmp(found.data(), weight.data() + row * in, found.size() * sizeof(T)) == 0);
    }
  }
}

// `rounding`: of a result, relative.
template <typename T>
void CheckTileProduct(double rounding) {
  constexpr int64_t kIn = 96, kOut = 64, kRowsMax = 70;
  const auto x = RandomOf<T>(kRowsMax * (kIn + 8), 1);
  const auto weight = RandomOf<T>(kOut * kIn, 2);
  const auto bias = RandomOf<T>(kOut, 3);
  const auto before = RandomOf<T>(kRowsMax * kOut, 4);
  const auto tiled = InTileOrder(weight, kIn);
  std::vector<T> whole;  // the largest batch's, without bias and sum
  for (const int64_t rows : {kRowsMax, int64_t{1}, int64_t{15}, int64_t{16}, int64_t{17},
                             int64_t{32}, int64_t{33}, int64_t{48}, int64_t{64}}) {
    for (const bool with_bias : {false, true}) {
      for (const bool accumulate : {false, true}) {
        INFO(rows << " rows" << (with_bias ? ", bias" : "") << (accumulate ? ", added" : ""));
        const int64_t rest = rows % kTileProductRows;
        std::vector<T> last(kTileProductRows * kIn, T{});
        for (int64_t r = 0; r < rest; ++r) {
          std::copy_n(x.begin() + (rows - rest + r) * (kIn + 8), kIn, last.begin() + r * kIn);
        }
        std::vector<T> y(before.begin(), before.begin() + rows * kOut);
        const TileProductTask<T> task{x.data(),
                                      kIn + 8,
                                      rows,
                                      last.data(),
                                      tiled.data(),
                                      kIn,
                                      with_bias ? bias.data() : nullptr,
                                      y.data(),
                                      kOut,
                                      accumulate};
        TileProduct(task, 0, 32);
        TileProduct(task, 32, kOut);
        if (!with_bias && !accumulate && rows == kRowsMax) whole = y;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < kOut; ++c) {
            const auto at = static_cast<size_t>(r * kOut + c);
            double sum = with_bias ? Value(bias[static_cast<size_t>(c)]) : 0.0;
            if (accumulate) sum += Value(before[at]);
            for (int64_t i = 0; i < kIn; ++i) {
              sum += static_cast<double>(Value(x[static_cast<size_t>(r * (kIn + 8) + i)])) *
                     Value(weight[static_cast<size_t>(c * kIn + i)]);
            }
            // The result's rounding, and the sum's of about 100 terms of about 4 in fp32.
            const double off = std::abs(Value(y[at]) - sum);
            if (off > std::abs(sum) * rounding + 1e-4) {
              FAIL("row " << r << ", column " << c << ": " << off);
            }
            if (!with_bias && !accumulate && std::memcmp(&y[at], &whole[at], sizeof(T)) != 0) {
              FAIL("row " << r << " differs from the same row among " << kRowsMax);
            }
          }
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("tile order keeps every row of a weight") {
  CheckTileOrder<float>();
  CheckTileOrder<Bf16>();
}

TEST_CASE("a tile product equals the sums in double, each row whatever the rows beside it") {
  if (TileProductUsable<float>()) {
    CheckTileProduct<float>(1e-6);
  } else {
    WARN("skipped for fp32: this CPU has no AVX-512");
  }
  if (TileProductUsable<Bf16>()) {
    CheckTileProduct<Bf16>(1.0 / 256);
  } else {
    WARN("skipped for bf16: this CPU has no tiles of it (AMX), or Linux does not lend them");
  }
}

}  // namespace crescendo::kernels
