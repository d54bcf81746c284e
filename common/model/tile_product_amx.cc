// The product of tile_product.h, in a unit of its own with its instruction sets' flags.
#include <immintrin.h>

#include "common/model/tile_product.h"

namespace crescendo::kernels {
namespace {

// Tiles 0 to 3: sums, [two tiles of rows, two strips]; 4 and 5: rows of x; 6 and 7: strips.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr int64_t kSumsStride = kTileProductColumns;
constexpr int64_t kStrip = kStripRows<Bf16>;
constexpr int64_t kTileElements = 512;  // of bf16: 16 rows of 32

// sums[16 or 32 rows, 32 columns] = x w^T. Prefetches bring nothing: they wait in the same buffers
// as the loads of x, which comes from the L2 cache.
template <bool kTwoTiles>
void Sums(const Bf16* x, const Bf16* second_x, int64_t stride, int64_t second_stride,
          const Bf16* weight, int64_t in, float* sums) {
  const Bf16* second_strip = weight + kStrip * in;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTwoTiles) {
    _tile_zero(2);
    _tile_zero(3);
  }
  const int64_t steps = in / 32;
  for (int64_t step = 0; step < steps; ++step) {
    _tile_loadd(4, x + step * 32, stride * 2);
    _tile_loadd(6, weight + step * kTileElements, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, second_strip + step * kTileElements, 64);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kTwoTiles) {
      _tile_loadd(5, second_x + step * 32, second_stride * 2);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  constexpr int64_t kBytes = kSumsStride * int64_t{sizeof(float)};
  _tile_stored(0, sums, kBytes);
  _tile_stored(1, sums + kStrip, kBytes);
  if constexpr (kTwoTiles) {
    _tile_stored(2, sums + kTileProductRows * kSumsStride, kBytes);
    _tile_stored(3, sums + kTileProductRows * kSumsStride + kStrip, kBytes);
  }
}

__m512 Widen(const Bf16* x) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

void WriteRows(const TileProductTask<Bf16>& t, const float* sums, int64_t first_row, int64_t rows,
               int64_t column) {
  __m512 bias[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  if (t.bias != nullptr) {
    bias[0] = Widen(t.bias + column);
    bias[1] = Widen(t.bias + column + kStrip);
  }
  for (int64_t r = 0; r < rows; ++r) {
    Bf16* y = t.y + (first_row + r) * t.y_stride + column;
    __m512 low = _mm512_add_ps(_mm512_load_ps(sums + r * kSumsStride), bias[0]);
    __m512 high = _mm512_add_ps(_mm512_load_ps(sums + r * kSumsStride + kStrip), bias[1]);
    if (t.accumulate) {
      low = _mm512_add_ps(low, Widen(y));
      high = _mm512_add_ps(high, Widen(y + kStrip));
    }
    const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
    __builtin_memcpy(y, &both, sizeof(both));
  }
}

}  // namespace

void TileProduct(const TileProductTask<Bf16>& t, int64_t first, int64_t last) {
  const TileConfig config;
  _tile_loadconfig(&config);
  alignas(64) float sums[2 * kTileProductRows * kSumsStride];
  const int64_t tiles = (t.rows + kTileProductRows - 1) / kTileProductRows;
  const int64_t whole = t.rows / kTileProductRows;
  for (int64_t column = first; column < last; column += kTileProductColumns) {
    const Bf16* weight = t.weight + column * t.in;
    for (int64_t tile = 0; tile < tiles; tile += 2) {
      const Bf16* x = t.x + tile * kTileProductRows * t.x_stride;
      if (tile + 1 < whole) {
        Sums<true>(x, x + kTileProductRows * t.x_stride, t.x_stride, t.x_stride, weight, t.in,
                   sums);
      } else if (tile + 1 < tiles) {
        Sums<true>(x, t.x_rest, t.x_stride, t.in, weight, t.in, sums);
      } else if (tile < whole) {
        Sums<false>(x, nullptr, t.x_stride, 0, weight, t.in, sums);
      } else {
        Sums<false>(t.x_rest, nullptr, t.in, 0, weight, t.in, sums);
      }
      const int64_t first_row = tile * kTileProductRows;
      const int64_t left = t.rows - first_row;
      WriteRows(t, sums, first_row, left < 2 * kTileProductRows ? left : 2 * kTileProductRows,
                column);
    }
  }
  _tile_release();
}

}  // namespace crescendo::kernels
