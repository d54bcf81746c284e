// Matrix products for passes without gradients, of weights that lie in the order in which the
// product reads them. LibTorch brings a weight into such an order at each product, which at a
// decode step's few rows costs about as much as the product; here a product reads its weight once,
// in the order of memory. bf16 is for the CPU's matrix unit (Intel AMX), fp32 for AVX-512.
//
// Tile order of a weight [out, in]: strips of outputs one behind the other, each in the memory that
// its rows take in plain order. bf16: 16 outputs as [in / 2, 16, 2], so that their values of two
// neighbouring inputs are one row of a tile. fp32: 32 outputs as [in, 32].
//
// No LibTorch, no threads: callers split the columns. Thread-safe as far as the memory is.
#ifndef CRESCENDO_COMMON_MODEL_TILE_PRODUCT_H_
#define CRESCENDO_COMMON_MODEL_TILE_PRODUCT_H_

#include <cstdint>

#include "common/model/kernels.h"

namespace crescendo::kernels {

// Outputs of a strip. T is float or Bf16 everywhere here.
template <typename T>
inline constexpr int64_t kStripRows = 32;
template <>
inline constexpr int64_t kStripRows<Bf16> = 16;
// Columns that are worked on at a time; rows of x that a tile of bf16 holds.
inline constexpr int64_t kTileProductColumns = 32;
inline constexpr int64_t kTileProductRows = 16;

// Whether this CPU has the product. For bf16 Linux is asked, at the first call, to lend the process
// the unit.
template <typename T>
bool TileProductUsable();
template <>
bool TileProductUsable<float>();
template <>
bool TileProductUsable<Bf16>();

// Whether a weight [out, in] can lie in tile order, as a part of a product's weight or as the
// whole.
template <typename T>
bool FitsTileOrder(int64_t out, int64_t in) {
  return out % kStripRows<T> == 0 && (sizeof(T) == sizeof(float) || in % 32 == 0);
}

// `strips` strips of plain rows [kStripRows, in] to tile order, in place. `scratch` holds
// kStripRows * in elements.
void ToTileOrder(Bf16* weight, int64_t strips, int64_t in, Bf16* scratch);
void ToTileOrder(float* weight, int64_t strips, int64_t in, float* scratch);
// A row of a weight in tile order, as it was in plain order.
void ReadTileOrderRow(const Bf16* weight, int64_t in, int64_t row, Bf16* out);
void ReadTileOrderRow(const float* weight, int64_t in, int64_t row, float* out);

// y (+)= x w^T (+ bias), sums in fp32, rounded once. A row's result does not depend on the others.
template <typename T>
struct TileProductTask {
  const T* x;  // [rows, in], stride x_stride
  int64_t x_stride;
  int64_t rows;
  // bf16: the last rows % kTileProductRows rows of x with zeros behind, [kTileProductRows, in]
  // without gaps. Not read where there are none.
  const T* x_rest;
  const T* weight;  // [out, in] in tile order
  int64_t in;       // bf16: a multiple of 32
  const T* bias;    // [out], or null
  T* y;             // [rows, out], stride y_stride
  int64_t y_stride;
  bool accumulate;
};
// Columns [first, last) of y, both multiples of kTileProductColumns. Requires TileProductUsable.
void TileProduct(const TileProductTask<Bf16>& task, int64_t first, int64_t last);
void TileProduct(const TileProductTask<float>& task, int64_t first, int64_t last);

}  // namespace crescendo::kernels

#endif  // CRESCENDO_COMMON_MODEL_TILE_PRODUCT_H_
