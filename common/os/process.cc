#include "common/os/process.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "common/base/status_macros.h"

namespace crescendo {
namespace {

sigset_t StopSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

StopSignal::StopSignal() {
  const sigset_t set = StopSet();
  CRESCENDO_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  quit_fd_ = eventfd(0, EFD_CLOEXEC);
  CRESCENDO_CHECK(signal_fd_ >= 0 && quit_fd_ >= 0);
  thread_ = std::thread([this] { Run(); });
}

StopSignal::~StopSignal() {
  const uint64_t one = 1;
  while (write(quit_fd_, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  thread_.join();
  close(signal_fd_);
  close(quit_fd_);
  UnblockStopSignals();
}

void StopSignal::Run() {
  while (true) {
    pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {quit_fd_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) {
      CRESCENDO_CHECK(errno == EINTR);
      continue;
    }
    if (fds[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signal_fd_, &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info))) continue;
    absl::MutexLock lock(&mutex_);
    if (signal_number_ != 0) _exit(128 + static_cast<int>(info.ssi_signo));
    signal_number_ = static_cast<int>(info.ssi_signo);
    requested_ = true;
  }
}

bool StopSignal::WaitFor(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&requested_), timeout);
  return requested_;
}

void StopSignal::Request() {
  absl::MutexLock lock(&mutex_);
  requested_ = true;
}

int StopSignal::signal_number() const {
  absl::MutexLock lock(&mutex_);
  return signal_number_;
}

void UnblockStopSignals() {
  const sigset_t set = StopSet();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void PrepareComputeProcess(char* const* argv) {
  // Huge pages for LibTorch's large tensors: it reads this when it makes the first one.
  setenv("THP_MEM_ALLOC_ENABLE", "1", 0);
  if (getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  setenv("GOMP_SPINCOUNT", "4000", 0);
  setenv("THP_MEM_ALLOC_ENABLE", "1", 0);
  // By its path, so that ps shows the program's name.
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length <= 0) return;
  path[length] = 0;
  execv(path, argv);  // comes back only when it failed: then the program goes on as it is
}

int64_t ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  long long total = 0;
  long long resident = 0;
  const int fields = std::fscanf(file, "%lld %lld", &total, &resident);
  std::fclose(file);
  return fields == 2 ? resident * sysconf(_SC_PAGESIZE) : 0;
}

int64_t PeakResidentBytes() {
  rusage usage;
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<int64_t>(usage.ru_maxrss) * 1024 : 0;
}

std::optional<DiskSpace> DiskSpaceOf(const std::string& path) {
  struct statvfs space = {};
  if (statvfs(path.c_str(), &space) != 0) return std::nullopt;
  const auto unit = static_cast<int64_t>(space.f_frsize);
  return DiskSpace{unit * static_cast<int64_t>(space.f_bavail),
                   unit * static_cast<int64_t>(space.f_blocks)};
}

}  // namespace crescendo
