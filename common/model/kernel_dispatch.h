// From tensors to kernels: the typed call for a tensor's dtype. An inner part of common/model.
#ifndef CRESCENDO_COMMON_MODEL_KERNEL_DISPATCH_H_
#define CRESCENDO_COMMON_MODEL_KERNEL_DISPATCH_H_

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "common/model/kernels.h"

namespace crescendo {

template <typename T>
T* Data(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// fn(T()) with T = float or kernels::Bf16.
template <typename F>
void DispatchDtype(at::ScalarType dtype, const F& fn) {
  if (dtype == at::kFloat) {
    fn(float());
  } else {
    TORCH_CHECK(dtype == at::kBFloat16, "expected float32 or bfloat16, found ",
                c10::toString(dtype));
    fn(kernels::Bf16());
  }
}

// Rows that are worth a thread of their own, for rows of n elements.
inline int64_t RowGrain(int64_t n) { return n >= 16384 ? 1 : 1 + 16384 / (n > 0 ? n : 1); }

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_KERNEL_DISPATCH_H_
