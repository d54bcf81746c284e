#include "common/base/word_delta.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr char kFormat = 1;
constexpr size_t kWord = sizeof(uint16_t);
constexpr size_t kWide = sizeof(uint64_t);

uint16_t WordAt(const char* bytes, size_t word) {
  uint16_t value;
  std::memcpy(&value, bytes + word * kWord, kWord);
  return value;
}

void AddTo(char* bytes, size_t word, uint16_t difference) {
  const auto sum = static_cast<uint16_t>(WordAt(bytes, word) + difference);
  std::memcpy(bytes + word * kWord, &sum, kWord);
}

void AppendVarint(uint64_t value, std::string& out) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

// False at the end of the bytes, and for more than 63 bits.
bool ReadVarint(absl::string_view& in, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 63 && !in.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(in.front());
    in.remove_prefix(1);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

void AppendEntry(uint64_t gap, uint16_t difference, std::string& out) {
  if (difference == 1) return AppendVarint(gap << 2, out);
  if (difference == 0xFFFF) return AppendVarint(gap << 2 | 1, out);
  AppendVarint(gap << 2 | 2, out);
  const auto zigzag = static_cast<uint16_t>((difference << 1) ^ ((difference >> 15) * 0xFFFFu));
  AppendVarint(zigzag, out);
}

// One entry; false: malformed.
bool ReadEntry(absl::string_view& in, uint64_t& gap, uint16_t& difference) {
  uint64_t head = 0, zigzag = 0;
  if (!ReadVarint(in, head)) return false;
  gap = head >> 2;
  switch (head & 3) {
    case 0:
      difference = 1;
      return true;
    case 1:
      difference = 0xFFFF;
      return true;
    case 2:
      if (!ReadVarint(in, zigzag) || zigzag > 0xFFFF) return false;
      difference = static_cast<uint16_t>((zigzag >> 1) ^ ((zigzag & 1) * 0xFFFFu));
      return true;
    default:
      return false;
  }
}

// Calls change(word, difference) for each entry. False as soon as something is malformed.
template <typename F>
bool ForEachEntry(absl::string_view delta, size_t words, F&& change) {
  if (delta.empty() || delta.front() != kFormat) return false;
  delta.remove_prefix(1);
  size_t next = 0;
  while (!delta.empty()) {
    uint64_t gap = 0;
    uint16_t difference = 0;
    if (!ReadEntry(delta, gap, difference) || gap >= words - next) return false;
    change(next + gap, difference);
    next += gap + 1;
  }
  return true;
}

}  // namespace

std::optional<std::string> EncodeWordDelta(absl::string_view base, absl::string_view next,
                                           size_t bytes_max) {
  CRESCENDO_CHECK(base.size() == next.size());
  if (base.size() % kWord != 0 && base.back() != next.back()) return std::nullopt;
  std::string delta(1, kFormat);
  const size_t words = base.size() / kWord;
  size_t unchanged_from = 0;
  for (size_t word = 0; word < words;) {
    uint64_t a, b;
    while ((word + kWide / kWord) <= words) {  // most are equal
      std::memcpy(&a, base.data() + word * kWord, kWide);
      std::memcpy(&b, next.data() + word * kWord, kWide);
      if (a != b) break;
      word += kWide / kWord;
    }
    const size_t end = std::min(words, word + kWide / kWord);
    for (; word < end; ++word) {
      const auto difference =
          static_cast<uint16_t>(WordAt(next.data(), word) - WordAt(base.data(), word));
      if (difference == 0) continue;
      AppendEntry(word - unchanged_from, difference, delta);
      unchanged_from = word + 1;
    }
    if (delta.size() > bytes_max) return std::nullopt;
  }
  if (delta.size() > bytes_max) return std::nullopt;
  return delta;
}

bool ApplyWordDelta(absl::string_view delta, absl::Span<char> bytes) {
  const size_t words = bytes.size() / kWord;
  if (!ForEachEntry(delta, words, [](size_t, uint16_t) {})) return false;
  return ForEachEntry(delta, words, [&](size_t word, uint16_t difference) {
    AddTo(bytes.data(), word, difference);
  });
}

void UndoWordDelta(absl::string_view delta, absl::Span<char> bytes) {
  const bool whole =
      ForEachEntry(delta, bytes.size() / kWord, [&](size_t word, uint16_t difference) {
        AddTo(bytes.data(), word, static_cast<uint16_t>(-difference));
      });
  CRESCENDO_CHECK(whole);
}

}  // namespace crescendo
