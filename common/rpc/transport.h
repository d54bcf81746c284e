// How this process speaks with others: plain text, or TLS in which both sides show a certificate of
// the run's authority and the caller sends the token of its role.
//
//   ASSIGN_OR_RETURN(const Transport transport, MakeTransport(TlsFilesFor(config), ...));
//   RpcServer::Start({address, "learner", transport, on_refusal}, {&service});
//   MakeChannel(coordinator, "coordinator", transport, {Role::kCoordinator});
//
// Certificates, keys and tokens are files and are read again when they change: a handshake after
// that uses the new ones, connections that stand go on. A peer is told by its role (role.h), not by
// its host name: workers come and go under addresses that no certificate knows.
//
// A Transport is a value, cheap to copy. Thread-safe.
#ifndef CRESCENDO_COMMON_RPC_TRANSPORT_H_
#define CRESCENDO_COMMON_RPC_TRANSPORT_H_

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/os/env.h"
#include "common/rpc/refusal.h"
#include "common/rpc/role.h"

namespace crescendo {

// Paths.
struct TlsFiles {
  std::string ca;           // PEM: the authorities that are trusted, nobody else
  std::string certificate;  // PEM: this process's, then what leads up to the authority
  std::string key;          // PEM
  std::string token;        // of this process (token_file.h)
  std::string tokens;       // folder of the ROLE.token files that are accepted
};

class TlsTransport {
 public:
  virtual ~TlsTransport() = default;
  virtual Role role() const = 0;
  // Credentials of a server that takes calls of roles that may make them (role.h).
  virtual std::shared_ptr<grpc::ServerCredentials> Server(OnRefusal on_refusal) const = 0;
  // Credentials of a channel that only connects to a peer of one of `peers`.
  virtual std::shared_ptr<grpc::ChannelCredentials> Channel(
      const std::vector<Role>& peers) const = 0;
};

struct Transport {
  Transport() = default;
  // Plain text: on the loopback, and off it too when `insecure_network`.
  Transport(bool insecure_network)  // NOLINT(google-explicit-constructor): tests say false
      : insecure(insecure_network) {}

  bool insecure = false;
  std::shared_ptr<const TlsTransport> tls;  // nullptr: plain text
};

// TLS with these files, for a process of this role. They are read and checked now: InvalidArgument
// or NotFound says which file, what was expected, what was found, and never what a secret is.
// `files` outlives what is made.
absl::StatusOr<Transport> MakeTlsTransport(const TlsFiles& tls, Role role, FileSystem* files);

// Whether `what` ("learner listening on ADDRESS") may happen with this transport: TLS anywhere,
// plain text as CheckPlainText says.
absl::Status CheckTransport(absl::string_view address, const Transport& transport,
                            absl::string_view what);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_TRANSPORT_H_
