#include "common/model/attention_plan.h"

#include <algorithm>

namespace crescendo {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t Tiles(int32_t queries, const AttentionPlanShape& shape) {
  return CeilDiv(int64_t{queries} * shape.group, shape.tile);
}

// In blocks of the cache.
int64_t ChunkBlocks(absl::Span<const int32_t> queries, absl::Span<const int32_t> contexts,
                    const AttentionPlanShape& shape) {
  int64_t longest = 1;
  for (const int32_t context : contexts) {
    longest = std::max(longest, CeilDiv(context, shape.block_tokens));
  }
  int64_t low = CeilDiv(kChunkTokensMin, shape.block_tokens);
  int64_t high = std::max(low, longest);
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    int64_t blocks = 0;
    for (size_t i = 0; i < queries.size(); ++i) {
      blocks += Tiles(queries[i], shape) * CeilDiv(contexts[i], middle * shape.block_tokens);
    }
    if (blocks > shape.capacity) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

void PlanAttention(absl::Span<const int32_t> queries, absl::Span<const int32_t> contexts,
                   const AttentionPlanShape& shape, AttentionPlan* plan) {
  plan->sequence.clear();
  plan->query_tile.clear();
  plan->key_chunk.clear();
  plan->partial_start.assign(1, 0);
  plan->merge_start.assign(1, 0);
  plan->chunk_tokens =
      static_cast<int32_t>(ChunkBlocks(queries, contexts, shape) * shape.block_tokens);
  for (size_t i = 0; i < queries.size(); ++i) {
    const int64_t tiles = Tiles(queries[i], shape);
    const auto chunks = static_cast<int32_t>(CeilDiv(contexts[i], plan->chunk_tokens));
    for (int32_t tile = 0; tile < tiles; ++tile) {
      for (int32_t chunk = 0; chunk < chunks; ++chunk) {
        plan->sequence.push_back(static_cast<int32_t>(i));
        plan->query_tile.push_back(tile);
        plan->key_chunk.push_back(chunk);
      }
    }
    for (int32_t row = 0; row < queries[i]; ++row) {
      plan->merge_start.push_back(plan->merge_start.back() + chunks);
    }
    plan->partial_start.push_back(plan->partial_start.back() + queries[i] * chunks);
  }
}

}  // namespace crescendo
