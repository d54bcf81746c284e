// Counter-based random numbers: the draw at a counter is a pure function of (key, counter), so a
// token's draw does not depend on the worker, the batch or the slot, and a resumed run draws what
// the first would have.
//
// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
// Thread-safe: no state.
#ifndef CRESCENDO_COMMON_BASE_RNG_H_
#define CRESCENDO_COMMON_BASE_RNG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace crescendo {

// The ten-round Philox bijection; the known-answer vectors of Random123 hold (tests/unit/base).
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// A well-mixed 64-bit value of (a, b): to derive one seed from another (SplitMix64 finalizer over
// both).
uint64_t MixSeed(uint64_t a, uint64_t b);

// Uniform in the open interval (0, 1), 53 bits: the draw of one token. `position` counts from the
// first sampled token.
double TokenUniform(uint64_t run_seed, uint64_t group, uint32_t sample, uint32_t position);

// A sequential generator over Philox for shuffles, synthetic data and simulations. Satisfies
// UniformRandomBitGenerator, but prefer the members: standard distributions differ between
// libraries.
class CounterRng {
 public:
  using result_type = uint64_t;
  explicit CounterRng(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return ~uint64_t{0}; }
  uint64_t operator()() { return Next(); }

  uint64_t Next();
  // Uniform in [0, bound), without modulo bias. Requires bound > 0.
  uint64_t Below(uint64_t bound);
  // Uniform in (0, 1).
  double Uniform();
  // Standard normal (Box-Muller; draws two uniforms).
  double Normal();

  // Fisher-Yates; the same permutation for the same seed everywhere.
  template <typename Container>
  void Shuffle(Container& items) {
    for (size_t i = items.size(); i > 1; --i) {
      using std::swap;
      swap(items[i - 1], items[Below(i)]);
    }
  }

  // How many 64-bit values were drawn: saved and restored to continue a sequence.
  uint64_t position() const { return position_; }
  void set_position(uint64_t position) { position_ = position; }

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t position_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_BASE_RNG_H_
