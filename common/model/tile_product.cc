#include "common/model/tile_product.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace crescendo::kernels {

#if defined(__x86_64__)
template <>
bool TileProductUsable<Bf16>() {
  static const bool usable = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (KernelsFor("avx512") == nullptr || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) {
      return false;
    }
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
    constexpr unsigned kAvx512Bf16 = 1u << 5;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & kAvx512Bf16) == 0) return false;
    // The tiles' state is large: Linux gives it only to processes that ask.
    constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return usable;
}
#else
template <>
bool TileProductUsable<Bf16>() {
  return false;
}
void TileProduct(const TileProductTask<Bf16>&, int64_t, int64_t) { __builtin_trap(); }
void TileProduct(const TileProductTask<float>&, int64_t, int64_t) { __builtin_trap(); }
#endif

template <>
bool TileProductUsable<float>() {
  return KernelsFor("avx512") != nullptr;
}

void ToTileOrder(float* weight, int64_t strips, int64_t in, float* scratch) {
  constexpr int64_t kRows = kStripRows<float>;
  for (int64_t strip = 0; strip < strips; ++strip) {
    float* at = weight + strip * kRows * in;
    std::memcpy(scratch, at, static_cast<size_t>(kRows * in) * sizeof(float));
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t r = 0; r < kRows; ++r) at[i * kRows + r] = scratch[r * in + i];
    }
  }
}

void ToTileOrder(Bf16* weight, int64_t strips, int64_t in, Bf16* scratch) {
  constexpr int64_t kRows = kStripRows<Bf16>;
  const int64_t size = kRows * in;
  for (int64_t strip = 0; strip < strips; ++strip) {
    Bf16* at = weight + strip * size;
    std::memcpy(scratch, at, static_cast<size_t>(size) * sizeof(Bf16));
    for (int64_t i = 0; i < in; i += 2) {
      Bf16* row = at + i * kRows;
      for (int64_t r = 0; r < kRows; ++r) {
        row[2 * r] = scratch[r * in + i];
        row[2 * r + 1] = scratch[r * in + i + 1];
      }
    }
  }
}

void ReadTileOrderRow(const float* weight, int64_t in, int64_t row, float* out) {
  constexpr int64_t kRows = kStripRows<float>;
  const float* from = weight + row / kRows * kRows * in + row % kRows;
  for (int64_t i = 0; i < in; ++i) out[i] = from[i * kRows];
}

void ReadTileOrderRow(const Bf16* weight, int64_t in, int64_t row, Bf16* out) {
  constexpr int64_t kRows = kStripRows<Bf16>;
  const Bf16* from = weight + row / kRows * kRows * in + row % kRows * 2;
  for (int64_t i = 0; i < in; i += 2) {
    out[i] = from[i * kRows];
    out[i + 1] = from[i * kRows + 1];
  }
}

}  // namespace crescendo::kernels
