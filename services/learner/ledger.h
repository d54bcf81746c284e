// Which groups made each step: what makes "trained exactly once" hold across restarts. It is part
// of every checkpoint.
//
// Plans take consecutive groups, so a run of steps of one stage is one entry; any other plan is
// held too, in more entries. Not thread-safe.
#ifndef CRESCENDO_SERVICES_LEARNER_LEDGER_H_
#define CRESCENDO_SERVICES_LEARNER_LEDGER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/ids.h"

namespace crescendo {

class Ledger {
 public:
  // Records the groups of a step. FAILED_PRECONDITION, naming the group or step, when the step is
  // not above all recorded ones or a group was consumed before (or stands twice); then nothing
  // changes.
  absl::Status Record(StepId step, std::vector<GroupId> groups);

  bool Contains(GroupId group) const;
  // The step that consumed the group; requires Contains.
  StepId StepOf(GroupId group) const;
  uint64_t groups() const { return groups_; }
  // One past the last recorded step; 0 when empty.
  int64_t steps_end() const { return steps_end_; }
  // Forgets every step from `step` on.
  void Truncate(StepId step);

  // One line of text, "v1 first_step:steps:first_group:groups_per_step ...", and back
  // (INVALID_ARGUMENT names the entry).
  std::string Serialize() const;
  static absl::StatusOr<Ledger> Parse(absl::string_view text);

  bool operator==(const Ledger& other) const { return Serialize() == other.Serialize(); }

 private:
  // Steps [step, step + steps) took `size` groups each, one after the other from the key on.
  struct Run {
    int64_t step = 0;
    int64_t steps = 0;
    uint64_t size = 0;
  };
  bool Overlaps(uint64_t first, uint64_t size) const;
  void Insert(uint64_t first, const Run& run);

  absl::btree_map<uint64_t, Run> runs_;  // by first group; disjoint
  uint64_t groups_ = 0;
  int64_t steps_end_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_LEDGER_H_
