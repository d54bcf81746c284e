#include "common/rpc/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// The name's addresses; null with getaddrinfo's code in `failed` when it has none.
AddressList Resolve(const Address& address, int flags, int* failed) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  *failed = getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
  return AddressList(found, &freeaddrinfo);
}

absl::Status ListenError(int error, absl::string_view address, absl::string_view who) {
  const std::string start = absl::StrCat(who, ": cannot listen on ", address, ": ");
  switch (error) {
    case EADDRINUSE:
      return absl::AlreadyExistsError(absl::StrCat(
          start, "the port is in use by another process; stop that one or choose another port"));
    case EADDRNOTAVAIL:
      return absl::InvalidArgumentError(
          absl::StrCat(start, "not an address of this machine; 0.0.0.0 listens on all of them"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(
          absl::StrCat(start, "not permitted; ports below 1024 need privileges"));
    default:
      return absl::UnavailableError(absl::StrCat(start, std::strerror(error)));
  }
}

}  // namespace

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  Address address;
  if (colon == absl::string_view::npos || colon == 0 || colon + 1 >= text.size() ||
      !absl::ascii_isdigit(text[colon + 1]) ||
      !absl::SimpleAtoi(text.substr(colon + 1), &address.port) || address.port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("address '", text, "': expected host:port with a port of 0 to 65535"));
  }
  absl::string_view host = text.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  address.host = std::string(host);
  return address;
}

std::string FormatAddress(absl::string_view host, int port) {
  if (absl::StrContains(host, ':')) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

std::string AdvertisedAddress(absl::string_view address) {
  const absl::StatusOr<Address> parsed = ParseAddress(address);
  if (!parsed.ok() || (parsed->host != "0.0.0.0" && parsed->host != "::")) {
    return std::string(address);
  }
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return std::string(address);
  return FormatAddress(name, parsed->port);
}

bool IsLoopback(absl::string_view host) {
  if (host == "localhost") return true;
  const std::string text(host);
  in_addr v4;
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, text.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::Status CheckPlainText(absl::string_view address, bool insecure, absl::string_view what) {
  ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  if (insecure || IsLoopback(parsed.host)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      what, ": ", address,
      " is not on the loopback and the traffic would be plain text for all to read; "
      "give security.directory (`crescendo certs DIR` makes one), or set network.insecure=true "
      "if that network is trusted"));
}

OwnedSocket::~OwnedSocket() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<OwnedSocket> ListenOn(absl::string_view address, absl::string_view who,
                                     int backlog) {
  ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  int failed = 0;
  const AddressList found = Resolve(parsed, AI_PASSIVE, &failed);
  if (failed != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(who, ": cannot listen on ", address, ": ", gai_strerror(failed)));
  }
  int error = 0;
  OwnedSocket socket(-1);
  for (const addrinfo* item = found.get(); item != nullptr; item = item->ai_next) {
    socket = OwnedSocket(::socket(item->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    error = socket.fd() < 0 ? errno : 0;
    if (error != 0) continue;
    // A port whose last owner has just died can be taken again at once.
    const int on = 1;
    setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(socket.fd(), item->ai_addr, item->ai_addrlen) != 0 ||
        listen(socket.fd(), backlog) != 0) {
      error = errno;
    }
    if (error == 0) break;
  }
  if (error != 0) return ListenError(error, address, who);
  return socket;
}

void Knock(const Address& address) {
  int failed = 0;
  const AddressList found = Resolve(address, 0, &failed);
  if (failed != 0) return;
  for (const addrinfo* item = found.get(); item != nullptr; item = item->ai_next) {
    const OwnedSocket socket(::socket(item->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    (void)connect(socket.fd(), item->ai_addr, item->ai_addrlen);
  }
}

absl::StatusOr<int> PortOf(const OwnedSocket& socket) {
  sockaddr_storage bound = {};
  socklen_t bytes = sizeof(bound);
  if (getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&bound), &bytes) != 0) {
    return absl::InternalError(absl::StrCat("getsockname: ", std::strerror(errno)));
  }
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

absl::Status CheckCanListen(absl::string_view address, absl::string_view who) {
  return ListenOn(address, who, /*backlog=*/1).status();
}

absl::StatusOr<ReservedPorts> ReserveLoopbackPorts(int count) {
  ReservedPorts reserved;  // all are held until the last is found, so that no port is given twice
  for (int i = 0; i < count; ++i) {
    OwnedSocket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (socket.fd() < 0 ||
        bind(socket.fd(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      return ListenError(errno, "127.0.0.1:0", "looking for a free port");
    }
    // After the port is chosen: among sockets that share, the system would choose one of another.
    setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    ASSIGN_OR_RETURN(const int port, PortOf(socket));
    reserved.ports.push_back(port);
    reserved.sockets.push_back(std::move(socket));
  }
  return reserved;
}

absl::StatusOr<std::vector<int>> FreeLoopbackPorts(int count) {
  ASSIGN_OR_RETURN(ReservedPorts reserved, ReserveLoopbackPorts(count));
  return std::move(reserved.ports);
}

}  // namespace crescendo
