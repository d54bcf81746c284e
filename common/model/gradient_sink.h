// Where the written-out backward passes put the gradients of weights: straight into .grad, fp32
// whatever the weight's dtype, added to what is there. Weights that require no gradient get none.
//
// Thread rule: one thread at a time. No graph: call it without gradients enabled.
#ifndef CRESCENDO_COMMON_MODEL_GRADIENT_SINK_H_
#define CRESCENDO_COMMON_MODEL_GRADIENT_SINK_H_

#include <ATen/core/Tensor.h>

#include "absl/types/span.h"

namespace crescendo {

// Adds d_y^T x to the gradient of a linear layer's weight, whose rows are those of `weights` one
// behind the other (q, k and v share one product). d_y [T, sum of rows], x [T, columns], of the
// weights' dtype. The gradients of one call are views of one storage when all of them are new.
void AddWeightGradient(absl::Span<const at::Tensor> weights, const at::Tensor& d_y,
                       const at::Tensor& x);

// Adds `gradient` (fp32, of the weight's shape).
void AddGradient(const at::Tensor& weight, const at::Tensor& gradient);

// The gradient of `weight`, fp32; zeros when it was new.
at::Tensor GradientOf(const at::Tensor& weight);

// sum += addend, elementwise: fp32 and contiguous, bf16 or fp32 and contiguous.
void AddWidened(const at::Tensor& addend, const at::Tensor& sum);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_GRADIENT_SINK_H_
