#include "common/rpc/listener.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"

namespace crescendo {
namespace {

constexpr int kBacklog = 1024;
// Files, channels to others, the metrics port.
constexpr int kDescriptorsKept = 256;
// Closed connections are looked for as often at most while there is no room.
constexpr absl::Duration kLookEvery = absl::Milliseconds(50);
// Out of descriptors or memory: others have to give some back first.
constexpr int kExhaustedWaitMs = 100;

// The descriptors of this process may be as many as the system allows; returns how many.
int RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  if (limit.rlim_cur < limit.rlim_max) {
    rlimit raised = limit;
    raised.rlim_cur = raised.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  return static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 1 << 20));
}

std::optional<ino_t> InodeOf(int socket) {
  struct stat info = {};
  if (fstat(socket, &info) != 0) return std::nullopt;
  return info.st_ino;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Open(absl::string_view address,
                                                         absl::string_view who) {
  ASSIGN_OR_RETURN(OwnedSocket socket, ListenOn(address, who, kBacklog));
  const int on = 1;
  // What is accepted takes it over. Messages are small and awaited.
  setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  ASSIGN_OR_RETURN(const int port, PortOf(socket));
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat(who, ": no descriptor is left to listen with"));
  }
  return std::unique_ptr<Listener>(new Listener(std::move(socket), wake, port));
}

Listener::Listener(OwnedSocket socket, int wake, int port)
    : socket_(std::move(socket)), wake_(wake), port_(port) {}

Listener::~Listener() {
  Stop();
  close(wake_);
}

void Listener::Run(int connections_max, std::function<void(int, int)> take, OnRefusal on_refusal) {
  connections_max_ =
      std::max(1, std::min(connections_max, RaiseDescriptorLimit() - kDescriptorsKept));
  take_ = std::move(take);
  on_refusal_ = std::move(on_refusal);
  thread_ = std::thread([this] { Loop(); });
}

void Listener::Stop() {
  const uint64_t one = 1;
  // Cannot fail: the counter is far from full.
  if (write(wake_, &one, sizeof(one)) < 0) return;
  if (thread_.joinable()) thread_.join();
  socket_ = OwnedSocket(-1);
}

bool Listener::WaitForOne() const {
  pollfd waits[] = {{socket_.fd(), POLLIN, 0}, {wake_, POLLIN, 0}};
  while (poll(waits, 2, -1) < 0 && errno == EINTR) {
  }
  return waits[1].revents == 0;
}

bool Listener::HasRoom() {
  if (connections_.size() < static_cast<size_t>(connections_max_)) return true;
  const absl::Time now = RealNow();
  if (now - looked_ < kLookEvery) return false;
  looked_ = now;
  // gRPC closes them; a descriptor that is gone, or is another socket by now, was one of those.
  connections_.erase(std::remove_if(connections_.begin(), connections_.end(),
                                    [](const Connection& connection) {
                                      return InodeOf(connection.socket) != connection.inode;
                                    }),
                     connections_.end());
  return connections_.size() < static_cast<size_t>(connections_max_);
}

void Listener::Loop() {
  while (WaitForOne()) {
    const int socket = accept4(socket_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket < 0) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        pollfd wake = {wake_, POLLIN, 0};
        poll(&wake, 1, kExhaustedWaitMs);
      }
      continue;
    }
    const std::optional<ino_t> inode = InodeOf(socket);
    if (!inode || !HasRoom()) {
      if (on_refusal_) on_refusal_(Refusal::kConnections);
      close(socket);
      continue;
    }
    connections_.push_back({socket, *inode});
    take_(socket_.fd(), socket);
  }
}

}  // namespace crescendo
