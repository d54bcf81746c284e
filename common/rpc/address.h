// Addresses of services: host:port, where [host] may be an IPv6 address in brackets.
#ifndef CRESCENDO_COMMON_RPC_ADDRESS_H_
#define CRESCENDO_COMMON_RPC_ADDRESS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace crescendo {

struct Address {
  std::string host;  // without brackets
  int port = 0;
};

// InvalidArgument when it is not host:port with a port of 0..65535.
absl::StatusOr<Address> ParseAddress(absl::string_view text);
// "host:port", "[::1]:port".
std::string FormatAddress(absl::string_view host, int port);

// What others are told: `address` as it is, or with this machine's name where it listens on all of
// its addresses (0.0.0.0, [::]), which is nowhere to connect to.
std::string AdvertisedAddress(absl::string_view address);

// localhost, 127.0.0.0/8, ::1.
bool IsLoopback(absl::string_view host);

// Plain text stays on the loopback unless it was asked for by name: FailedPrecondition with what to
// do about it. `what` says what would be in the open: "learner listens on 0.0.0.0:7071".
absl::Status CheckPlainText(absl::string_view address, bool insecure, absl::string_view what);

// A socket, closed with its owner.
class OwnedSocket {
 public:
  explicit OwnedSocket(int fd) : fd_(fd) {}
  ~OwnedSocket();
  OwnedSocket(OwnedSocket&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  OwnedSocket& operator=(OwnedSocket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  OwnedSocket(const OwnedSocket&) = delete;
  OwnedSocket& operator=(const OwnedSocket&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

// A non-blocking socket on which `who` listens at `address`: the first one of the name's addresses
// that can be had. Errors as of CheckCanListen.
absl::StatusOr<OwnedSocket> ListenOn(absl::string_view address, absl::string_view who, int backlog);
// Connects to whoever listens at `address`, on each of the name's addresses, and goes away again:
// its poll returns. Whether somebody does is not told.
void Knock(const Address& address);
// The port that it was bound to.
absl::StatusOr<int> PortOf(const OwnedSocket& socket);

// Whether `who` can listen at `address` now. Blocks for as long as a name takes to resolve. Errors
// name the address and what to do: AlreadyExists (port in use), PermissionDenied, InvalidArgument
// (no such host, not an address of this machine).
absl::Status CheckCanListen(absl::string_view address, absl::string_view who);

// `count` distinct ports of the loopback that are free now. Another process may take one before it
// is used: its user then gets the error of CheckCanListen.
absl::StatusOr<std::vector<int>> FreeLoopbackPorts(int count);

// Ports of the loopback for processes that are about to be started: they are bound, and not
// listened on, for as long as this is there. So the system gives them to nobody as a free port or
// as the near end of a connection, while a server that asks for one by its number (with
// SO_REUSEADDR, as ListenOn and gRPC do) gets it, as often as it is started.
struct ReservedPorts {
  std::vector<int> ports;
  std::vector<OwnedSocket> sockets;
};
absl::StatusOr<ReservedPorts> ReserveLoopbackPorts(int count);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_ADDRESS_H_
