#include "common/base/lease_key.h"

#include <bit>
#include <cstddef>

namespace crescendo {
namespace {

uint64_t Byte(char c) { return static_cast<unsigned char>(c); }

// The state of section 2.1, with the round of figure 2.1.
struct SipState {
  uint64_t v0, v1, v2, v3;

  void Rounds(int count) {
    for (int i = 0; i < count; ++i) {
      v0 += v1;
      v2 += v3;
      v1 = std::rotl(v1, 13) ^ v0;
      v3 = std::rotl(v3, 16) ^ v2;
      v0 = std::rotl(v0, 32);
      v2 += v1;
      v0 += v3;
      v1 = std::rotl(v1, 17) ^ v2;
      v3 = std::rotl(v3, 21) ^ v0;
      v2 = std::rotl(v2, 32);
    }
  }
  void Take(uint64_t word) {
    v3 ^= word;
    Rounds(2);
    v0 ^= word;
  }
};

void AppendWord(uint64_t word, char* out) {
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(word >> (8 * i));
}

}  // namespace

uint64_t SipHash(const LeaseSecret& secret, absl::string_view bytes) {
  SipState state{secret.low ^ 0x736f6d6570736575, secret.high ^ 0x646f72616e646f6d,
                 secret.low ^ 0x6c7967656e657261, secret.high ^ 0x7465646279746573};
  const size_t whole = bytes.size() / 8 * 8;
  for (size_t at = 0; at < whole; at += 8) {
    uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word |= Byte(bytes[at + i]) << (8 * i);
    state.Take(word);
  }
  uint64_t last = static_cast<uint64_t>(bytes.size()) << 56;
  for (size_t i = whole; i < bytes.size(); ++i) last |= Byte(bytes[i]) << (8 * (i - whole));
  state.Take(last);
  state.v2 ^= 0xff;
  state.Rounds(4);
  return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

uint64_t LeaseKey(const LeaseSecret& secret, LeaseId lease, GroupId group) {
  char bytes[16];
  AppendWord(lease.value(), bytes);
  AppendWord(group.value(), bytes + 8);
  return SipHash(secret, {bytes, sizeof(bytes)});
}

}  // namespace crescendo
