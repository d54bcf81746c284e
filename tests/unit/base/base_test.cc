// The pure pieces: generator, checksum, queue.
#include <set>
#include <thread>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/bounded_queue.h"
#include "common/base/crc32c.h"
#include "common/base/ids.h"
#include "common/base/lease_key.h"
#include "common/base/rng.h"

namespace crescendo {
namespace {

TEST_CASE("Philox gives the known answers of Random123's kat_vectors") {
  CHECK(Philox4x32({0, 0, 0, 0}, {0, 0}) ==
        std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) ==
        std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("A token's draw depends on each part of its key") {
  std::set<double> draws;
  for (uint64_t seed : {1u, 2u})
    for (uint64_t group : {0u, 1u})
      for (uint32_t sample : {0u, 1u})
        for (uint32_t position : {0u, 1u})
          draws.insert(TokenUniform(seed, group, sample, position));
  CHECK(draws.size() == 16);
  CHECK(*draws.begin() > 0.0);
  CHECK(*draws.rbegin() < 1.0);
}

TEST_CASE("A sequence continues from its saved position") {
  CounterRng first(7);
  for (int i = 0; i < 5; ++i) first.Next();
  CounterRng second(7);
  second.set_position(first.position());
  CHECK(first.Next() == second.Next());
  double sum = 0;
  for (int i = 0; i < 100000; ++i) sum += first.Uniform();
  CHECK(sum / 100000 == Approx(0.5).margin(0.005));
}

TEST_CASE("CRC-32C gives the answers of RFC 3720, whole or in pieces") {
  CHECK(Crc32c("123456789") == 0xE3069283u);
  CHECK(Crc32c(std::string(32, '\0')) == 0x8A9136AAu);
  CHECK(ExtendCrc32c(Crc32c("1234"), "56789") == 0xE3069283u);
}

TEST_CASE("SipHash gives the known answers of its paper and of OpenSSL") {
  const LeaseSecret secret{0x0706050403020100, 0x0f0e0d0c0b0a0908};
  std::string bytes;
  CHECK(SipHash(secret, bytes) == 0x726fdb47dd0e0e31);
  for (char c = 0; c < 15; ++c) bytes.push_back(c);
  CHECK(SipHash(secret, bytes) == 0xa129ca6149be45e5);  // appendix A
  CHECK(SipHash({1, 2}, std::string(16, '\xff')) == 0x8ce2f0ed9cbf0a4d);
}

TEST_CASE("A lease's key is of this secret, this lease and this group") {
  std::set<uint64_t> keys;
  for (uint64_t low : {1u, 2u})
    for (uint64_t high : {1u, 2u})
      for (uint64_t lease : {1u, 2u})
        for (uint64_t group : {1u, 2u})
          keys.insert(LeaseKey({low, high}, LeaseId(lease), GroupId(group)));
  CHECK(keys.size() == 16);
}

TEST_CASE("A queue holds its bound, keeps order and drains after Close") {
  BoundedQueue<int> queue(2);
  CHECK(queue.TryPush(1));
  CHECK(queue.TryPush(2));
  CHECK_FALSE(queue.TryPush(3));
  CHECK_FALSE(queue.Push(3, absl::Milliseconds(1)));
  std::thread reader([&] { CHECK(queue.Pop(absl::Seconds(10)) == 1); });
  CHECK(queue.Push(3, absl::Seconds(10)));
  reader.join();
  queue.Close();
  CHECK_FALSE(queue.TryPush(4));
  CHECK(queue.PopAll(absl::ZeroDuration()) == std::vector<int>{2, 3});
  CHECK(queue.Pop(absl::Seconds(10)) == std::nullopt);
}

}  // namespace
}  // namespace crescendo
