// Options of a multiple choice: letters in answers, and the options that a problem's text lists.
// Pure, thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_MULTIPLE_CHOICE_H_
#define CRESCENDO_SERVICES_REWARD_MULTIPLE_CHOICE_H_

#include <optional>

#include "absl/strings/string_view.h"

namespace crescendo {

// An answer that begins with an option's letter: "B", "(B)", "\text{(B)}" (then `rest` is empty),
// "(B) 42", "B. 42".
struct Choice {
  char letter = '\0';
  absl::string_view rest;
};

// nullopt for anything else. Letters are A to Z, as written.
std::optional<Choice> ParseChoice(absl::string_view text);

// What stands behind the letter in the problem's list of options ("(A) 3 (B) 4", "\textbf{(A)}\ 3",
// "A. 3" at the start of a line); nullopt when there is no list of at least two options that has
// it.
std::optional<absl::string_view> FindOption(absl::string_view problem, char letter);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_MULTIPLE_CHOICE_H_
