// The row-wise kernels of a layer. Contracts: cuda_kernels.h; the CPU's: kernels_rows.inl.
#include "common/model/cuda_block.cuh"
#include "common/model/cuda_kernels.h"
#include "common/model/cuda_math.cuh"

namespace crescendo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kQkvThreads = 128;

// Rows of `units` units of a machine word each.
template <typename Unit>
__global__ void GatherRowsKernel(const Unit* table, const int32_t* ids, Unit* out, int units) {
  const Unit* from = table + static_cast<int64_t>(ids[blockIdx.x]) * units;
  Unit* to = out + static_cast<int64_t>(blockIdx.x) * units;
  for (int i = static_cast<int>(threadIdx.x); i < units; i += kThreads) to[i] = from[i];
}

// One block a row. A thread writes and reads again the same places only.
template <typename T, int kPack>
__global__ void RmsNormKernel(T* x, const T* delta, const T* weight, T* y, float* rstd, int n,
                              float eps) {
  using Values = Pack<T, kPack>;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * n;
  const int first = static_cast<int>(threadIdx.x) * kPack;
  float sum = 0.0f;
  for (int i = first; i < n; i += kThreads * kPack) {
    Values v = *reinterpret_cast<const Values*>(x + row + i);
    if (delta != nullptr) {
      const Values d = *reinterpret_cast<const Values*>(delta + row + i);
      for (int j = 0; j < kPack; ++j) {
        v.value[j] = Narrow<T>(Widen(v.value[j]) + Widen(d.value[j]));
      }
      *reinterpret_cast<Values*>(x + row + i) = v;
    }
    for (int j = 0; j < kPack; ++j) sum = fmaf(Widen(v.value[j]), Widen(v.value[j]), sum);
  }
  sum = BlockReduce<kThreads>(sum, Add());
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(n) + eps);
  if (rstd != nullptr && threadIdx.x == 0) rstd[blockIdx.x] = scale;
  for (int i = first; i < n; i += kThreads * kPack) {
    const Values v = *reinterpret_cast<const Values*>(x + row + i);
    const Values w = *reinterpret_cast<const Values*>(weight + i);
    Values out;
    for (int j = 0; j < kPack; ++j) {
      out.value[j] = Narrow<T>(Rounded<T>(Widen(v.value[j]) * scale) * Widen(w.value[j]));
    }
    *reinterpret_cast<Values*>(y + row + i) = out;
  }
}

