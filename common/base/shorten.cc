#include "common/base/shorten.h"

#include "absl/strings/str_cat.h"

namespace crescendo {

namespace {

constexpr size_t kMarkBytes = 64;  // at least what the mark takes

bool Continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

std::string ShortenMiddle(absl::string_view text, size_t bytes_max) {
  if (text.size() <= bytes_max) return std::string(text);
  const size_t room = bytes_max > kMarkBytes ? bytes_max - kMarkBytes : 0;
  size_t head = room / 3;
  while (head > 0 && Continues(text[head])) --head;
  size_t tail = text.size() - (room - room / 3);
  while (tail < text.size() && Continues(text[tail])) ++tail;
  return absl::StrCat(text.substr(0, head), "\n[... ", tail - head, " bytes left out ...]\n",
                      text.substr(tail));
}

}  // namespace crescendo
