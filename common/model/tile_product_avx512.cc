// The fp32 product of tile_product.h, in a unit of its own with its instruction set's flags.
#include <immintrin.h>

#include "common/model/tile_product.h"

namespace crescendo::kernels {
namespace {

// Rows of x whose sums fit the registers, two vectors of columns each.
constexpr int kRowsMax = 13;
constexpr int64_t kLanes = 16;
constexpr int64_t kStrip = kStripRows<float>;

// A share of the next strip, which comes near while this one is worked on: an input's weights for
// every `each` inputs done. Null: nothing.
struct Next {
  const float* weights;
  int64_t each;
};

template <int kRows>
void Rows(const TileProductTask<float>& t, int64_t first_row, const float* strip, int64_t column,
          Next next) {
  const float* x = t.x + first_row * t.x_stride;
  __m512 sums[kRows][2];
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  int64_t wait = 1;
  for (int64_t i = 0; i < t.in; ++i) {
    const float* weights = strip + i * kStrip;
    const __m512 low = _mm512_loadu_ps(weights);
    const __m512 high = _mm512_loadu_ps(weights + kLanes);
    if (next.weights != nullptr && --wait == 0) {
      _mm_prefetch(reinterpret_cast<const char*>(next.weights), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(next.weights + kLanes), _MM_HINT_T1);
      next.weights += kStrip;
      wait = next.each;
    }
    for (int r = 0; r < kRows; ++r) {
      const __m512 value = _mm512_set1_ps(x[r * t.x_stride + i]);
      sums[r][0] = _mm512_fmadd_ps(value, low, sums[r][0]);
      sums[r][1] = _mm512_fmadd_ps(value, high, sums[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* y = t.y + (first_row + r) * t.y_stride + column;
    for (int half = 0; half < 2; ++half) {
      __m512 sum = sums[r][half];
      if (t.bias != nullptr) {
        sum = _mm512_add_ps(sum, _mm512_loadu_ps(t.bias + column + half * kLanes));
      }
      if (t.accumulate) sum = _mm512_add_ps(sum, _mm512_loadu_ps(y + half * kLanes));
      _mm512_storeu_ps(y + half * kLanes, sum);
    }
  }
}

using RowsFunction = void (*)(const TileProductTask<float>&, int64_t, const float*, int64_t, Next);
constexpr RowsFunction kRowsFunctions[kRowsMax] = {
    &Rows<1>, &Rows<2>, &Rows<3>,  &Rows<4>,  &Rows<5>,  &Rows<6>, &Rows<7>,
    &Rows<8>, &Rows<9>, &Rows<10>, &Rows<11>, &Rows<12>, &Rows<13>};

}  // namespace

void TileProduct(const TileProductTask<float>& t, int64_t first, int64_t last) {
  // Blocks of nearly the same size, so that the last is not a small one.
  const int64_t blocks = (t.rows + kRowsMax - 1) / kRowsMax;
  for (int64_t column = first; column < last; column += kStrip) {
    const float* strip = t.weight + column * t.in;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = t.rows * block / blocks;
      const int64_t end = t.rows * (block + 1) / blocks;
      Next next{nullptr, blocks};
      if (column + kStrip < last) next.weights = strip + (t.in + t.in * block / blocks) * kStrip;
      kRowsFunctions[end - begin - 1](t, begin, strip, column, next);
    }
  }
}

}  // namespace crescendo::kernels
