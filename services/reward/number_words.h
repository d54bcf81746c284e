// Whole numbers in English words ("twenty-one", "three hundred and five"). Pure, thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_NUMBER_WORDS_H_
#define CRESCENDO_SERVICES_REWARD_NUMBER_WORDS_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace crescendo {

// Whether a word can stand in a number; any case.
bool IsNumberWord(absl::string_view word);

// The value of all words together; nullopt when they are no well-formed number below 10^15.
std::optional<int64_t> ParseNumberWords(absl::Span<const absl::string_view> words);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_NUMBER_WORDS_H_
