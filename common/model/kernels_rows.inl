// Vectors, e^x, and the row-wise kernels. Included by kernels_generic.cc, kernels_avx2.cc and
// kernels_avx512.cc with CRESCENDO_KERNEL_WIDTH floats a vector; everything has internal linkage,
// since each of those units is compiled for another instruction set.
#include <math.h>
#include <stdint.h>
#if CRESCENDO_KERNEL_WIDTH == 16
#include <immintrin.h>
#endif

#include "common/model/kernels.h"

namespace crescendo::kernels {
namespace {

constexpr int kWidth = CRESCENDO_KERNEL_WIDTH;

// Vectors of GCC and clang: arithmetic, comparison and ?: work lane by lane.
template <int N>
struct VectorOf;
template <>
struct VectorOf<4> {
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  typedef uint32_t U __attribute__((vector_size(16)));
  typedef uint16_t H __attribute__((vector_size(8)));
};
template <>
struct VectorOf<8> {
  typedef float F __attribute__((vector_size(32)));
  typedef int32_t I __attribute__((vector_size(32)));
  typedef uint32_t U __attribute__((vector_size(32)));
  typedef uint16_t H __attribute__((vector_size(16)));
};
template <>
struct VectorOf<16> {
  typedef float F __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));
  typedef uint32_t U __attribute__((vector_size(64)));
  typedef uint16_t H __attribute__((vector_size(32)));
};
using Vec = VectorOf<kWidth>::F;
using VecI = VectorOf<kWidth>::I;
using VecU = VectorOf<kWidth>::U;
#define CRESCENDO_INLINE inline __attribute__((always_inline))

template <int N = kWidth>
CRESCENDO_INLINE typename VectorOf<N>::F Splat(float x) {
  return x - typename VectorOf<N>::F{};
}

template <int N = kWidth>
CRESCENDO_INLINE typename VectorOf<N>::F Load(const float* p) {
  typename VectorOf<N>::F v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
template <int N = kWidth>
CRESCENDO_INLINE typename VectorOf<N>::F Load(const Bf16* p) {
  typename VectorOf<N>::H h;
  __builtin_memcpy(&h, p, sizeof(h));
  typename VectorOf<N>::U wide = __builtin_convertvector(h, typename VectorOf<N>::U) << 16;
  typename VectorOf<N>::F v;
  __builtin_memcpy(&v, &wide, sizeof(v));
  return v;
}

template <int N = kWidth>
CRESCENDO_INLINE void Store(float* p, typename VectorOf<N>::F v) {
  __builtin_memcpy(p, &v, sizeof(v));
}
// Rounds to nearest even; a NaN stays one as long as its upper bits are not all of it (ours are).
template <int N = kWidth>
CRESCENDO_INLINE void Store(Bf16* p, typename VectorOf<N>::F v) {
  typename VectorOf<N>::U bits;
  __builtin_memcpy(&bits, &v, sizeof(v));
  bits += 0x7fffu + ((bits >> 16) & 1u);
  typename VectorOf<N>::H h = __builtin_convertvector(bits >> 16, typename VectorOf<N>::H);
  __builtin_memcpy(p, &h, sizeof(h));
}

// The first n (< kWidth) elements; the others are `fill`.
#if CRESCENDO_KERNEL_WIDTH == 16
CRESCENDO_INLINE __mmask16 FirstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
CRESCENDO_INLINE Vec LoadPart(const float* p, int64_t n, float fill = 0.0f) {
  return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), FirstLanes(n), p);
}
CRESCENDO_INLINE Vec LoadPart(const Bf16* p, int64_t n, float fill = 0.0f) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
  return _mm512_mask_blend_ps(FirstLanes(n), _mm512_set1_ps(fill),
                              _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
}
CRESCENDO_INLINE void StorePart(float* p, Vec v, int64_t n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), v);
}
CRESCENDO_INLINE void StorePart(Bf16* p, Vec v, int64_t n) {
  Bf16 part[kWidth];
  Store(part, v);
  __m256i bits;
  __builtin_memcpy(&bits, part, sizeof(bits));
  _mm256_mask_storeu_epi16(p, FirstLanes(n), bits);
}
CRESCENDO_INLINE float Sum(Vec v) { return _mm512_reduce_add_ps(v); }
CRESCENDO_INLINE Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
CRESCENDO_INLINE float MaxLane(Vec v) { return _mm512_reduce_max_ps(v); }
#else
template <typename T>
CRESCENDO_INLINE Vec LoadPart(const T* p, int64_t n, float fill = 0.0f) {
  float lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = fill;
  T part[kWidth] = {};
  __builtin_memcpy(part, p, static_cast<size_t>(n) * sizeof(T));
  float wide[kWidth];
  Store(wide, Load(part));
  for (int i = 0; i < n; ++i) lanes[i] = wide[i];
  return Load(lanes);
}
template <typename T>
CRESCENDO_INLINE void StorePart(T* p, Vec v, int64_t n) {
  T part[kWidth];
  Store(part, v);
  __builtin_memcpy(p, part, static_cast<size_t>(n) * sizeof(T));
}
CRESCENDO_INLINE float Sum(Vec v) {
  float lanes[kWidth];
  Store(lanes, v);
  for (int step = kWidth / 2; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  }
  return lanes[0];
}
CRESCENDO_INLINE Vec Max(Vec a, Vec b) { return a > b ? a : b; }
CRESCENDO_INLINE float MaxLane(Vec v) {
  float lanes[kWidth];
  Store(lanes, v);
  float max = lanes[0];
  for (int i = 1; i < kWidth; ++i) max = lanes[i] > max ? lanes[i] : max;
  return max;
}
#endif

