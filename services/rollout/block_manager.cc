#include "services/rollout/block_manager.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace crescendo {

BlockManager::BlockManager(int blocks, int block_tokens)
    : block_tokens_(block_tokens), owners_(blocks, 0) {
  CRESCENDO_CHECK(blocks > 0 && block_tokens > 0);
  free_.reserve(blocks);
  for (int block = blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockManager::Allocate() {
  CRESCENDO_CHECK(!free_.empty());
  const int32_t block = free_.back();
  free_.pop_back();
  CRESCENDO_CHECK(owners_[block] == 0);
  owners_[block] = 1;
  used_peak_ = std::max(used_peak_, used_blocks());
  return block;
}

void BlockManager::Grow(std::vector<int32_t>& table, int count) {
  while (static_cast<int>(table.size()) < count) table.push_back(Allocate());
}

void BlockManager::Share(int32_t block) {
  CRESCENDO_CHECK(owners_[block] > 0);
  ++owners_[block];
}

void BlockManager::Release(int32_t block) {
  CRESCENDO_CHECK(owners_[block] > 0);
  if (--owners_[block] == 0) free_.push_back(block);
}

void BlockManager::ReleaseAll(std::vector<int32_t>& table) {
  // Last first, so that a table that is made again gets the same order.
  for (auto it = table.rbegin(); it != table.rend(); ++it) Release(*it);
  table.clear();
}

}  // namespace crescendo
