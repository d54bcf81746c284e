// GPT-2's byte alphabet: each of the 256 bytes as a printable character ("Ġ" is the space), in
// which vocabularies and merges are written. Pure; thread-safe.
#ifndef CRESCENDO_COMMON_TEXT_BYTE_ALPHABET_H_
#define CRESCENDO_COMMON_TEXT_BYTE_ALPHABET_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace crescendo {

// The character of a byte, as UTF-8.
std::string AlphabetCharacter(uint8_t byte);

// The bytes that `text` stands for; nullopt when a character is not of the alphabet.
std::optional<std::string> BytesFromAlphabet(absl::string_view text);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_TEXT_BYTE_ALPHABET_H_
