// What a service's main needs of the process it runs in: the request to stop, and the memory in
// use.
#ifndef CRESCENDO_COMMON_OS_PROCESS_H_
#define CRESCENDO_COMMON_OS_PROCESS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace crescendo {

// SIGTERM and SIGINT as something to wait for. Make one in main before any other thread starts: it
// blocks both signals in the calling thread, and threads started later inherit that. A second
// signal ends the process at once with status 128 + signal. Thread-safe. A process has at most one.
//
// A child made by fork and exec inherits the blocked signals: call UnblockStopSignals between the
// two.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Blocks until a stop was asked for or `timeout` passed; whether one was asked for.
  bool WaitFor(absl::Duration timeout) const;
  bool requested() const { return WaitFor(absl::ZeroDuration()); }
  // Asks from inside, as a signal would.
  void Request();
  // The signal's number, 0 when there was none (or when asked from inside).
  int signal_number() const;

 private:
  void Run();

  mutable absl::Mutex mutex_;
  bool requested_ ABSL_GUARDED_BY(mutex_) = false;
  int signal_number_ ABSL_GUARDED_BY(mutex_) = 0;
  int signal_fd_ = -1;
  int quit_fd_ = -1;
  std::thread thread_;
};

// Async-signal-safe: for a child between fork and exec.
void UnblockStopSignals();

// Settings that LibTorch and OpenMP read when they are loaded, unless the environment says
// something else: compute threads sleep where they wait for each other for longer than a fraction
// of a millisecond (OMP_WAIT_POLICY=passive, GOMP_SPINCOUNT=4000; on cores that other processes use
// too, spinning without end made a training step 10 times longer; sleeping at once made a decode
// step a fifth longer), and large tensors lie on huge pages (THP_MEM_ALLOC_ENABLE; scattered reads
// of a KV pool are a third faster). The first call starts the program anew in its place, with the
// same pid and arguments. Call it first in the main of a program that computes.
void PrepareComputeProcess(char* const* argv);

// Bytes of physical memory that the process holds now, and the most it ever held; 0 when unknown.
int64_t ResidentBytes();
int64_t PeakResidentBytes();

struct DiskSpace {
  int64_t free_bytes = 0;  // what this user may still write
  int64_t size_bytes = 0;
};
// Of the disk that holds `path`; nullopt when it is not there.
std::optional<DiskSpace> DiskSpaceOf(const std::string& path);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_OS_PROCESS_H_
