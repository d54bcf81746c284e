#include "common/model/linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "common/model/kernel_dispatch.h"
#include "common/model/parallel.h"
#include "common/model/tile_product.h"

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

namespace {

template <typename T>
void TileLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                const at::Tensor& out, bool accumulate) {
  const int64_t rows = x.size(0);
  const int64_t in = x.size(1);
  kernels::TileProductTask<T> task{};
  task.x = Data<T>(x);
  task.x_stride = x.stride(0);
  task.rows = rows;
  task.weight = Data<T>(weight);
  task.in = in;
  task.bias = bias.defined() ? Data<T>(bias) : nullptr;
  task.y = Data<T>(out);
  task.y_stride = out.stride(0);
  task.accumulate = accumulate;
  at::Tensor rest;
  const int64_t left = rows % kernels::kTileProductRows;
  if (left > 0 && x.scalar_type() == at::kBFloat16) {
    rest = at::zeros({kernels::kTileProductRows, in}, x.options());
    for (int64_t r = 0; r < left; ++r) {
      std::memcpy(Data<T>(rest) + r * in, task.x + (rows - left + r) * task.x_stride,
                  static_cast<size_t>(in) * sizeof(T));
    }
    task.x_rest = Data<T>(rest);
  }
  // Some parts a thread, so that the threads end together; each reads a stretch of memory.
  const int threads = at::get_num_threads();
  const int64_t steps = out.size(1) / kernels::kTileProductColumns;
  const int64_t parts = std::min<int64_t>(steps, threads > 1 ? threads * 4 : 1);
  ParallelTasks(threads, parts, [&](int64_t part, int) {
    const int64_t first = steps * part / parts;
    const int64_t last = steps * (part + 1) / parts;
    kernels::TileProduct(task, first * kernels::kTileProductColumns,
                         last * kernels::kTileProductColumns);
  });
}

}  // namespace

void TileLinearInto(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    at::Tensor& out, bool accumulate) {
  DispatchDtype(x.scalar_type(),
                [&](auto type) { TileLinear<decltype(type)>(x, weight, bias, out, accumulate); });
}

}  // namespace crescendo