CRESCENDO_INLINE float ToFloat(float x) { return x; }
CRESCENDO_INLINE float ToFloat(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float f;
  __builtin_memcpy(&f, &bits, sizeof(f));
  return f;
}
CRESCENDO_INLINE void FromFloat(float x, float* out) { *out = x; }
CRESCENDO_INLINE void FromFloat(float x, Bf16* out) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  bits += 0x7fffu + ((bits >> 16) & 1u);
  out->bits = static_cast<uint16_t>(bits >> 16);
}
// What x becomes when it is stored and loaded again.
CRESCENDO_INLINE Vec Rounded(Vec v, const float*) { return v; }
CRESCENDO_INLINE Vec Rounded(Vec v, const Bf16*) {
  Bf16 stored[kWidth];
  Store(stored, v);
  return Load(stored);
}

// e^x within 2 ulp: x = n ln 2 + r, a polynomial in r (Cephes, expf), times 2^n. Below -87.3 it
// gives the smallest normal number's neighbourhood, which all uses here take for zero.
CRESCENDO_INLINE Vec Exp(Vec x) {
  const Vec low = Splat(-87.33654f);
  const Vec high = Splat(88.37626f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Vec magic = Splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = x * 1.44269504088896341f + magic;
  const Vec n = shifted - magic;
  const Vec r = x - n * 0.693359375f - n * -2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  VecU exponent;
  __builtin_memcpy(&exponent, &shifted, sizeof(exponent));
  VecU bits;
  __builtin_memcpy(&bits, &p, sizeof(bits));
  bits += exponent << 23;  // the magic number's own bits fall out at the top
  Vec result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}

CRESCENDO_INLINE Vec Sigmoid(Vec x) { return 1.0f / (1.0f + Exp(-x)); }

// fn(i, load, store) for each vector of n elements, the last one in part. `load(p)` reads at p + i.
template <typename F>
CRESCENDO_INLINE void ForEachVector(int64_t n, const F& fn) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) fn(i, int64_t{kWidth});
  if (i < n) fn(i, n - i);
}
template <typename T>
CRESCENDO_INLINE Vec LoadN(const T* p, int64_t n, float fill = 0.0f) {
  return n == kWidth ? Load(p) : LoadPart(p, n, fill);
}
template <typename T>
CRESCENDO_INLINE void StoreN(T* p, Vec v, int64_t n) {
  if (n == kWidth) {
    Store(p, v);
  } else {
    StorePart(p, v, n);
  }
}

template <typename T>
void RmsNorm(const T* x, int64_t x_stride, const T* weight, T* y, int64_t y_stride, float* rstd,
             int64_t rows, int64_t n, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += x_stride, y += y_stride) {
    Vec sum = {};
    ForEachVector(n, [&](int64_t i, int64_t count) {
      const Vec v = LoadN(x + i, count);
      sum += v * v;
    });
    const float scale = 1.0f / sqrtf(Sum(sum) / static_cast<float>(n) + eps);
    if (rstd != nullptr) rstd[row] = scale;
    ForEachVector(n, [&](int64_t i, int64_t count) {
      const Vec normed = Rounded(LoadN(x + i, count) * scale, x);  // as Hugging Face rounds
      StoreN(y + i, normed * LoadN(weight + i, count), count);
    });
  }
}

template <typename T>
void RmsNormBackward(const T* x, int64_t x_stride, const T* weight, const T* d_y,
                     int64_t d_y_stride, const float* rstd, T* d_x, float* d_weight, int64_t rows,
                     int64_t n) {
  for (int64_t row = 0; row < rows; ++row, x += x_stride, d_y += d_y_stride, d_x += n) {
    const float scale = rstd[row];
    Vec dot = {};
    ForEachVector(n, [&](int64_t i, int64_t count) {
      const Vec xv = LoadN(x + i, count);
      const Vec dv = LoadN(d_y + i, count);
      StoreN(d_weight + i, LoadN(d_weight + i, count) + dv * xv * scale, count);
      dot += dv * LoadN(weight + i, count) * xv;
    });
    const float c = Sum(dot) * scale * scale * scale / static_cast<float>(n);
    ForEachVector(n, [&](int64_t i, int64_t count) {
      const Vec dv = LoadN(d_y + i, count) * LoadN(weight + i, count);
      StoreN(d_x + i, dv * scale - LoadN(x + i, count) * c, count);
    });
  }
}

