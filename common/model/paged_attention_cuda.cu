// Paged attention on CUDA cores, for any head size up to 256 and both dtypes: where FlashInfer's
// kernels do not serve (flashinfer_attention.h), and the oracle of their tests. Contract:
// cuda_kernels.h. Online softmax over tiles of keys (Dao et al., "FlashAttention", 2022, algorithm
// 1), long contexts in parts merged by their log-sum-exp.
#include "common/model/cuda_block.cuh"
#include "common/model/cuda_kernels.h"
#include "common/model/cuda_math.cuh"

namespace crescendo::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kGroup = 8;  // query heads of one block, which share its loads of keys and values
constexpr int kDimMax = 256;

// 16 KiB of keys or values, at most 64 tokens.
template <typename T, int kDim>
inline constexpr int kTile = 16384 / (kDim * static_cast<int>(sizeof(T))) < 64
                                 ? 16384 / (kDim * static_cast<int>(sizeof(T)))
                                 : 64;

// The part of a row's context that a block works on: keys [begin, end).
struct Part {
  int begin;
  int end;
};
CRESCENDO_HD Part PartOf(int context, int splits, int split) {
  if (splits == 1) return {0, context};
  const int begin = split * kSplitTokens;
  const int end = begin + kSplitTokens < context ? begin + kSplitTokens : context;
  return {begin, end};
}

// Tokens [first, first + count) of the sequence whose blocks are `blocks`, into rows of `stride`.
template <typename T>
__device__ void LoadTile(const T* cache, const KvShape& kv, const int32_t* blocks, int kv_head,
                         int first, int count, T* tile, int stride) {
  constexpr int kPack = kPackCount<T>;
  const bool packed = kv.head_dim % kPack == 0;
  const int pack = packed ? kPack : 1;
  const int units = kv.head_dim / pack;  // of a token
  for (int i = static_cast<int>(threadIdx.x); i < count * units; i += kThreads) {
    const int token = i / units;
    const int d = (i % units) * pack;
    const int position = first + token;
    const int64_t slot =
        static_cast<int64_t>(blocks[position / kv.block_tokens]) * kv.block_tokens +
        position % kv.block_tokens;
    const T* from = cache + KvOffset(kv, slot, kv_head) + d;
    T* to = tile + token * stride + d;
    if (packed) {
      *reinterpret_cast<Pack<T, kPack>*>(to) = *reinterpret_cast<const Pack<T, kPack>*>(from);
    } else {
      *to = *from;
    }
  }
}

// What the threads of a block share.
template <typename T, int kDim>
struct Shared {
  static constexpr int kTokens = kTile<T, kDim>;
  static constexpr int kStride = kDim + kPackCount<T>;  // rows start in different banks
  alignas(16) T tile[kTokens * kStride];                // keys, then values
  float query[kGroup][kDim];
  float weight[kGroup][kTokens];  // scores, then e^(score - max)
  float max[kGroup];
  float sum[kGroup];
  float rescale[kGroup];  // of what was summed up before this tile
};

template <typename T, int kDim>
__device__ void ScoreTile(const PagedAttentionArgs& args, int heads, int count,
                          Shared<T, kDim>* shared) {
  constexpr int kTokens = Shared<T, kDim>::kTokens;
  for (int i = static_cast<int>(threadIdx.x); i < heads * kTokens; i += kThreads) {
    const int head = i / kTokens;
    const int token = i % kTokens;
    const T* key = shared->tile + token * Shared<T, kDim>::kStride;
    float dot = 0.0f;
    for (int d = 0; token < count && d < args.kv.head_dim; ++d) {
      dot = fmaf(shared->query[head][d], Widen(key[d]), dot);
    }
    shared->weight[head][token] = token < count ? dot * args.scale : -INFINITY;
  }
}

