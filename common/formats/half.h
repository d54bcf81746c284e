// IEEE 754 binary16 and bfloat16 to and from float, by bits. Pure; thread-safe.
#ifndef CRESCENDO_COMMON_FORMATS_HALF_H_
#define CRESCENDO_COMMON_FORMATS_HALF_H_

#include <cstdint>
#include <cstring>

namespace crescendo {

inline float FloatFromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t BitsFromFloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float FloatFromBf16(uint16_t bits) { return FloatFromBits(uint32_t{bits} << 16); }

// Exact: every binary16 is a float. A NaN keeps its payload.
inline float FloatFromF16(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t fraction = half & 0x3ff;
  if (exponent == 0x1f) return FloatFromBits(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return FloatFromBits(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float value = static_cast<float>(fraction) * 0x1p-24f;  // Zero and subnormals.
  return sign != 0 ? -value : value;
}

// Rounds to nearest, ties to even; overflow gives infinity.
inline uint16_t F16FromFloat(float value) {
  const uint32_t bits = BitsFromFloat(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves the value's multiple of 2^-24 in the low bits, rounded by the
    // FPU.
    const float shifted = FloatFromBits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (BitsFromFloat(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfff + odd) >> 13));
}

// Rounds to nearest, ties to even.
inline uint16_t Bf16FromFloat(float value) {
  const uint32_t bits = BitsFromFloat(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_FORMATS_HALF_H_
