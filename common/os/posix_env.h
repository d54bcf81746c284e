// The real file system and the real clock. Made in main only (and in tests of what needs a disk),
// then handed in.
#ifndef CRESCENDO_COMMON_OS_POSIX_ENV_H_
#define CRESCENDO_COMMON_OS_POSIX_ENV_H_

#include <memory>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/os/env.h"

namespace crescendo {

std::unique_ptr<FileSystem> MakePosixFileSystem();

// Wall time at the making plus CLOCK_MONOTONIC since: never goes backwards.
std::unique_ptr<Clock> MakeRealClock();

// The time now, for the few places below the adapters that hand the system an absolute deadline (a
// gRPC call, a poll). Everything else is handed a Clock.
absl::Time RealNow();

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_OS_POSIX_ENV_H_
