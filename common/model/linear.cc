#include "common/model/linear.h"

#include <ATen/ATen.h>

namespace crescendo {
namespace {

void Product(const at::Tensor& x, const at::Tensor& w_t, const at::Tensor& bias, at::Tensor& out,
             bool accumulate) {
  if (accumulate) {
    at::addmm_out(out, out, x, w_t);
  } else if (bias.defined()) {
    at::addmm_out(out, bias, x, w_t);
  } else {
    at::mm_out(out, x, w_t);
  }
}

}  // namespace

void LinearInto(const at::Tensor& x, const at::Tensor& w_t, const at::Tensor& bias, at::Tensor& out,
                bool accumulate, bool deterministic) {
  if (!deterministic) return Product(x, w_t, bias, out, accumulate);
  const int64_t rows = x.size(0);
  int64_t first = 0;
  for (; first + kLinearTileRows <= rows; first += kLinearTileRows) {
    at::Tensor tile = out.narrow(0, first, kLinearTileRows);
    Product(x.narrow(0, first, kLinearTileRows), w_t, bias, tile, accumulate);
  }
  const int64_t rest = rows - first;
  if (rest == 0) return;
  const at::Tensor padded_x = at::zeros({kLinearTileRows, x.size(1)}, x.options());
  padded_x.narrow(0, 0, rest).copy_(x.narrow(0, first, rest));
  at::Tensor padded_out = at::zeros({kLinearTileRows, out.size(1)}, out.options());
  const at::Tensor last = out.narrow(0, first, rest);
  if (accumulate) padded_out.narrow(0, 0, rest).copy_(last);
  Product(padded_x, w_t, bias, padded_out, accumulate);
  last.copy_(padded_out.narrow(0, 0, rest));
}

}  // namespace crescendo