// One warp a head.
template <typename T, int kDim>
__device__ void WeighTile(int heads, int count, Shared<T, kDim>* shared) {
  constexpr int kTokens = Shared<T, kDim>::kTokens;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int head = static_cast<int>(threadIdx.x) / 32; head < heads; head += kWarps) {
    float* weight = shared->weight[head];
    float top = shared->max[head];
    for (int token = lane; token < kTokens; token += 32) top = fmaxf(top, weight[token]);
    top = WarpReduce(top, Max());
    float sum = 0.0f;
    for (int token = lane; token < kTokens; token += 32) {
      weight[token] = token < count ? Exp(weight[token] - top) : 0.0f;
      sum += weight[token];
    }
    sum = WarpReduce(sum, Add());
    // The reductions have every lane past its read of max[head].
    if (lane == 0) {
      const float before = shared->max[head];
      const float factor = before == -INFINITY ? 0.0f : Exp(before - top);
      shared->rescale[head] = factor;
      shared->sum[head] = shared->sum[head] * factor + sum;
      shared->max[head] = top;
    }
  }
}

// Thread d has dimension d (and d + kThreads) of each head.
template <typename T, int kDim, int kDims>
__device__ __forceinline__ void AddValues(int dim, int heads, int count,
                                          const Shared<T, kDim>& shared,
                                          float (&acc)[kDims][kGroup]) {
  for (int k = 0; k < kDims; ++k) {
    const int d = static_cast<int>(threadIdx.x) + k * kThreads;
    if (d >= dim) break;
    for (int head = 0; head < kGroup; ++head) {
      if (head >= heads) break;
      float total = acc[k][head] * shared.rescale[head];
      for (int token = 0; token < count; ++token) {
        total = fmaf(shared.weight[head][token],
                     Widen(shared.tile[token * Shared<T, kDim>::kStride + d]), total);
      }
      acc[k][head] = total;
    }
  }
}

// The result, or this part's share of it. `first_head` counts over all rows.
template <typename T, int kDim, int kDims>
__device__ __forceinline__ void StoreResult(const PagedAttentionArgs& args, int64_t first_head,
                                            int heads, int split, const Shared<T, kDim>& shared,
                                            const float (&acc)[kDims][kGroup]) {
  const int dim = args.kv.head_dim;
  for (int k = 0; k < kDims; ++k) {
    const int d = static_cast<int>(threadIdx.x) + k * kThreads;
    if (d >= dim) break;
    for (int head = 0; head < kGroup; ++head) {
      if (head >= heads) break;
      if (args.splits == 1) {
        static_cast<T*>(args.out)[(first_head + head) * dim + d] =
            Narrow<T>(acc[k][head] / shared.sum[head]);
      } else {
        float* to = args.partial + ((first_head + head) * args.splits + split) * (dim + 2);
        to[d] = acc[k][head];
        if (d == 0) {
          to[dim] = shared.max[head];
          to[dim + 1] = shared.sum[head];
        }
      }
    }
  }
}

// Block (row, kv head and part of its group, split).
template <typename T, int kDim>
__global__ void AttentionKernel(PagedAttentionArgs args) {
  constexpr int kTokens = Shared<T, kDim>::kTokens;
  constexpr int kStride = Shared<T, kDim>::kStride;
  __shared__ Shared<T, kDim> shared;

  const int me = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(blockIdx.x);
  const int dim = args.kv.head_dim;
  const int group = args.query_heads / args.kv.kv_heads;
  const int chunks = (group + kGroup - 1) / kGroup;
  const int kv_head = static_cast<int>(blockIdx.y) / chunks;
  const int first_of_group = static_cast<int>(blockIdx.y) % chunks * kGroup;
  const int heads = group - first_of_group < kGroup ? group - first_of_group : kGroup;
  const int64_t first_head =
      static_cast<int64_t>(row) * args.query_heads + kv_head * group + first_of_group;
  const int split = static_cast<int>(blockIdx.z);

  const int sequence = args.row_sequence[row];
  if (sequence < 0) {
    T* out = static_cast<T*>(args.out) + first_head * dim;
    for (int i = me; i < heads * dim && split == 0; i += kThreads) out[i] = Narrow<T>(0.0f);
    return;
  }
  const Part part = PartOf(args.positions[row] + 1, args.splits, split);
  if (part.begin >= part.end) return;
  const int32_t* blocks = args.block_ids + args.block_start[sequence];

  const T* q = static_cast<const T*>(args.q) + first_head * dim;
  for (int i = me; i < heads * dim; i += kThreads) shared.query[i / dim][i % dim] = Widen(q[i]);
  if (me < kGroup) {
    shared.max[me] = -INFINITY;
    shared.sum[me] = 0.0f;
  }
  float acc[(kDim + kThreads - 1) / kThreads][kGroup] = {};
  for (int first = part.begin; first < part.end; first += kTokens) {
    const int count = part.end - first < kTokens ? part.end - first : kTokens;
    __syncthreads();  // the last tile's values are done with
    LoadTile(static_cast<const T*>(args.key_cache), args.kv, blocks, kv_head, first, count,
             shared.tile, kStride);
    __syncthreads();
    ScoreTile(args, heads, count, &shared);
    __syncthreads();
    LoadTile(static_cast<const T*>(args.value_cache), args.kv, blocks, kv_head, first, count,
             shared.tile, kStride);
    WeighTile(heads, count, &shared);
    __syncthreads();
    AddValues(dim, heads, count, shared, acc);
  }
  // The last barrier of the loop ordered sum and max before these reads.
  StoreResult(args, first_head, heads, split, shared, acc);
}

