// Contracts: training_kernels.h; the CPU's: kernels_rows.inl.
#include "common/model/cuda_block.cuh"
#include "common/model/cuda_math.cuh"
#include "common/model/training_kernels.h"

namespace crescendo::cuda {
namespace {

constexpr int kThreads = 256;

// One block a part of the rows; a thread adds up the weight's gradient for its own columns.
template <typename T, int kPack>
__global__ void NormBackwardKernel(NormBackwardArgs args) {
  using Values = Pack<T, kPack>;
  __shared__ float sums[kNormColumnsMax];
  const int n = args.n;
  const int first = static_cast<int>(threadIdx.x) * kPack;
  const int size = (args.rows + kNormParts - 1) / kNormParts;
  const int begin = static_cast<int>(blockIdx.x) * size;
  const int end = begin + size < args.rows ? begin + size : args.rows;
  const T* weight = static_cast<const T*>(args.weight);
  for (int i = first; i < n; i += kThreads * kPack) {
    for (int j = 0; j < kPack; ++j) sums[i + j] = 0.0f;
  }
  for (int row = begin; row < end; ++row) {
    const int64_t offset = static_cast<int64_t>(row) * n;
    const T* x = static_cast<const T*>(args.x) + offset;
    const T* d_y = static_cast<const T*>(args.d_y) + offset;
    T* d_x = static_cast<T*>(args.d_x) + offset;
    const float scale = args.rstd[row];
    float dot = 0.0f;
    for (int i = first; i < n; i += kThreads * kPack) {
      const Values v = *reinterpret_cast<const Values*>(x + i);
      const Values d = *reinterpret_cast<const Values*>(d_y + i);
      const Values w = *reinterpret_cast<const Values*>(weight + i);
      for (int j = 0; j < kPack; ++j) {
        const float product = Widen(d.value[j]) * Widen(v.value[j]);
        sums[i + j] += product * scale;
        dot = fmaf(product, Widen(w.value[j]), dot);
      }
    }
    const float c =
        BlockReduce<kThreads>(dot, Add()) * scale * scale * scale / static_cast<float>(n);
    for (int i = first; i < n; i += kThreads * kPack) {
      const Values v = *reinterpret_cast<const Values*>(x + i);
      const Values d = *reinterpret_cast<const Values*>(d_y + i);
      const Values w = *reinterpret_cast<const Values*>(weight + i);
      Values out;
      for (int j = 0; j < kPack; ++j) {
        out.value[j] =
            Narrow<T>(Widen(d.value[j]) * Widen(w.value[j]) * scale - Widen(v.value[j]) * c);
      }
      *reinterpret_cast<Values*>(d_x + i) = out;
    }
  }
  float* part = args.weight_parts + static_cast<int64_t>(blockIdx.x) * n;
  for (int i = first; i < n; i += kThreads * kPack) {
    for (int j = 0; j < kPack; ++j) part[i + j] = sums[i + j];
  }
}

template <typename T, int kPack>
__global__ void RotateKernel(RotateArgs args) {
  using Values = Pack<T, kPack>;
  const int half = args.head_dim / 2;
  const int packs = half / kPack;
  const int task = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (task >= args.heads * packs) return;
  const int64_t row = static_cast<int64_t>(blockIdx.x);
  const int i = task % packs * kPack;
  T* a = static_cast<T*>(args.qkv) + row * args.width + task / packs * args.head_dim + i;
  T* b = a + half;
  const float* cosine = args.cosine + args.positions[row] * half + i;
  const float* sine = args.sine + args.positions[row] * half + i;
  Values va = *reinterpret_cast<const Values*>(a);
  Values vb = *reinterpret_cast<const Values*>(b);
  for (int j = 0; j < kPack; ++j) {
    const float x = Widen(va.value[j]), y = Widen(vb.value[j]);
    const float s = sine[j] * args.sine_sign;
    va.value[j] = Narrow<T>(x * cosine[j] - y * s);
    vb.value[j] = Narrow<T>(y * cosine[j] + x * s);
  }
  *reinterpret_cast<Values*>(a) = va;
  *reinterpret_cast<Values*>(b) = vb;
}

template <typename T, int kPack>
__global__ void SwiGluBackwardKernel(const T* gate_up, const T* d_out, T* d_gate_up, int n) {
  using Values = Pack<T, kPack>;
  const int64_t row = static_cast<int64_t>(blockIdx.x);
  const int i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kPack;
  if (i >= n) return;
  const Values gate = *reinterpret_cast<const Values*>(gate_up + row * 2 * n + i);
  const Values up = *reinterpret_cast<const Values*>(gate_up + row * 2 * n + n + i);
  const Values d = *reinterpret_cast<const Values*>(d_out + row * n + i);
  Values d_gate, d_up;
  for (int j = 0; j < kPack; ++j) {
    const float g = Widen(gate.value[j]);
    const float sigmoid = 1.0f / (1.0f + Exp(-g));
    const float slope = sigmoid * (1.0f + g * (1.0f - sigmoid));
    d_gate.value[j] = Narrow<T>(Widen(d.value[j]) * Widen(up.value[j]) * slope);
    d_up.value[j] = Narrow<T>(Widen(d.value[j]) * g * sigmoid);
  }
  *reinterpret_cast<Values*>(d_gate_up + row * 2 * n + i) = d_gate;
  *reinterpret_cast<Values*>(d_gate_up + row * 2 * n + n + i) = d_up;
}

}  // namespace

cudaError_t NormBackward(Dtype dtype, const NormBackwardArgs& args, cudaStream_t stream) {
  if (args.n > kNormColumnsMax) return cudaErrorInvalidValue;
  return DispatchDtype(dtype, [&](auto type) {
    using T = decltype(type);
    const bool packed = args.n % kPackCount<T> == 0 && IsAligned(args.x) && IsAligned(args.d_x) &&
                        IsAligned(args.d_y) && IsAligned(args.weight);
    return Launch(packed ? NormBackwardKernel<T, kPackCount<T>> : NormBackwardKernel<T, 1>,
                  dim3(kNormParts), kThreads, stream, args);
  });
}

cudaError_t Rotate(Dtype dtype, const RotateArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.head_dim % 2 != 0) return cudaErrorInvalidValue;
  return DispatchDtype(dtype, [&](auto type) {
    using T = decltype(type);
    const int half = args.head_dim / 2;
    const bool packed =
        half % kPackCount<T> == 0 && args.width % kPackCount<T> == 0 && IsAligned(args.qkv);
    const int pack = packed ? kPackCount<T> : 1;
    return Launch(packed ? RotateKernel<T, kPackCount<T>> : RotateKernel<T, 1>,
                  dim3(static_cast<unsigned>(args.rows),
                       CeilDiv(int64_t{args.heads} * (half / pack), kThreads)),
                  kThreads, stream, args);
  });
}

cudaError_t SwiGluBackward(Dtype dtype, const SwiGluBackwardArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return DispatchDtype(dtype, [&](auto type) {
    using T = decltype(type);
    const bool packed = args.n % kPackCount<T> == 0 && IsAligned(args.gate_up) &&
                        IsAligned(args.d_out) && IsAligned(args.d_gate_up);
    const int pack = packed ? kPackCount<T> : 1;
    return Launch(packed ? SwiGluBackwardKernel<T, kPackCount<T>> : SwiGluBackwardKernel<T, 1>,
                  dim3(static_cast<unsigned>(args.rows), CeilDiv(args.n, kThreads * pack)),
                  kThreads, stream, static_cast<const T*>(args.gate_up),
                  static_cast<const T*>(args.d_out), static_cast<T*>(args.d_gate_up), args.n);
  });
}

}  // namespace crescendo::cuda
