// What changed between two byte strings of one length, as bytes: made for weights in bf16 one step
// of training apart, of which few words change, and those mostly by one unit of the last place.
//
// Format: a byte 1 (the format's version), then for each 16-bit little-endian word that changed, in
// order, a base-128 varint of 4 g + k, where g words before it, counted from the changed word
// before, are equal. k = 0: the word is one more; 1: one less; 2: the varint that follows is its
// zigzagged difference modulo 2^16. A last byte without a partner never changes.
//
// The delta tells nothing of the bytes that it was made from: whoever uses it checks those before
// or the result behind (CRC-32C). Pure; thread-safe.
#ifndef CRESCENDO_COMMON_BASE_WORD_DELTA_H_
#define CRESCENDO_COMMON_BASE_WORD_DELTA_H_

#include <cstddef>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace crescendo {

// Requires equal sizes. Nullopt: it would take more than `bytes_max` (found out early), or the last
// byte of an odd length differs.
std::optional<std::string> EncodeWordDelta(absl::string_view base, absl::string_view next,
                                           size_t bytes_max);

// Turns the base into what the delta leads to, in place. False: the delta is malformed or is not
// for so many bytes; nothing has changed.
bool ApplyWordDelta(absl::string_view delta, absl::Span<char> bytes);

// Takes an ApplyWordDelta of the same delta back.
void UndoWordDelta(absl::string_view delta, absl::Span<char> bytes);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_BASE_WORD_DELTA_H_
