#include "common/model/tile_product.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace crescendo::kernels {

#if defined(__x86_64__)
bool TileProductUsable() {
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
bool TileProductUsable() { return false; }
void TileProduct(const TileProductTask&, int64_t, int64_t) { __builtin_trap(); }
#endif

void ToTileOrder(Bf16* weight, int64_t strips, int64_t in, Bf16* scratch) {
  const int64_t size = kStripRows * in;
  for (int64_t strip = 0; strip < strips; ++strip) {
    Bf16* at = weight + strip * size;
    std::memcpy(scratch, at, static_cast<size_t>(size) * sizeof(Bf16));
    for (int64_t i = 0; i < in; i += 2) {
      Bf16* row = at + i * kStripRows;
      for (int64_t r = 0; r < kStripRows; ++r) {
        row[2 * r] = scratch[r * in + i];
        row[2 * r + 1] = scratch[r * in + i + 1];
      }
    }
  }
}

void ReadTileOrderRow(const Bf16* weight, int64_t in, int64_t row, Bf16* out) {
  const Bf16* from = weight + row / kStripRows * kStripRows * in + row % kStripRows * 2;
  for (int64_t i = 0; i < in; i += 2) {
    out[i] = from[i * kStripRows];
    out[i + 1] = from[i * kStripRows + 1];
  }
}

}  // namespace crescendo::kernels
