#include "common/model/policy_functions_cuda.h"

#include <ATen/ATen.h>
#include <cuda_runtime.h>

#include "common/model/gradient_sink.h"
#include "common/model/training_kernels.h"

namespace crescendo {
namespace {

// The one that LibTorch computes on unless it is told otherwise.
constexpr cudaStream_t kStream = nullptr;

cuda::Dtype DtypeOf(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat ? cuda::Dtype::kF32 : cuda::Dtype::kBf16;
}

void Check(cudaError_t error, const char* kernel) {
  TORCH_CHECK(error == cudaSuccess, kernel, ": ", cudaGetErrorString(error));
}

void CudaRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& y,
                 const at::Tensor& rstd) {
  TORCH_CHECK(x.is_contiguous() && y.is_contiguous(), "norm: expected contiguous rows");
  cuda::RmsNormArgs args{};
  args.x = x.data_ptr();
  args.weight = weight.const_data_ptr();
  args.y = y.data_ptr();
  args.rstd = rstd.defined() ? rstd.data_ptr<float>() : nullptr;
  args.rows = static_cast<int>(x.size(0));
  args.n = static_cast<int>(x.size(1));
  args.eps = static_cast<float>(eps);
  Check(cuda::RmsNorm(DtypeOf(x), args, kStream), "norm");
}

void CudaRmsNormBackward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                         const at::Tensor& d_y, const at::Tensor& d_x) {
  if (x.size(1) > cuda::kNormColumnsMax || !d_y.is_contiguous()) {
    return AtenFunctions().rms_norm_backward(x, weight, rstd, d_y, d_x);
  }
  const at::Tensor parts = at::empty({cuda::kNormParts, x.size(1)}, x.options().dtype(at::kFloat));
  cuda::NormBackwardArgs args;
  args.x = x.const_data_ptr();
  args.weight = weight.const_data_ptr();
  args.rstd = rstd.const_data_ptr<float>();
  args.d_y = d_y.const_data_ptr();
  args.d_x = d_x.data_ptr();
  args.weight_parts = parts.data_ptr<float>();
  args.rows = static_cast<int>(x.size(0));
  args.n = static_cast<int>(x.size(1));
  Check(cuda::NormBackward(DtypeOf(x), args, kStream), "gradient of a norm");
  AddGradient(weight, parts.sum(0));
}

void Rotate(const at::Tensor& qkv, const at::Tensor& positions, const ModelConfig& config,
            const RopeTable& rope, float sign) {
  const RopeTable::Rows tables = rope.On(qkv.device());
  cuda::RotateArgs args;
  args.qkv = qkv.data_ptr();
  args.positions = positions.const_data_ptr<int64_t>();
  args.cosine = tables.cosine.const_data_ptr<float>();
  args.sine = tables.sine.const_data_ptr<float>();
  args.rows = static_cast<int>(qkv.size(0));
  args.width = static_cast<int>(qkv.size(1));
  args.heads = static_cast<int>(config.query_heads + config.kv_heads);
  args.head_dim = static_cast<int>(config.head_dim);
  args.sine_sign = sign;
  Check(cuda::Rotate(DtypeOf(qkv), args, kStream), "RoPE");
}

void CudaNormAndRotate(const at::Tensor& qkv, const at::Tensor& positions,
                       const LayerWeights& weights, const ModelConfig& config,
                       const RopeTable& rope) {
  if (config.qk_norm) {
    return AtenFunctions().norm_and_rotate(qkv, positions, weights, config, rope);
  }
  Rotate(qkv, positions, config, rope, 1.0f);
}

void CudaNormAndRotateBackward(const at::Tensor& d_qkv, const at::Tensor& before,
                               const at::Tensor& positions, const LayerWeights& weights,
                               const ModelConfig& config, const RopeTable& rope) {
  if (config.qk_norm) {
    return AtenFunctions().norm_and_rotate_backward(d_qkv, before, positions, weights, config,
                                                    rope);
  }
  Rotate(d_qkv, positions, config, rope, -1.0f);
}

void CudaSwiGlu(const at::Tensor& gate_up, const at::Tensor& out) {
  cuda::SwiGluArgs args;
  args.gate_up = gate_up.const_data_ptr();
  args.out = out.data_ptr();
  args.rows = static_cast<int>(out.size(0));
  args.n = static_cast<int>(out.size(1));
  Check(cuda::SwiGlu(DtypeOf(out), args, kStream), "SwiGLU");
}

void CudaSwiGluBackward(const at::Tensor& gate_up, const at::Tensor& d_out, const at::Tensor& d) {
  cuda::SwiGluBackwardArgs args;
  args.gate_up = gate_up.const_data_ptr();
  args.d_out = d_out.const_data_ptr();
  args.d_gate_up = d.data_ptr();
  args.rows = static_cast<int>(d_out.size(0));
  args.n = static_cast<int>(d_out.size(1));
  Check(cuda::SwiGluBackward(DtypeOf(d_out), args, kStream), "gradient of SwiGLU");
}

}  // namespace

const PolicyFunctions& CudaFunctions() {
  static const PolicyFunctions functions = [] {
    PolicyFunctions made = AtenFunctions();
    made.rms_norm = &CudaRmsNorm;
    made.norm_and_rotate = &CudaNormAndRotate;
    made.swiglu = &CudaSwiGlu;
    made.rms_norm_backward = &CudaRmsNormBackward;
    made.norm_and_rotate_backward = &CudaNormAndRotateBackward;
    made.swiglu_backward = &CudaSwiGluBackward;
    return made;
  }();
  return functions;
}

}  // namespace crescendo