// Block (row, query head): the parts of a row, in order.
template <typename T>
__global__ void MergeKernel(PagedAttentionArgs args) {
  const int row = static_cast<int>(blockIdx.x);
  if (args.row_sequence[row] < 0) return;  // the first kernel wrote its zeros
  const int dim = args.kv.head_dim;
  const int64_t head = static_cast<int64_t>(row) * args.query_heads + blockIdx.y;
  const int parts = (args.positions[row] + kSplitTokens) / kSplitTokens;
  const float* from = args.partial + head * args.splits * (dim + 2);
  float top = -INFINITY;
  for (int i = 0; i < parts; ++i) top = fmaxf(top, from[i * (dim + 2) + dim]);
  float sum = 0.0f;
  for (int i = 0; i < parts; ++i) {
    const float* part = from + i * (dim + 2);
    sum = fmaf(part[dim + 1], Exp(part[dim] - top), sum);
  }
  T* out = static_cast<T*>(args.out) + head * dim;
  for (int d = static_cast<int>(threadIdx.x); d < dim; d += kThreads) {
    float total = 0.0f;
    for (int i = 0; i < parts; ++i) {
      const float* part = from + i * (dim + 2);
      total = fmaf(part[d], Exp(part[dim] - top), total);
    }
    out[d] = Narrow<T>(total / sum);
  }
}

template <typename T>
cudaError_t Attend(const PagedAttentionArgs& args, cudaStream_t stream) {
  const int group = args.query_heads / args.kv.kv_heads;
  const dim3 grid(static_cast<unsigned>(args.rows),
                  static_cast<unsigned>(args.kv.kv_heads) * CeilDiv(group, kGroup),
                  static_cast<unsigned>(args.splits));
  const auto kernel = args.kv.head_dim <= 64    ? AttentionKernel<T, 64>
                      : args.kv.head_dim <= 128 ? AttentionKernel<T, 128>
                                                : AttentionKernel<T, 256>;
  const cudaError_t error = Launch(kernel, grid, kThreads, stream, args);
  if (error != cudaSuccess || args.splits == 1) return error;
  return Launch(MergeKernel<T>,
                dim3(static_cast<unsigned>(args.rows), static_cast<unsigned>(args.query_heads)),
                kThreads, stream, args);
}

}  // namespace

cudaError_t PagedAttentionSimple(Dtype dtype, const PagedAttentionArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.kv.head_dim > kDimMax || args.kv.kv_heads < 1 ||
      args.query_heads % args.kv.kv_heads != 0 || args.splits < 1 ||
      (args.splits > 1 && args.partial == nullptr)) {
    return cudaErrorInvalidValue;
  }
  return DispatchDtype(dtype, [&](auto type) { return Attend<decltype(type)>(args, stream); });
}

}  // namespace crescendo::cuda
