// Which problem comes next in training: seeded, an epoch at a time, with a mix of difficulty
// classes.
//
// An epoch passes over the data set once: no problem comes twice in it, whatever happens to stages
// or processes on the way. At its start each problem gets its class and, when it is settled (always
// or never solved so far), a seeded draw decides whether it sits this epoch out; it has that chance
// anew each epoch, so none is lost for good. Then each group draws a class by the stage's mix among
// those that have problems left, and takes the next of the class's seeded permutation.
//
//  - classes: as many as the mix has weights, easiest first. With as many distinct given levels as
//    classes, a class is a level; else classes are equal parts of the problems sorted by level, or,
//    when none is given, by 1 - pass rate so far (0.5 for a problem not seen yet).
//  - no mix: in proportion to what is left. Without classes and weights the epoch is one seeded
//    permutation.
//
// The order is a function of (seed, statistics at the epoch's start, mixes of the groups before):
// its position is small and stands in the journal's plan rows, so that a restart or a roll-back
// goes on with the same problem.
//
// Not thread-safe.
#ifndef CRESCENDO_SERVICES_COORDINATOR_PROBLEM_ORDER_H_
#define CRESCENDO_SERVICES_COORDINATOR_PROBLEM_ORDER_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "common/base/ids.h"

namespace crescendo {

// What training has shown about a problem so far.
struct ProblemStatistics {
  int64_t groups = 0;
  int64_t correct = 0;
  int64_t samples = 0;
};

struct ProblemOrderOptions {
  uint64_t seed = 1;
  uint32_t problems = 0;
  std::vector<std::optional<double>> levels;  // a problem; empty: none is given
  int classes = 1;                            // >= 1
  double settled_weight = 1;  // (0, 1]: chance of a settled problem to be in an epoch
  int settled_after = 2;      // groups of it before a problem counts as settled
};

// Where the order stands.
struct ProblemPosition {
  int64_t epoch = 0;
  int64_t started_at = 0;         // steps trained when the epoch began: its statistics are of those
  std::vector<uint32_t> cursors;  // problems taken of each class
  bool operator==(const ProblemPosition&) const = default;
};

class ProblemOrder {
 public:
  explicit ProblemOrder(ProblemOrderOptions options);

  // Goes on at `position`; `statistics` [problem] are those of its epoch's start. False when the
  // position cannot be one of this data set.
  bool Restore(const ProblemPosition& position, absl::Span<const ProblemStatistics> statistics);

  // The problem of `group`. `mix` has a weight a class, or is empty. A new epoch begins when none
  // is left, from the statistics after `trained` steps. Requires at least one problem.
  uint32_t Next(GroupId group, absl::Span<const int> mix, int64_t trained,
                absl::Span<const ProblemStatistics> statistics);

  const ProblemPosition& position() const { return position_; }
  const ProblemOrderOptions& options() const { return options_; }

 private:
  void StartEpoch(absl::Span<const ProblemStatistics> statistics);
  std::vector<int> ClassesOf(absl::Span<const ProblemStatistics> statistics) const;
  bool SitsOut(uint32_t problem, const ProblemStatistics& statistics) const;
  std::optional<size_t> DrawClass(GroupId group, absl::Span<const int> mix) const;

  ProblemOrderOptions options_;
  ProblemPosition position_;
  std::vector<std::vector<uint32_t>> queues_;  // [class], of the current epoch
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_PROBLEM_ORDER_H_
