// Who owns which block of the KV cache. A block is free or has a number of owners; a sequence that
// shares a prefix with another holds the same blocks.
//
// Invariants: free blocks + blocks with an owner = all blocks; a block is handed out only while
// free; a count never falls below zero (CHECK). Plain state; not thread-safe.
#ifndef CRESCENDO_SERVICES_ROLLOUT_BLOCK_MANAGER_H_
#define CRESCENDO_SERVICES_ROLLOUT_BLOCK_MANAGER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace crescendo {

class BlockManager {
 public:
  // Requires blocks > 0 and block_tokens > 0.
  BlockManager(int blocks, int block_tokens);

  int blocks() const { return static_cast<int>(owners_.size()); }
  int block_tokens() const { return block_tokens_; }
  int free_blocks() const { return static_cast<int>(free_.size()); }
  int used_blocks() const { return blocks() - free_blocks(); }
  // The most that were ever in use at once.
  int used_blocks_peak() const { return used_peak_; }
  // Blocks that `tokens` tokens fill.
  int BlocksFor(int64_t tokens) const {
    return static_cast<int>((tokens + block_tokens_ - 1) / block_tokens_);
  }

  // Takes a free block, with one owner. Requires free_blocks() > 0.
  int32_t Allocate();
  // Grows `table` to at least `count` blocks. Requires count - table.size() <= free_blocks().
  void Grow(std::vector<int32_t>& table, int count);
  // One more owner for a block that has one.
  void Share(int32_t block);
  // One owner less; the last one frees it.
  void Release(int32_t block);
  // Releases all of a table and empties it.
  void ReleaseAll(std::vector<int32_t>& table);
  int owners(int32_t block) const { return owners_[block]; }

 private:
  int block_tokens_;
  int used_peak_ = 0;
  std::vector<int32_t> owners_;
  std::vector<int32_t> free_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_BLOCK_MANAGER_H_
