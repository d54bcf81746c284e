#include "common/text/byte_alphabet.h"

#include <array>

#include "common/text/utf8.h"

namespace crescendo {
namespace {

// Printable bytes of Latin-1 stand for themselves.
constexpr bool IsItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) ||
         (byte >= 0xae && byte <= 0xff);
}

// The others take the code points from 256 on, in order.
constexpr std::array<uint16_t, 256> MakeAlphabet() {
  std::array<uint16_t, 256> alphabet{};
  uint16_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    alphabet[static_cast<size_t>(byte)] = IsItself(byte) ? static_cast<uint16_t>(byte) : next++;
  }
  return alphabet;
}
constexpr std::array<uint16_t, 256> kAlphabet = MakeAlphabet();
constexpr size_t kCodePoints = 256 + 68;
static_assert(kAlphabet[0xad] == kCodePoints - 1);

constexpr std::array<int16_t, kCodePoints> MakeInverse() {
  std::array<int16_t, kCodePoints> inverse{};
  for (auto& byte : inverse) byte = -1;
  for (size_t byte = 0; byte < 256; ++byte) inverse[kAlphabet[byte]] = static_cast<int16_t>(byte);
  return inverse;
}
constexpr std::array<int16_t, kCodePoints> kInverse = MakeInverse();

}  // namespace

std::string AlphabetCharacter(uint8_t byte) {
  std::string out;
  AppendCodePoint(kAlphabet[byte], &out);
  return out;
}

std::optional<std::string> BytesFromAlphabet(absl::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (step.kind != Utf8Kind::kValid) return std::nullopt;
    const uint32_t code_point = CodePointOf(text.substr(0, step.length));
    if (code_point >= kCodePoints || kInverse[code_point] < 0) return std::nullopt;
    out.push_back(static_cast<char>(kInverse[code_point]));
    text.remove_prefix(step.length);
  }
  return out;
}

}  // namespace crescendo
