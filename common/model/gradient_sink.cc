#include "common/model/gradient_sink.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "common/model/kernel_dispatch.h"
#include "common/model/kernels.h"
#include "common/model/parallel.h"

namespace crescendo {
namespace {

constexpr int64_t kGrain = 32768;

// fp32, whoever made it: autograd keeps that of a bf16 weight in bf16.
at::Tensor& WidenedGradient(const at::Tensor& weight) {
  at::Tensor& grad = weight.mutable_grad();
  if (grad.defined() && grad.scalar_type() != at::kFloat) grad = grad.detach().to(at::kFloat);
  return grad;
}

// out (fp32) = d_y^T x, or out + d_y^T x.
void ProductInto(const at::Tensor& d_y, const at::Tensor& x, at::Tensor& out, bool add) {
  if (x.scalar_type() == at::kFloat) {
    if (add) {
      at::addmm_out(out, out, d_y.t(), x);
    } else {
      at::mm_out(out, d_y.t(), x);
    }
    return;
  }
  if (!x.device().is_cpu()) {  // straight to fp32
    if (add) {
      out.add_(at::mm(d_y.t(), x, at::kFloat));
    } else {
      at::mm_out(out, d_y.t(), x, at::kFloat);
    }
    return;
  }
  const at::Tensor product = at::mm(d_y.t(), x);
  if (!add) {
    out.copy_(product);
  } else {
    AddWidened(product, out);
  }
}

// The gradients as one matrix; undefined when they do not lie one behind the other.
at::Tensor OneMatrix(absl::Span<const at::Tensor> weights) {
  const at::Tensor& first = weights[0].grad();
  int64_t rows = 0;
  for (const at::Tensor& weight : weights) {
    const at::Tensor& grad = weight.grad();
    if (!grad.is_contiguous() || !grad.is_alias_of(first) ||
        grad.storage_offset() != first.storage_offset() + rows * first.size(1)) {
      return at::Tensor();
    }
    rows += grad.size(0);
  }
  return at::as_strided(first, {rows, first.size(1)}, {first.size(1), 1}, first.storage_offset());
}

}  // namespace

void AddWidened(const at::Tensor& addend, const at::Tensor& sum) {
  if (addend.scalar_type() == at::kFloat || !addend.device().is_cpu()) {
    sum.add_(addend);
    return;
  }
  const int64_t n = sum.numel();
  ParallelRange(at::get_num_threads(), n, kGrain, [&](int64_t begin, int64_t end) {
    kernels::Kernels().add_bf16(Data<kernels::Bf16>(addend) + begin, Data<float>(sum) + begin,
                                end - begin);
  });
}

void AddWeightGradient(absl::Span<const at::Tensor> weights, const at::Tensor& d_y,
                       const at::Tensor& x) {
  size_t wanted = 0, fresh = 0;
  for (const at::Tensor& weight : weights) {
    wanted += weight.requires_grad();
    fresh += weight.requires_grad() && !WidenedGradient(weight).defined();
  }
  if (wanted == 0) return;
  if (wanted == weights.size() && fresh == wanted) {
    at::Tensor all = at::empty({d_y.size(1), x.size(1)}, x.options().dtype(at::kFloat));
    ProductInto(d_y, x, all, false);
    int64_t row = 0;
    for (const at::Tensor& weight : weights) {
      weight.mutable_grad() = all.narrow(0, row, weight.size(0));
      row += weight.size(0);
    }
    return;
  }
  if (wanted == weights.size() && fresh == 0) {
    if (at::Tensor all = OneMatrix(weights); all.defined()) {
      return ProductInto(d_y, x, all, true);
    }
  }
  int64_t row = 0;
  for (const at::Tensor& weight : weights) {
    const at::Tensor part = d_y.narrow(1, row, weight.size(0));
    row += weight.size(0);
    if (!weight.requires_grad()) continue;
    at::Tensor& grad = weight.mutable_grad();
    const bool add = grad.defined();
    if (!add) grad = at::empty({weight.size(0), x.size(1)}, x.options().dtype(at::kFloat));
    ProductInto(part, x, grad, add);
  }
}

void AddGradient(const at::Tensor& weight, const at::Tensor& gradient) {
  if (!weight.requires_grad()) return;
  at::Tensor& grad = WidenedGradient(weight);
  if (grad.defined()) {
    grad.add_(gradient);
  } else {
    grad = gradient.clone();
  }
}

at::Tensor GradientOf(const at::Tensor& weight) {
  at::Tensor& grad = WidenedGradient(weight);
  if (!grad.defined()) {
    grad = at::zeros(weight.sizes(), weight.options().dtype(at::kFloat).requires_grad(false));
  }
  return grad;
}

}  // namespace crescendo
