// What changed between two byte strings comes back bit for bit, small where little changed, and any
// other bytes are refused without a trace.
#include "common/base/word_delta.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"

namespace crescendo {
namespace {

std::string RandomBytes(CounterRng& rng, size_t size) {
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(rng.Below(256));
  return bytes;
}

void AddTo(std::string& bytes, size_t word, int difference) {
  uint16_t value;
  std::memcpy(&value, bytes.data() + 2 * word, 2);
  value = static_cast<uint16_t>(value + difference);
  std::memcpy(bytes.data() + 2 * word, &value, 2);
}

// The base after the delta; and after the delta is taken back it is the base again.
std::string Applied(const std::string& base, const std::string& delta) {
  std::string bytes = base;
  REQUIRE(ApplyWordDelta(delta, absl::MakeSpan(bytes)));
  std::string again = bytes;
  UndoWordDelta(delta, absl::MakeSpan(again));
  CHECK((again == base));
  return bytes;
}

TEST_CASE("A delta's bytes are as documented") {
  const std::string base("\x10\x00\x20\x00\xff\xff\x40\x00z", 9);
  const std::string next("\x11\x00\x20\x00\xfe\xff\x40\x80z", 9);
  const auto delta = EncodeWordDelta(base, next, 100);
  REQUIRE(delta.has_value());
  // Format; one more at word 0; one less, a word further; another difference, the word behind.
  CHECK(*delta == std::string("\x01\x00\x05\x02\xff\xff\x03", 7));
  CHECK(Applied(base, *delta) == next);
  CHECK(EncodeWordDelta(base, base, 1) == std::string("\x01"));
  CHECK(EncodeWordDelta("", "", 1) == std::string("\x01"));
}

TEST_CASE("Any two byte strings: the delta leads from one to the other") {
  CounterRng rng(5);
  for (int i = 0; i < 400; ++i) {
    INFO("pair " << i);
    const std::string base = RandomBytes(rng, rng.Below(300));
    std::string next = base;
    const size_t words = base.size() / 2;
    const size_t changes = i % 4 == 0 ? words : words / 16;
    for (size_t change = 0; change < changes; ++change) {
      const int difference = i % 3 == 0   ? static_cast<int>(rng.Below(65536))
                             : i % 3 == 1 ? static_cast<int>(rng.Below(9)) - 4
                                          : static_cast<int>(rng.Below(2)) * 2 - 1;
      AddTo(next, rng.Below(words), difference);
    }
    const auto delta = EncodeWordDelta(base, next, 10000);
    REQUIRE(delta.has_value());
    CHECK((Applied(base, *delta) == next));
    CHECK(EncodeWordDelta(base, next, delta->size()) == delta);
    CHECK_FALSE(EncodeWordDelta(base, next, delta->size() - 1).has_value());
  }
}

TEST_CASE("One word in a hundred, changed by one: 1.2 percent of the bytes") {
  CounterRng rng(6);
  const std::string base = RandomBytes(rng, 2'000'000);
  std::string next = base;
  for (int i = 0; i < 10'000; ++i) AddTo(next, rng.Below(1'000'000), i % 2 == 0 ? 1 : -1);
  const auto delta = EncodeWordDelta(base, next, base.size() / 4);
  REQUIRE(delta.has_value());
  CHECK((Applied(base, *delta) == next));
  CHECK(delta->size() < base.size() * 12 / 1000);
}

TEST_CASE("What an odd length leaves over cannot change") {
  CHECK(EncodeWordDelta("aab", "aac", 100) == std::nullopt);
  CHECK(Applied("aab", EncodeWordDelta("aab", "abb", 100).value()) == "abb");
}

TEST_CASE("Bytes that are no delta of the length change nothing") {
  const std::string bytes(20, 'x');
  std::vector<std::string> bad = {"", "\x02", std::string("\x01\x28", 2), "\x01\x03", "\x01\x02",
                                  "\x01\x80", std::string("\x01\x02\x80\x80\x04", 5),
                                  std::string("\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11),
                                  // good entries before a bad one
                                  std::string("\x01\x00\x00\x03", 4)};
  for (const std::string& delta : bad) {
    std::string changed = bytes;
    CHECK_FALSE(ApplyWordDelta(delta, absl::MakeSpan(changed)));
    CHECK(changed == bytes);
  }
  CHECK_FALSE(ApplyWordDelta(std::string("\x01\x00", 2), {}));
  CounterRng rng(7);
  int applied = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string delta = "\x01" + RandomBytes(rng, rng.Below(12));
    std::string changed = bytes;
    if (ApplyWordDelta(delta, absl::MakeSpan(changed))) {
      ++applied;
      UndoWordDelta(delta, absl::MakeSpan(changed));
    }
    CHECK(changed == bytes);
  }
  CHECK(applied > 100);
}

}  // namespace
}  // namespace crescendo
