// What the CUDA kernels compute per value, callable on the host too, so that tests without a GPU
// cover it.
#ifndef CRESCENDO_COMMON_MODEL_CUDA_MATH_CUH_
#define CRESCENDO_COMMON_MODEL_CUDA_MATH_CUH_

#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "common/model/cuda_kernels.h"
#include "common/model/kernels.h"

#define CRESCENDO_HD __host__ __device__ __forceinline__

namespace crescendo::cuda {

using kernels::Bf16;

// Stored types -----------------------------------------------------------------------------------

CRESCENDO_HD uint32_t Bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}
CRESCENDO_HD float FromBits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

CRESCENDO_HD float Widen(float x) { return x; }
CRESCENDO_HD float Widen(Bf16 x) { return FromBits(static_cast<uint32_t>(x.bits) << 16); }

// Rounds to nearest even.
CRESCENDO_HD void NarrowInto(float x, float* out) { *out = x; }
CRESCENDO_HD void NarrowInto(float x, Bf16* out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out->bits) : "f"(x));
#else
  uint32_t bits = Bits(x);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  out->bits = static_cast<uint16_t>(bits >> 16);
#endif
}
template <typename T>
CRESCENDO_HD T Narrow(float x) {
  T out;
  NarrowInto(x, &out);
  return out;
}
// What x becomes when it is stored and loaded again.
template <typename T>
CRESCENDO_HD float Rounded(float x) {
  return Widen(Narrow<T>(x));
}

// kCount values that are loaded and stored as one; the address is a multiple of its size.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T value[kCount];
};
template <typename T>
inline constexpr int kPackCount = 16 / static_cast<int>(sizeof(T));

// Arithmetic -------------------------------------------------------------------------------------

// The CPU kernels' e^x (kernels_rows.inl), in the same order of operations.
CRESCENDO_HD float Exp(float x) {
  x = x < -87.33654f ? -87.33654f : x;
  x = x > 88.37626f ? 88.37626f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = fmaf(x, 1.44269504088896341f, magic);
  const float n = shifted - magic;
  const float r = fmaf(-n, -2.12194440e-4f, fmaf(-n, 0.693359375f, x));
  float p = fmaf(r, 1.9875691500e-4f, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  p = fmaf(p, r * r, r) + 1.0f;
  return FromBits(Bits(p) + (Bits(shifted) << 23));
}

CRESCENDO_HD float Silu(float x) { return x * (1.0f / (1.0f + Exp(-x))); }

// TokenUniform of common/base/rng.h: the first two words of Philox4x32-10 at the counter
// (group, sample, position) under the key `seed`.
CRESCENDO_HD double UniformOf(uint64_t seed, uint64_t group, uint32_t sample, uint32_t position) {
  uint32_t c0 = static_cast<uint32_t>(group), c1 = static_cast<uint32_t>(group >> 32);
  uint32_t c2 = sample, c3 = position;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const uint64_t bits = (uint64_t{c0} << 32) | c1;
  return (static_cast<double>(bits >> 11) + 0.5) * (1.0 / 9007199254740992.0);  // 2^-53
}

// Where the head's vector of the token at `slot` starts in a layer's keys or values.
CRESCENDO_HD int64_t KvOffset(const KvShape& kv, int64_t slot, int head) {
  const int64_t block = slot / kv.block_tokens;
  const int64_t place = slot % kv.block_tokens;
  return ((block * kv.kv_heads + head) * kv.block_tokens + place) * kv.head_dim;
}

}  // namespace crescendo::cuda

#endif  // CRESCENDO_COMMON_MODEL_CUDA_MATH_CUH_
