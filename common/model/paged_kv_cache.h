// Keys and values of all layers in blocks of a fixed number of tokens. Who owns which block is the
// caller's business (a block manager); here is only the memory.
//
// Layout, an affair of the attention kernel: keys [layers, blocks, kv_heads, head_dim, block_size]
// (tokens innermost, so that a vector of scores is a sum over head_dim), values [layers, blocks,
// kv_heads, block_size, padded_head_dim]. Nothing outside reads it but by PagedAttention.
//
// Thread rule: one thread at a time.
#ifndef CRESCENDO_COMMON_MODEL_PAGED_KV_CACHE_H_
#define CRESCENDO_COMMON_MODEL_PAGED_KV_CACHE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/model_config.h"

namespace crescendo {

class PagedKvCache {
 public:
  // block_size: 16, 32, 64 or 128 tokens. dtype: at::kFloat or at::kBFloat16. RESOURCE_EXHAUSTED
  // when the memory is not to be had.
  static absl::StatusOr<std::unique_ptr<PagedKvCache>> Create(const ModelConfig& config,
                                                              int32_t blocks, int32_t block_size,
                                                              at::ScalarType dtype = at::kFloat);
  // What Create would take: bytes of one block over all layers.
  static int64_t BytesPerBlock(const ModelConfig& config, int32_t block_size, at::ScalarType dtype);

  int layers() const { return layers_; }
  int32_t blocks() const { return blocks_; }
  int32_t block_size() const { return block_size_; }
  int kv_heads() const { return kv_heads_; }
  int head_dim() const { return head_dim_; }
  int padded_head_dim() const { return padded_head_dim_; }
  at::ScalarType dtype() const { return keys_.scalar_type(); }
  int64_t bytes() const { return static_cast<int64_t>(keys_.nbytes() + values_.nbytes()); }

  // Copies a block in all layers: for a sequence that leaves a shared, partly filled block.
  void CopyBlock(int32_t from, int32_t to);

  // The start of a block's keys, values.
  char* block_keys(int layer, int32_t block) const;
  char* block_values(int layer, int32_t block) const;

 private:
  PagedKvCache() = default;
  int layers_ = 0;
  int32_t blocks_ = 0;
  int32_t block_size_ = 0;
  int kv_heads_ = 0;
  int head_dim_ = 0;
  int padded_head_dim_ = 0;
  int64_t key_block_bytes_ = 0;
  int64_t value_block_bytes_ = 0;
  at::Tensor keys_;
  at::Tensor values_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_PAGED_KV_CACHE_H_
