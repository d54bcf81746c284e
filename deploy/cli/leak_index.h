// Finds evaluation problems in training problems: the same text but for how it is written, and
// texts that share most of their word n-grams.
//
// A text is read as tokens: words (lower case), numbers, and the signs + - * / ^ = < >. Everything
// else (dollar signs, braces, punctuation, spacing, \left, \text, \dfrac against \frac) is how it
// is written. Two texts match exactly when their tokens are the same. Containment is the share of
// an evaluation problem's distinct n-grams of tokens that a training problem has too; a problem of
// fewer than kTokensMin tokens is matched exactly only.
//
// Memory: some 50 bytes a token of the evaluation problems; training problems are not kept.
// Not thread-safe.
#ifndef CRESCENDO_DEPLOY_CLI_LEAK_INDEX_H_
#define CRESCENDO_DEPLOY_CLI_LEAK_INDEX_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"

namespace crescendo {

// The tokens of a text, each as a hash of 64 bits.
std::vector<uint64_t> ProblemTokens(absl::string_view text);
// Of all tokens: equal for texts that match exactly (for others by a chance of 2^-64).
uint64_t TokensHash(const std::vector<uint64_t>& tokens);

struct LeakMatch {
  uint32_t problem = 0;    // as Add numbered it
  double containment = 0;  // [0, 1]
  bool exact = false;
};

class LeakIndex {
 public:
  static constexpr size_t kGramTokens = 8;
  static constexpr size_t kTokensMin = 12;

  // Problems are numbered 0, 1, 2, ...
  void Add(absl::string_view problem);
  uint32_t size() const { return static_cast<uint32_t>(grams_of_.size()); }
  // Those that the text matches exactly or contains at least `containment_min` of, by number.
  std::vector<LeakMatch> Find(absl::string_view text, double containment_min) const;

 private:
  using Problems = absl::InlinedVector<uint32_t, 2>;
  absl::flat_hash_map<uint64_t, Problems> by_gram_;
  absl::flat_hash_map<uint64_t, Problems> by_text_;
  std::vector<uint32_t> grams_of_;  // [problem]: its distinct n-grams; 0: matched exactly only
};

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_LEAK_INDEX_H_
