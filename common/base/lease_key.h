// Proof that a lease was granted: the coordinator makes a key for each lease with a secret of the
// run and gives it to the worker; the learner, which is told the secret when it attaches, checks
// the key of every chunk. A lease id that was never granted, or belongs to another group, has none.
// The secret is drawn once a run and kept in the coordinator's journal, so that keys outlive
// restarts of either side.
//
// Pure; thread-safe.
#ifndef CRESCENDO_COMMON_BASE_LEASE_KEY_H_
#define CRESCENDO_COMMON_BASE_LEASE_KEY_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "common/base/ids.h"

namespace crescendo {

// Never logged, shown or sent to anyone but the learner.
struct LeaseSecret {
  uint64_t low = 0;
  uint64_t high = 0;
  bool empty() const { return low == 0 && high == 0; }
  bool operator==(const LeaseSecret&) const = default;
};

// SipHash-2-4 of `bytes` (Aumasson and Bernstein 2012, section 2): a function of the secret that
// nobody without it can tell from chance.
uint64_t SipHash(const LeaseSecret& secret, absl::string_view bytes);

// The key of a lease of a group.
uint64_t LeaseKey(const LeaseSecret& secret, LeaseId lease, GroupId group);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_BASE_LEASE_KEY_H_
