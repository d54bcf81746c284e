// Time is handed in: a core gets `now` with each event, an adapter gets a Clock. The real one is in
// common/os, a simulated one in tests/support.
#ifndef CRESCENDO_COMMON_BASE_CLOCK_H_
#define CRESCENDO_COMMON_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace crescendo {

// Thread-safe. Owned by whoever makes it; must outlive its users.
class Clock {
 public:
  virtual ~Clock() = default;
  // Wall time. Within a process it never goes backwards: it is the wall time at start plus
  // monotonic time since.
  virtual absl::Time Now() = 0;
  // Blocks the calling thread. Only adapters and command-line programs call it, never a core.
  virtual void SleepFor(absl::Duration duration) = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_BASE_CLOCK_H_
