// Matrix products of bf16 weights on the CPU's matrix unit (Intel AMX), for passes without
// gradients. LibTorch brings a weight into the unit's order at each product, which at a decode
// step's few rows takes longer than the product; here the weights lie in that order, so that a
// product reads them once, in the order of memory.
//
// Tile order of a weight [out, in]: strips of kStripRows outputs one behind the other, each [in /
// 2, kStripRows, 2], so that the kStripRows values of two neighbouring inputs are one row of a
// tile. A strip takes the memory that its rows take in plain order.
//
// No LibTorch, no threads: callers split the columns. Thread-safe as far as the memory is.
#ifndef CRESCENDO_COMMON_MODEL_TILE_PRODUCT_H_
#define CRESCENDO_COMMON_MODEL_TILE_PRODUCT_H_

#include <cstdint>

#include "common/model/kernels.h"

namespace crescendo::kernels {

inline constexpr int64_t kStripRows = 16;
// Rows of x that a tile holds; columns that are worked on at a time.
inline constexpr int64_t kTileProductRows = 16;
inline constexpr int64_t kTileProductColumns = 2 * kStripRows;

// The CPU has bf16 tiles and the kernel lets this process use them (it is asked at the first call).
bool TileProductUsable();

// Whether a weight [out, in] can lie in tile order, as a part of a product's weight or as the
// whole.
inline bool FitsTileOrder(int64_t out, int64_t in) { return out % kStripRows == 0 && in % 32 == 0; }

// `strips` strips of plain rows [kStripRows, in] to tile order, in place. `scratch` holds
// kStripRows
// * in elements.
void ToTileOrder(Bf16* weight, int64_t strips, int64_t in, Bf16* scratch);
// A row of a weight in tile order, as it was in plain order.
void ReadTileOrderRow(const Bf16* weight, int64_t in, int64_t row, Bf16* out);

// y (+)= x w^T (+ bias), sums in fp32, rounded once. A row's result does not depend on the others.
struct TileProductTask {
  const Bf16* x;  // [rows, in], stride x_stride
  int64_t x_stride;
  int64_t rows;
  // The last rows % kTileProductRows rows of x with zeros behind: [kTileProductRows, in], without
  // gaps. Not read where there are none.
  const Bf16* x_rest;
  const Bf16* weight;  // [out, in] in tile order
  int64_t in;          // a multiple of 32
  const Bf16* bias;    // [out], or null
  Bf16* y;             // [rows, out], stride y_stride
  int64_t y_stride;
  bool accumulate;
};
// Columns [first, last) of y, both multiples of kTileProductColumns. Requires TileProductUsable().
void TileProduct(const TileProductTask& task, int64_t first, int64_t last);

}  // namespace crescendo::kernels

#endif  // CRESCENDO_COMMON_MODEL_TILE_PRODUCT_H_
