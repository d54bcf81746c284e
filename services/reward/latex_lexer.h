// Tokens of an answer, as LaTeX or as plain text.
//
// What carries no meaning is gone: dollar signs of mathematics, \left and \right, sizes, spaces,
// fonts (their contents stay), trailing punctuation. What the tokens keep of it is whether white
// space stood before. Views point into the folded text, which the caller keeps. Pure, thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_LATEX_LEXER_H_
#define CRESCENDO_SERVICES_REWARD_LATEX_LEXER_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace crescendo {

struct Token {
  enum class Kind : uint8_t {
    kEnd,
    kNumber,   // digits with at most one point, perhaps an exponent: 12, .5, 1.5e-3
    kWord,     // consecutive ASCII letters
    kCommand,  // without its backslash; "{" and "}" for set braces, "\\" for a new row
    kChar,     // any other ASCII character
    kUnknown,  // nothing that an expression contains
  };
  Kind kind = Kind::kEnd;
  bool space_before = false;
  bool in_text = false;  // inside \text{...} or the like
  absl::string_view text;
};

// Longer texts are not parsed.
inline constexpr size_t kTokensMax = 2048;

// False when there are more tokens than kTokensMax. Always ends with one kEnd otherwise.
bool LexLatex(absl::string_view folded, std::vector<Token>* tokens);

// The tokens' text without white space: equal for two texts that differ in styling only.
std::string CanonicalText(const std::vector<Token>& tokens);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_LATEX_LEXER_H_
