// Which block of threads works on which part of a batch's attention: tiles of query rows by chunks
// of keys, as FlashInfer's paged prefill kernel takes them (which also serves decoding: query heads
// that share a KV head are rows of one tile). Plain data, no CUDA.
//
// Long contexts are cut into chunks so that the blocks are many and alike; what the chunks of a row
// give is merged afterwards. Thread-safe.
#ifndef CRESCENDO_COMMON_MODEL_ATTENTION_PLAN_H_
#define CRESCENDO_COMMON_MODEL_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace crescendo {

struct AttentionPlan {
  int32_t chunk_tokens = 0;  // keys of a chunk, a multiple of the cache's block
  // One a block of threads.
  std::vector<int32_t> sequence;
  std::vector<int32_t> query_tile;
  std::vector<int32_t> key_chunk;
  // [sequences + 1]: where a sequence's partial results start, counted in rows x chunks.
  std::vector<int32_t> partial_start;
  // [rows + 1]: where a row's partial results start.
  std::vector<int32_t> merge_start;
  int blocks() const { return static_cast<int>(sequence.size()); }
};

struct AttentionPlanShape {
  int group = 1;  // query heads of a KV head
  int tile = 16;  // rows of a tile: query rows x group
  int block_tokens = 16;
  int capacity = 0;  // blocks that a plan may have
};

// The chunk is the shortest one, of at least kChunkTokensMin, with which the blocks do not exceed
// the capacity; without any chunking they may, if the tiles alone do. `queries` and `contexts` (the
// new tokens included) one a sequence, contexts >= queries >= 1.
inline constexpr int kChunkTokensMin = 256;
void PlanAttention(absl::Span<const int32_t> queries, absl::Span<const int32_t> contexts,
                   const AttentionPlanShape& shape, AttentionPlan* plan);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_ATTENTION_PLAN_H_
