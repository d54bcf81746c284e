// Splits text into words by the regular expressions of a tokenizer, one after another, before byte
// pairs are merged.
//
// The expressions are written for Oniguruma and run by PCRE2 with JIT; where the two differ (what
// \s is) the expression is rewritten. Immutable; thread-safe.
#ifndef CRESCENDO_COMMON_TEXT_PRE_TOKENIZER_H_
#define CRESCENDO_COMMON_TEXT_PRE_TOKENIZER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace crescendo {

// GPT-2's expression, which ByteLevel(use_regex=true) stands for.
extern const absl::string_view kGpt2Regex;
// Qwen2's and Llama 3's: they differ in how many digits make a word.
extern const absl::string_view kQwen2Regex;
extern const absl::string_view kLlama3Regex;

struct SplitStep {
  std::string regex;
  bool removed = false;  // matches vanish; otherwise they are words of their own, and so is what
                         // lies between them
};

class PreTokenizer {
 public:
  // INVALID_ARGUMENT, with the place in the expression, for one that does not compile;
  // UNIMPLEMENTED for one that uses what is not rewritten.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Make(absl::Span<const SplitStep> steps);
  ~PreTokenizer();

  // Calls `emit` for each word in order; the words are parts of `text`, which must be valid UTF-8.
  // `text` itself when there are no steps. An expression that needs more work than its bound leaves
  // the rest of its text unsplit.
  void Split(absl::string_view text, const std::function<void(absl::string_view)>& emit) const;

 private:
  struct Regex;
  PreTokenizer();
  void SplitFrom(size_t step, absl::string_view text,
                 const std::function<void(absl::string_view)>& emit, void* match_data) const;
  std::vector<Regex> regexes_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_TEXT_PRE_TOKENIZER_H_
