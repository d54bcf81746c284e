// Attention of the rollout: writes the new tokens' keys and values into a PagedKvCache and attends
// over each sequence's prefix and itself. One call serves any mix of prefill chunks and decode
// rows.
#ifndef CRESCENDO_COMMON_MODEL_PAGED_ATTENTION_H_
#define CRESCENDO_COMMON_MODEL_PAGED_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/model/paged_kv_cache.h"
#include "common/model/policy_model.h"

namespace crescendo {

// One sequence's part of a pass.
struct PagedSequence {
  // Block i holds tokens [i * block_size, (i + 1) * block_size). Covers context_before +
  // new_tokens; more is allowed. Must live as long as the batch is set.
  absl::Span<const int32_t> block_table;
  int32_t context_before = 0;  // tokens whose keys and values are in the cache already
  int32_t new_tokens = 0;      // tokens of this pass, at positions context_before...; at least 1
};

// Thread rule: one thread at a time. No gradients. The cache outlives it.
class PagedAttention : public AttentionContext {
 public:
  // `deterministic` (PolicyModel::deterministic): a row has the same bits in any batch and chunk.
  PagedAttention(PagedKvCache* cache, int query_heads, bool deterministic = false);

  // The sequences of the next passes; a pass's tokens are theirs, one behind the other. Blocks that
  // two sequences share must lie in both their prefixes (nobody writes them). INVALID_ARGUMENT for
  // a block out of range or a table too short; the batch is then empty.
  absl::Status SetBatch(absl::Span<const PagedSequence> sequences);

  at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override;

  int64_t batch_tokens() const { return tokens_; }
  // Bytes of its buffers, at their largest so far.
  int64_t scratch_bytes() const;
  // [tokens] int64: what PolicyModel::Hidden wants.
  at::Tensor Positions() const;
  // For each sequence the index of its last token in the pass: the rows whose logits are sampled.
  const std::vector<int64_t>& last_rows() const { return last_rows_; }

 private:
  // `floats` of scratch_ for each thread.
  template <typename T>
  void AttendParts(int layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                   int threads, int64_t floats);

  PagedKvCache* cache_;
  int query_heads_;
  bool deterministic_;
  int64_t tokens_ = 0;
  int64_t max_context_ = 0;
  std::vector<PagedSequence> sequences_;
  std::vector<int64_t> first_rows_;
  std::vector<int64_t> last_rows_;
  std::vector<int64_t> work_;  // indices of sequences_, the most work first
  at::Tensor output_;
  at::Tensor scratch_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_PAGED_ATTENTION_H_
