// Finds a tokenizer's added tokens in text: the leftmost match, and of those the longest, as
// Hugging Face's AddedVocabulary does. Immutable after construction; thread-safe.
#ifndef CRESCENDO_COMMON_TEXT_ADDED_TOKENS_H_
#define CRESCENDO_COMMON_TEXT_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace crescendo {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special =
      false;  // control: skipped in decoded text, and found in a text only when that is allowed
  bool normalized = false;   // found in the normalized text instead of the raw one
  bool single_word = false;  // found only between non-word characters
  bool lstrip = false;       // takes the white space before
  bool rstrip = false;       // takes the white space behind
};

// Bytes [first, second) of a text.
using ByteRange = std::pair<size_t, size_t>;

class AddedTokenFinder {
 public:
  struct Match {
    int32_t id;
    ByteRange bytes;
  };

  // Tokens of empty content are left out.
  explicit AddedTokenFinder(absl::Span<const AddedToken> tokens);

  // All matches, in order, without overlap. Special tokens count only when `allow_special`, and
  // then only outside `literals` (ascending ranges).
  std::vector<Match> Find(absl::string_view text, bool allow_special,
                          absl::Span<const ByteRange> literals) const;
  bool empty() const { return tokens_.empty(); }

 private:
  // The token of the longest match that starts at `begin`, or -1.
  int LongestAt(absl::string_view text, size_t begin) const;

  std::vector<AddedToken> tokens_;
  std::array<bool, 256> starts_{};                    // first bytes
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // (node, byte) to node; the root is 0
  std::vector<int> token_of_node_;                    // index into tokens_, or -1
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_TEXT_ADDED_TOKENS_H_
