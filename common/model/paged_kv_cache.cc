#include "common/model/paged_kv_cache.h"

#include <ATen/ATen.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/torch_guard.h"
#include "common/os/huge_pages.h"

namespace crescendo {
namespace {

int64_t PaddedHeadDim(const ModelConfig& config) { return (config.head_dim + 7) / 8 * 8; }

int64_t ElementBytes(at::ScalarType dtype) { return dtype == at::kFloat ? 4 : 2; }

}  // namespace

int64_t PagedKvCache::BytesPerBlock(const ModelConfig& config, int32_t block_size,
                                    at::ScalarType dtype) {
  return int64_t{config.layers} * config.kv_heads * block_size *
         (config.head_dim + PaddedHeadDim(config)) * ElementBytes(dtype);
}

absl::StatusOr<std::unique_ptr<PagedKvCache>> PagedKvCache::Create(const ModelConfig& config,
                                                                   int32_t blocks,
                                                                   int32_t block_size,
                                                                   at::ScalarType dtype) {
  if (dtype != at::kFloat && dtype != at::kBFloat16) {
    return absl::InvalidArgumentError("KV cache: expected dtype float32 or bfloat16");
  }
  if (block_size != 16 && block_size != 32 && block_size != 64 && block_size != 128) {
    return absl::InvalidArgumentError(absl::StrCat(
        "KV cache: expected a block size of 16, 32, 64 or 128 tokens, found ", block_size));
  }
  constexpr int32_t kBlocksMax = 1 << 24;
  if (blocks < 1 || blocks > kBlocksMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV cache: expected 1 to ", kBlocksMax, " blocks, found ", blocks));
  }
  std::unique_ptr<PagedKvCache> cache(new PagedKvCache());
  cache->layers_ = config.layers;
  cache->blocks_ = blocks;
  cache->block_size_ = block_size;
  cache->kv_heads_ = config.kv_heads;
  cache->head_dim_ = config.head_dim;
  cache->padded_head_dim_ = static_cast<int>(PaddedHeadDim(config));
  const int64_t rows = int64_t{config.kv_heads} * block_size * ElementBytes(dtype);
  cache->key_block_bytes_ = rows * config.head_dim;
  cache->value_block_bytes_ = rows * cache->padded_head_dim_;
  RETURN_IF_ERROR(CatchTorch(
      absl::StrCat("KV cache of ", blocks, " blocks, ",
                   BytesPerBlock(config, block_size, dtype) * blocks, " bytes"),
      [&] {
        const at::TensorOptions options = at::TensorOptions().dtype(dtype);
        cache->keys_ = at::empty(
            {config.layers, blocks, config.kv_heads, config.head_dim, block_size}, options);
        cache->values_ = at::empty(
            {config.layers, blocks, config.kv_heads, block_size, cache->padded_head_dim_}, options);
        for (const at::Tensor* t : {&cache->keys_, &cache->values_}) {
          AskForHugePages(t->data_ptr(), t->nbytes());
        }
      }));
  return cache;
}

void PagedKvCache::CopyBlock(int32_t from, int32_t to) {
  CRESCENDO_CHECK(from >= 0 && from < blocks_ && to >= 0 && to < blocks_);
  if (from == to) return;
  for (int layer = 0; layer < layers_; ++layer) {
    std::memcpy(block_keys(layer, to), block_keys(layer, from),
                static_cast<size_t>(key_block_bytes_));
    std::memcpy(block_values(layer, to), block_values(layer, from),
                static_cast<size_t>(value_block_bytes_));
  }
}

char* PagedKvCache::block_keys(int layer, int32_t block) const {
  return static_cast<char*>(keys_.data_ptr()) +
         (int64_t{layer} * blocks_ + block) * key_block_bytes_;
}

char* PagedKvCache::block_values(int layer, int32_t block) const {
  return static_cast<char*>(values_.data_ptr()) +
         (int64_t{layer} * blocks_ + block) * value_block_bytes_;
}

}  // namespace crescendo
