// Byte-pair encoding of one word: bytes to symbols, then the merge of lowest rank, leftmost first,
// until none applies (Sennrich et al. 2016, section 3.2). Immutable after construction but for a
// bounded cache of words; thread-safe.
#ifndef CRESCENDO_COMMON_TEXT_BYTE_PAIRS_H_
#define CRESCENDO_COMMON_TEXT_BYTE_PAIRS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

namespace crescendo {

class BytePairEncoder {
 public:
  struct Merge {
    int32_t left;
    int32_t right;
    int32_t result;
  };
  static constexpr int32_t kNone = -1;

  // `byte_ids[b]` is the token of byte b, or kNone: such bytes become `unknown_id`, or vanish when
  // that is kNone too. `merges` come in the order of their rank. `whole_words`: words that are
  // tokens as they are, whatever the merges say.
  BytePairEncoder(const std::array<int32_t, 256>& byte_ids, int32_t unknown_id, bool fuse_unknown,
                  absl::Span<const Merge> merges,
                  absl::flat_hash_map<std::string, int32_t> whole_words);

  // Appends the tokens of `word` to `out`. O(n log n) for a word of n bytes.
  void Encode(absl::string_view word, std::vector<int32_t>* out) const;

 private:
  struct RankedMerge {
    int32_t rank;
    int32_t result;
  };
  struct Shard {
    absl::Mutex mutex;
    absl::flat_hash_map<std::string, std::vector<int32_t>> words ABSL_GUARDED_BY(mutex);
  };
  static constexpr size_t kShards = 16;

  const RankedMerge* FindMerge(int32_t left, int32_t right) const;
  void EncodeUncached(absl::string_view word, std::vector<int32_t>* out) const;
  std::vector<int32_t> Symbols(absl::string_view word) const;
  void MergeShort(std::vector<int32_t>* symbols) const;
  void MergeLong(std::vector<int32_t>* symbols) const;

  const std::array<int32_t, 256> byte_ids_;
  const int32_t unknown_id_;
  const bool fuse_unknown_;
  absl::flat_hash_map<uint64_t, RankedMerge> merges_;
  const absl::flat_hash_map<std::string, int32_t> whole_words_;
  mutable std::array<Shard, kShards> cache_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_TEXT_BYTE_PAIRS_H_
