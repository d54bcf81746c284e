// Paged attention by FlashInfer's FA2 kernel (Ye et al., "FlashInfer", 2025; the headers of the
// PyPI wheel flashinfer-python): tensor cores for prefill and for decoding alike, bf16, head sizes
// 64 and 128. Where those headers are not found, FlashInferServes is false everywhere and
// cuda_kernels.h's PagedAttentionSimple does the work.
//
// The call only enqueues, so that it can be captured: what changes from step to step lies in device
// memory. Thread-safe.
#ifndef CRESCENDO_COMMON_MODEL_FLASHINFER_ATTENTION_H_
#define CRESCENDO_COMMON_MODEL_FLASHINFER_ATTENTION_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "common/model/cuda_kernels.h"

namespace crescendo::cuda {

// Rows (query rows x query heads of a KV head) of one block of threads; AttentionPlanShape::tile.
inline constexpr int kFlashInferDecodeTile = 16;
inline constexpr int kFlashInferPrefillTile = 128;

bool FlashInferServes(Dtype dtype, const KvShape& kv, int query_heads);

// A batch of sequences and its AttentionPlan (attention_plan.h), all in device memory.
struct FlashInferArgs {
  const void* q = nullptr;  // [rows, query_heads, head_dim]
  void* out = nullptr;      // [rows, query_heads, head_dim]
  const void* key_cache = nullptr;
  const void* value_cache = nullptr;
  KvShape kv;
  int query_heads = 0;
  float scale = 0.0f;

  int sequences = 0;
  int rows_max = 0;                      // at least *rows
  const uint32_t* rows = nullptr;        // [1]
  const int32_t* query_start = nullptr;  // [sequences + 1]
  const int32_t* block_start = nullptr;  // [sequences + 1]
  const int32_t* block_ids = nullptr;
  const int32_t* last_block_tokens = nullptr;  // [sequences]: tokens in a sequence's last block

  int tile = 0;                         // one of the two above
  int blocks = 0;                       // that are launched; those that are not `valid` do nothing
  const bool* valid = nullptr;          // [blocks]
  const int32_t* sequence = nullptr;    // [blocks]
  const int32_t* query_tile = nullptr;  // [blocks]
  const int32_t* key_chunk = nullptr;   // [blocks]
  const int32_t* chunk_tokens = nullptr;   // [1]
  const int32_t* partial_start = nullptr;  // [sequences + 1]
  const int32_t* merge_start = nullptr;    // [rows + 1]
  // One entry a query head for each row of each chunk (AttentionPlan::merge_start's last).
  void* partial_out = nullptr;   // [partials, query_heads, head_dim]
  float* partial_lse = nullptr;  // [partials, query_heads]
};
// Requires FlashInferServes.
cudaError_t FlashInferAttention(const FlashInferArgs& args, cudaStream_t stream);
// Its parts.
cudaError_t FlashInferAttention64(const FlashInferArgs& args, cudaStream_t stream);
cudaError_t FlashInferAttention128(const FlashInferArgs& args, cudaStream_t stream);

}  // namespace crescendo::cuda

#endif  // CRESCENDO_COMMON_MODEL_FLASHINFER_ATTENTION_H_
