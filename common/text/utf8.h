// UTF-8 by hand: tokens cut characters anywhere, and what leaves the system must be valid. Pure;
// thread-safe.
#ifndef CRESCENDO_COMMON_TEXT_UTF8_H_
#define CRESCENDO_COMMON_TEXT_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace crescendo {

enum class Utf8Kind {
  kValid,       // a whole character
  kInvalid,     // bytes that start no character, whatever follows
  kIncomplete,  // the beginning of a character, then the text ends
};

// What stands at the start of `text` (not empty) and how many bytes it takes. An invalid sequence
// is a maximal subpart (Unicode 15, section 3.9, "U+FFFD substitution of maximal subparts"), as
// Rust and Python count it.
struct Utf8Step {
  Utf8Kind kind;
  size_t length;
};
Utf8Step NextUtf8(absl::string_view text);

// The code point of a valid character as NextUtf8 found it.
uint32_t CodePointOf(absl::string_view character);

void AppendCodePoint(uint32_t code_point, std::string* out);

// Appends `bytes` to `out` with U+FFFD for each invalid sequence; returns how many bytes were
// taken. All of them when `final`; otherwise the beginning of a character at the end stays.
size_t AppendUtf8Lossy(absl::string_view bytes, bool final, std::string* out);

// Unicode normalization form C. Requires valid UTF-8.
std::string ToNfc(absl::string_view text);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_TEXT_UTF8_H_