// One warp a head: heads [0, query_heads) are queries, then keys, then values.
template <typename T>
__global__ void QkvKernel(QkvArgs args) {
  const int row = static_cast<int>(blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head =
      static_cast<int>(blockIdx.y) * (kQkvThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  const int heads = args.query_heads + 2 * args.kv.kv_heads;
  if (head >= heads) return;  // the whole warp
  const int dim = args.kv.head_dim;
  const int half = dim / 2;
  const T* in = static_cast<const T*>(args.qkv) + (static_cast<int64_t>(row) * heads + head) * dim;
  const T* bias =
      args.bias == nullptr ? nullptr : static_cast<const T*>(args.bias) + int64_t{head} * dim;
  const auto value = [&](int i) {
    const float x = Widen(in[i]);
    return bias == nullptr ? x : Rounded<T>(x + Widen(bias[i]));
  };
  const bool is_query = head < args.query_heads;
  const bool is_value = head >= args.query_heads + args.kv.kv_heads;

  T* out;
  if (is_query) {
    out = static_cast<T*>(args.q) + (static_cast<int64_t>(row) * args.query_heads + head) * dim;
  } else {
    const int slot = args.slots[row];
    if (slot < 0) return;
    const int kv_head = (head - args.query_heads) % args.kv.kv_heads;
    out = static_cast<T*>(is_value ? args.value_cache : args.key_cache) +
          KvOffset(args.kv, slot, kv_head);
  }
  if (is_value) {
    for (int i = lane; i < dim; i += 32) out[i] = Narrow<T>(value(i));
    return;
  }

  const T* norm = static_cast<const T*>(is_query ? args.q_norm : args.k_norm);
  float scale = 1.0f;
  if (norm != nullptr) {
    float sum = 0.0f;
    for (int i = lane; i < dim; i += 32) sum = fmaf(value(i), value(i), sum);
    scale = 1.0f / sqrtf(WarpReduce(sum, Add()) / static_cast<float>(dim) + args.eps);
  }
  const auto normed = [&](int i) {
    const float x = value(i);
    return norm == nullptr ? x : Rounded<T>(Rounded<T>(x * scale) * Widen(norm[i]));
  };
  const float* cosine = args.cosine + static_cast<int64_t>(args.positions[row]) * half;
  const float* sine = args.sine + static_cast<int64_t>(args.positions[row]) * half;
  for (int i = lane; i < half; i += 32) {
    const float a = normed(i);
    const float b = normed(half + i);
    out[i] = Narrow<T>(a * cosine[i] - b * sine[i]);
    out[half + i] = Narrow<T>(b * cosine[i] + a * sine[i]);
  }
}

template <typename T, int kPack>
__global__ void SwiGluKernel(const T* gate_up, T* out, int n) {
  using Values = Pack<T, kPack>;
  const int64_t row = static_cast<int64_t>(blockIdx.x);
  const int i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kPack;
  if (i >= n) return;
  const Values gate = *reinterpret_cast<const Values*>(gate_up + row * 2 * n + i);
  const Values up = *reinterpret_cast<const Values*>(gate_up + row * 2 * n + n + i);
  Values result;
  for (int j = 0; j < kPack; ++j) {
    result.value[j] = Narrow<T>(Rounded<T>(Silu(Widen(gate.value[j]))) * Widen(up.value[j]));
  }
  *reinterpret_cast<Values*>(out + row * n + i) = result;
}

template <typename Unit>
__global__ void CopyBlocksKernel(char* pool, const int32_t* from_to, int64_t plane_bytes,
                                 int64_t block_bytes) {
  char* plane = pool + static_cast<int64_t>(blockIdx.y) * plane_bytes;
  const auto* from = reinterpret_cast<const Unit*>(plane + from_to[2 * blockIdx.x] * block_bytes);
  auto* to = reinterpret_cast<Unit*>(plane + from_to[2 * blockIdx.x + 1] * block_bytes);
  const int64_t units = block_bytes / static_cast<int64_t>(sizeof(Unit));
  for (int64_t i = threadIdx.x; i < units; i += kThreads) to[i] = from[i];
}

}  // namespace

cudaError_t GatherRows(Dtype dtype, const GatherRowsArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const int64_t row_bytes = args.n * DtypeBytes(dtype);
  const dim3 grid(static_cast<unsigned>(args.rows));
  if (row_bytes % 16 == 0 && IsAligned(args.table) && IsAligned(args.out)) {
    using Unit = Pack<uint32_t, 4>;
    return Launch(GatherRowsKernel<Unit>, grid, kThreads, stream,
                  static_cast<const Unit*>(args.table), args.ids, static_cast<Unit*>(args.out),
                  static_cast<int>(row_bytes / 16));
  }
  using Unit = uint16_t;
  return Launch(GatherRowsKernel<Unit>, grid, kThreads, stream,
                static_cast<const Unit*>(args.table), args.ids, static_cast<Unit*>(args.out),
                static_cast<int>(row_bytes / 2));
}

cudaError_t RmsNorm(Dtype dtype, const RmsNormArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return DispatchDtype(dtype, [&](auto type) {
    using T = decltype(type);
    const bool packed = args.n % kPackCount<T> == 0 && IsAligned(args.x) && IsAligned(args.y) &&
                        IsAligned(args.weight) && IsAligned(args.delta);
    return Launch(packed ? RmsNormKernel<T, kPackCount<T>> : RmsNormKernel<T, 1>,
                  dim3(static_cast<unsigned>(args.rows)), kThreads, stream, static_cast<T*>(args.x),
                  static_cast<const T*>(args.delta), static_cast<const T*>(args.weight),
                  static_cast<T*>(args.y), args.rstd, args.n, args.eps);
  });
}

cudaError_t QkvToCache(Dtype dtype, const QkvArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.kv.head_dim % 2 != 0) return cudaErrorInvalidValue;
  const int heads = args.query_heads + 2 * args.kv.kv_heads;
  const dim3 grid(static_cast<unsigned>(args.rows), CeilDiv(heads, kQkvThreads / 32));
  return DispatchDtype(dtype, [&](auto type) {
    return Launch(QkvKernel<decltype(type)>, grid, kQkvThreads, stream, args);
  });
}

cudaError_t SwiGlu(Dtype dtype, const SwiGluArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return DispatchDtype(dtype, [&](auto type) {
    using T = decltype(type);
    const bool packed =
        args.n % kPackCount<T> == 0 && IsAligned(args.gate_up) && IsAligned(args.out);
    const int pack = packed ? kPackCount<T> : 1;
    return Launch(packed ? SwiGluKernel<T, kPackCount<T>> : SwiGluKernel<T, 1>,
                  dim3(static_cast<unsigned>(args.rows), CeilDiv(args.n, kThreads * pack)),
                  kThreads, stream, static_cast<const T*>(args.gate_up), static_cast<T*>(args.out),
                  args.n);
  });
}

cudaError_t CopyBlocks(const CopyBlocksArgs& args, cudaStream_t stream) {
  if (args.copies == 0) return cudaSuccess;
  if (args.block_bytes % 4 != 0 || args.plane_bytes % 4 != 0) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(args.copies), static_cast<unsigned>(args.planes));
  const bool packed =
      args.block_bytes % 16 == 0 && args.plane_bytes % 16 == 0 && IsAligned(args.pool);
  return Launch(packed ? CopyBlocksKernel<Pack<uint32_t, 4>> : CopyBlocksKernel<uint32_t>, grid,
                kThreads, stream, static_cast<char*>(args.pool), args.from_to, args.plane_bytes,
                args.block_bytes);
}

}  // namespace crescendo::cuda
