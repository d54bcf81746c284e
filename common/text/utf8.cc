#include "common/text/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "common/base/status_macros.h"

namespace crescendo {

Utf8Step NextUtf8(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {Utf8Kind::kValid, 1};
  // The range of the second byte depends on the first (Unicode 15, table 3-7).
  size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xbf;
  if (first >= 0xc2 && first <= 0xdf) {
    length = 2;
  } else if (first >= 0xe0 && first <= 0xef) {
    length = 3;
    if (first == 0xe0) low = 0xa0;
    if (first == 0xed) high = 0x9f;
  } else if (first >= 0xf0 && first <= 0xf4) {
    length = 4;
    if (first == 0xf0) low = 0x90;
    if (first == 0xf4) high = 0x8f;
  } else {
    return {Utf8Kind::kInvalid, 1};
  }
  for (size_t i = 1; i < length; ++i) {
    if (i >= text.size()) return {Utf8Kind::kIncomplete, i};
    if (byte(i) < low || byte(i) > high) return {Utf8Kind::kInvalid, i};
    low = 0x80;
    high = 0xbf;
  }
  return {Utf8Kind::kValid, length};
}

uint32_t CodePointOf(absl::string_view character) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(character[i]));
  };
  if (byte(0) < 0x80) return byte(0);
  if (byte(0) < 0xe0) return (byte(0) & 0x1f) << 6 | (byte(1) & 0x3f);
  if (byte(0) < 0xf0) return (byte(0) & 0xf) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
  return (byte(0) & 0x7) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
}

void AppendCodePoint(uint32_t code_point, std::string* out) {
  utf8proc_uint8_t buffer[4];
  const utf8proc_ssize_t length =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), buffer);
  out->append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(length));
}

size_t AppendUtf8Lossy(absl::string_view bytes, bool final, std::string* out) {
  size_t taken = 0;
  while (taken < bytes.size()) {
    const absl::string_view rest = bytes.substr(taken);
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Kind::kIncomplete && !final) break;
    if (step.kind == Utf8Kind::kValid) {
      out->append(rest.data(), step.length);
    } else {
      out->append("\xef\xbf\xbd");
    }
    taken += step.length;
  }
  return taken;
}

std::string ToNfc(absl::string_view text) {
  // No character below U+0300 (0xcc 0x80) composes or decomposes: its quick-check property is Yes.
  const bool quick = std::all_of(text.begin(), text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 0xcc; });
  if (quick) return std::string(text);
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  CRESCENDO_CHECK(length >= 0);
  std::string out(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
  std::free(mapped);
  return out;
}

}  // namespace crescendo
