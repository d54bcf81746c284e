#include "common/base/rng.h"

#include <cmath>

namespace crescendo {
namespace {

uint64_t SplitMix64Finalize(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

double OpenUniform(uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1.0p-53; }

}  // namespace

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

uint64_t MixSeed(uint64_t a, uint64_t b) {
  return SplitMix64Finalize(SplitMix64Finalize(a + 0x9E3779B97F4A7C15u) ^
                            (b + 0x632BE59BD9B4E019u));
}

double TokenUniform(uint64_t run_seed, uint64_t group, uint32_t sample, uint32_t position) {
  const std::array<uint32_t, 4> out = Philox4x32(
      {static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), sample, position},
      {static_cast<uint32_t>(run_seed), static_cast<uint32_t>(run_seed >> 32)});
  return OpenUniform((uint64_t{out[0]} << 32) | out[1]);
}

uint64_t CounterRng::Next() {
  const uint64_t block = position_ / 2;
  const std::array<uint32_t, 4> out =
      Philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                  static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)},
                 {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
  const size_t half = 2 * (position_ % 2);
  ++position_;
  return (uint64_t{out[half]} << 32) | out[half + 1];
}

uint64_t CounterRng::Below(uint64_t bound) {
  const uint64_t threshold =
      (0 - bound) % bound;  // 2^64 mod bound: values below it would be counted once more
  while (true) {
    const uint64_t value = Next();
    if (value >= threshold) return value % bound;
  }
}

double CounterRng::Uniform() { return OpenUniform(Next()); }

double CounterRng::Normal() {
  const double radius = std::sqrt(-2.0 * std::log(Uniform()));
  return radius * std::cos(2.0 * M_PI * Uniform());
}

}  // namespace crescendo
