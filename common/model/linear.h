// The policy's linear layers without gradients. LibTorch's matrix products pick their kernel by the
// number of rows, so that the same row gives other bits in another batch. A deterministic policy
// multiplies tiles of always kLinearTileRows rows, the last one padded with zeros: at one fixed
// number of rows a row's result depends neither on its place nor on its neighbours
// (../shared/DESIGN.md).
//
// Weights in tile order (tile_product.h) have a product of their own, of which that holds for any
// number of rows.
//
// Thread rule: thread-safe as far as the tensors are.
#ifndef CRESCENDO_COMMON_MODEL_LINEAR_H_
#define CRESCENDO_COMMON_MODEL_LINEAR_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace crescendo {

// Few enough that a small batch is not mostly padding, enough for the products to be efficient.
inline constexpr int64_t kLinearTileRows = 32;

// out = x w_t (+ bias), or out = out + x w_t when `accumulate`. x [T, in], w_t [in, out] (the
// transposed view of a weight), bias [out] or undefined, out [T, out]; all of one dtype. Throws
// what LibTorch throws. No gradients: call it under NoGradGuard or inside an autograd function.
void LinearInto(const at::Tensor& x, const at::Tensor& w_t, const at::Tensor& bias, at::Tensor& out,
                bool accumulate, bool deterministic);

// The same for a weight [out, in] in tile order, out a multiple of
// kernels::kTileProductColumns; x and out with strides of their own. Requires
// kernels::TileProductUsable for the dtype.
void TileLinearInto(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    at::Tensor& out, bool accumulate);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_LINEAR_H_