template <typename T>
void Rope(const T* in, T* out, const float* cosine, const float* sine, int64_t heads,
          int64_t head_dim, float sine_sign) {
  const int64_t half = head_dim / 2;
  for (int64_t head = 0; head < heads; ++head, in += head_dim, out += head_dim) {
    ForEachVector(half, [&](int64_t i, int64_t count) {
      const Vec c = LoadN(cosine + i, count);
      const Vec s = LoadN(sine + i, count) * sine_sign;
      const Vec a = LoadN(in + i, count);
      const Vec b = LoadN(in + half + i, count);
      StoreN(out + i, a * c - b * s, count);
      StoreN(out + half + i, b * c + a * s, count);
    });
  }
}

template <typename T>
void SwiGlu(const T* gate_up, T* out, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row, gate_up += 2 * n, out += n) {
    ForEachVector(n, [&](int64_t i, int64_t count) {
      const Vec gate = LoadN(gate_up + i, count);
      const Vec silu = Rounded(gate * Sigmoid(gate), gate_up);
      StoreN(out + i, silu * LoadN(gate_up + n + i, count), count);
    });
  }
}

template <typename T>
void SwiGluBackward(const T* gate_up, const T* d_out, T* d_gate_up, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row, gate_up += 2 * n, d_gate_up += 2 * n, d_out += n) {
    ForEachVector(n, [&](int64_t i, int64_t count) {
      const Vec gate = LoadN(gate_up + i, count);
      const Vec up = LoadN(gate_up + n + i, count);
      const Vec d = LoadN(d_out + i, count);
      const Vec sigmoid = Sigmoid(gate);
      StoreN(d_gate_up + i, d * up * sigmoid * (1.0f + gate * (1.0f - sigmoid)), count);
      StoreN(d_gate_up + n + i, d * gate * sigmoid, count);
    });
  }
}

// x - x is 0 for a finite x and NaN for all else: summed up beside the maximum.
float RowMax(const float* x, int64_t n) {
  Vec max = Splat(x[0]);
  Vec check = {};
  ForEachVector(n, [&](int64_t i, int64_t count) {
    const Vec v = LoadN(x + i, count, x[0]);
    max = Max(max, v);
    check += v - v;  // NOLINT(misc-redundant-expression)
  });
  return MaxLane(max) + Sum(check);
}

SoftmaxSums RowSoftmaxSums(const float* x, int64_t n, float max, float inverse_temperature,
                           float* block_sums, bool want_entropy) {
  SoftmaxSums sums;
  for (int64_t start = 0; start < n; start += kSumBlock) {
    const int64_t size = n - start < kSumBlock ? n - start : kSumBlock;
    Vec sum = {};
    Vec z_sum = {};
    ForEachVector(size, [&](int64_t i, int64_t count) {
      const Vec z = (LoadN(x + start + i, count, -INFINITY) - max) * inverse_temperature;
      const Vec e = Exp(z);
      sum += count == kWidth ? e : (z < Splat(-1e30f) ? Vec{} : e);
      if (want_entropy) z_sum += z < Splat(-1e30f) ? Vec{} : z * e;
    });
    const float block = Sum(sum);
    if (block_sums != nullptr) block_sums[start / kSumBlock] = block;
    sums.exp += block;
    if (want_entropy) sums.z_exp += Sum(z_sum);
  }
  return sums;
}

void RowExp(const float* x, float* y, int64_t n, float max, float inverse_temperature) {
  ForEachVector(n, [&](int64_t i, int64_t count) {
    StoreN(y + i, Exp((LoadN(x + i, count, max) - max) * inverse_temperature), count);
  });
}

void LogProbGradient(float* x, int64_t n, float max, float inverse_temperature, double sum,
                     float scale) {
  const float factor = static_cast<float>(-scale / sum);
  ForEachVector(n, [&](int64_t i, int64_t count) {
    const Vec e = Exp((LoadN(x + i, count, max) - max) * inverse_temperature);
    StoreN(x + i, e * factor, count);
  });
}

void ExpTimesLine(float* x, int64_t n, float max, float inverse_temperature, float constant,
                  float slope) {
  ForEachVector(n, [&](int64_t i, int64_t count) {
    const Vec z = (LoadN(x + i, count, max) - max) * inverse_temperature;
    StoreN(x + i, Exp(z) * (z * slope + constant), count);
  });
}

void Bf16ToF32(const Bf16* x, float* y, int64_t n) {
  ForEachVector(n, [&](int64_t i, int64_t count) { StoreN(y + i, LoadN(x + i, count), count); });
}

void F32ToBf16(const float* x, Bf16* y, int64_t n) {
  ForEachVector(n, [&](int64_t i, int64_t count) { StoreN(y + i, LoadN(x + i, count), count); });
}

void AddBf16(const Bf16* x, float* y, int64_t n) {
  ForEachVector(n, [&](int64_t i, int64_t count) {
    StoreN(y + i, LoadN(y + i, count) + LoadN(x + i, count), count);
  });
}

}  // namespace
}  // namespace crescendo::kernels
