// The CUDA kernels of the policy: plain functions over device memory, each with the arithmetic of
// its CPU counterpart (kernels.h, sampler.h, paged_attention.h). No LibTorch.
//
// All sums are fp32 (or wider), whatever the stored type; a value is rounded to the stored type
// where the CPU kernels round it. A row's result does not depend on the other rows of the call.
// Every function only enqueues work on `stream`: it neither waits nor allocates, so that it can be
// captured into a CUDA graph; what may change between two replays of a graph lies in device memory.
//
// Requires: pointers into device memory of the current device, sizes as documented. Returns the
// launch's error; cudaErrorInvalidValue for sizes that a kernel does not serve. Thread-safe.
#ifndef CRESCENDO_COMMON_MODEL_CUDA_KERNELS_H_
#define CRESCENDO_COMMON_MODEL_CUDA_KERNELS_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace crescendo::cuda {

enum class Dtype { kF32, kBf16 };
inline int64_t DtypeBytes(Dtype dtype) { return dtype == Dtype::kF32 ? 4 : 2; }

// out[i] = table[ids[i]]: token embeddings, and the rows that are drawn from.
struct GatherRowsArgs {
  const void* table;   // [*, n]
  const int32_t* ids;  // [rows], valid rows of the table
  void* out;           // [rows, n]
  int rows = 0;
  int n = 0;
};
cudaError_t GatherRows(Dtype dtype, const GatherRowsArgs& args, cudaStream_t stream);

// x += delta (when there is one), y = x / rms(x) * weight, rstd = 1 / rms(x) (when it is wanted).
// Without a delta x is only read.
struct RmsNormArgs {
  void* x;             // [rows, n]
  const void* delta;   // [rows, n] or nullptr
  const void* weight;  // [n]
  void* y;             // [rows, n]
  float* rstd;         // [rows] or nullptr
  int rows = 0;
  int n = 0;
  float eps = 0.0f;
};
cudaError_t RmsNorm(Dtype dtype, const RmsNormArgs& args, cudaStream_t stream);

// Keys and values of one layer in blocks: [blocks, kv_heads, block_tokens, head_dim] each.
struct KvShape {
  int kv_heads = 0;
  int head_dim = 0;
  int block_tokens = 0;
};

// From the projections of a row to its query and its place in the cache: bias, norm of each query
// and key head (Qwen3), RoPE, and the write of key and value.
struct QkvArgs {
  const void* qkv;           // [rows, (query_heads + 2 kv_heads) head_dim]
  const void* bias;          // [(query_heads + 2 kv_heads) head_dim] or nullptr
  const void* q_norm;        // [head_dim] or nullptr, with k_norm
  const void* k_norm;        // [head_dim] or nullptr
  const float* cosine;       // [positions, head_dim / 2]
  const float* sine;         // [positions, head_dim / 2]
  const int32_t* positions;  // [rows], in the tables
  const int32_t* slots;      // [rows]: block * block_tokens + place in the block; -1: not written
  void* q;                   // [rows, query_heads, head_dim]
  void* key_cache;
  void* value_cache;
  KvShape kv;
  int rows = 0;
  int query_heads = 0;
  float eps = 0.0f;
};
cudaError_t QkvToCache(Dtype dtype, const QkvArgs& args, cudaStream_t stream);

// out = silu(gate) * up.
struct SwiGluArgs {
  const void* gate_up;  // [rows, 2 n], gate first
  void* out;            // [rows, n]
  int rows = 0;
  int n = 0;
};
cudaError_t SwiGlu(Dtype dtype, const SwiGluArgs& args, cudaStream_t stream);

// Copies whole blocks. All copies run at once: no block may be written twice, or be written and
// read.
struct CopyBlocksArgs {
  void* pool;              // `planes` planes of plane_bytes; a plane is a run of blocks
  const int32_t* from_to;  // [copies, 2]
  int copies = 0;
  int planes = 0;
  int64_t plane_bytes = 0;
  int64_t block_bytes = 0;  // a multiple of 4
};
cudaError_t CopyBlocks(const CopyBlocksArgs& args, cudaStream_t stream);

// Attention of each row over the keys at positions [0, its own] of its sequence, for any head size
// up to 256: CUDA cores only. Long contexts are split into parts of kSplitTokens, whose sums are
// merged in order: the result depends neither on the batch nor on `splits`, as long as these cover
// the context.
inline constexpr int kSplitTokens = 512;
struct PagedAttentionArgs {
  const void* q;  // [rows, query_heads, head_dim]
  const void* key_cache;
  const void* value_cache;
  const int32_t* row_sequence;  // [rows]; -1: the row is padding, its result is 0
  const int32_t* positions;     // [rows]
  const int32_t* block_start;   // [sequences + 1]: where a sequence's blocks start in block_ids
  const int32_t* block_ids;
  void* out;       // [rows, query_heads * head_dim]
  float* partial;  // PartialFloats(...) floats; may be nullptr when splits is 1
  KvShape kv;
  int rows = 0;
  int query_heads = 0;
  int splits = 1;  // at least ceil(longest context / kSplitTokens), or 1: do not split
  float scale = 0.0f;
};
inline int64_t PartialFloats(int rows, int query_heads, int splits, int head_dim) {
  return int64_t{rows} * query_heads * splits * (head_dim + 2);
}
cudaError_t PagedAttentionSimple(Dtype dtype, const PagedAttentionArgs& args, cudaStream_t stream);

// One draw (sampler.h says what the parameters mean and in which order they truncate).
struct Draw {
  uint64_t seed = 0;  // TokenUniform(seed, group, sample, position), made on the device
  uint64_t group = 0;
  double temperature = 1.0;
  double top_p = 1.0;
  uint32_t sample = 0;
  uint32_t position = 0;
  float min_p = 0.0f;
  int32_t top_k = 0;
  int32_t row = -1;  // of the logits; -1: nothing is drawn
};
struct Drawn {
  int32_t token = -1;  // -1: the row's logits are not finite
  float log_prob = 0.0f;
  float log_prob_untempered = 0.0f;
  int32_t unused = 0;
};
struct SampleArgs {
  const float* logits;  // [rows, vocab]
  const Draw* draws;    // [count]
  Drawn* out;           // [count]
  int count = 0;
  int vocab = 0;  // up to 2^20
};
// Without truncation the row is read once and one part of it again; with it some fifteen times.
cudaError_t Sample(const SampleArgs& args, cudaStream_t stream);

}  // namespace crescendo::cuda

#endif  // CRESCENDO_COMMON_MODEL_CUDA_KERNELS_H_
