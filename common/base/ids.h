// Identifiers as types of their own, so that a step is never passed for a version.
#ifndef CRESCENDO_COMMON_BASE_IDS_H_
#define CRESCENDO_COMMON_BASE_IDS_H_

#include <compare>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>

namespace crescendo {

// A number with a meaning: explicit to make, ordered, hashable (absl), printable. value() is the
// bare number.
template <typename Tag, typename T>
class StrongId {
 public:
  using ValueType = T;
  constexpr StrongId() = default;
  constexpr explicit StrongId(T value) : value_(value) {}
  constexpr T value() const { return value_; }
  constexpr auto operator<=>(const StrongId&) const = default;
  constexpr StrongId next() const { return StrongId(value_ + 1); }

  template <typename H>
  friend H AbslHashValue(H h, StrongId id) {
    return H::combine(std::move(h), id.value_);
  }
  friend std::ostream& operator<<(std::ostream& out, StrongId id) { return out << id.value_; }

 private:
  T value_{};
};

// The place of a group in the run's seeded order. The same group keeps its id through re-leases and
// restarts.
using GroupId = StrongId<struct GroupIdTag, uint64_t>;
// Count of published optimizer steps: 0 is the base model. Every token records the version that
// produced it.
using PolicyVersion = StrongId<struct PolicyVersionTag, int64_t>;
// A training step; step k makes version k + 1 from the groups of its plan.
using StepId = StrongId<struct StepIdTag, int64_t>;
// One grant of a group to a worker. A new grant of the same group has a larger id.
using LeaseId = StrongId<struct LeaseIdTag, uint64_t>;

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_BASE_IDS_H_
