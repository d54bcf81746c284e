// The transport that a run's configuration asks for.
#ifndef CRESCENDO_COMMON_RPC_TRANSPORT_CONFIG_H_
#define CRESCENDO_COMMON_RPC_TRANSPORT_CONFIG_H_

#include "absl/status/statusor.h"
#include "common/config/run_config.h"
#include "common/os/env.h"
#include "common/rpc/role.h"
#include "common/rpc/transport.h"

namespace crescendo {

// The files of `security` for a process of this role: those of its directory, where no single path
// is given. All empty when there is neither: plain text.
TlsFiles TlsFilesOf(const SecuritySection& security, Role role);

// Whether the metrics port may be reached from off the loopback: it is always plain text.
inline bool MetricsInTheOpen(const RunConfig& config) {
  return config.network.insecure || config.security.metrics_plain_text;
}

// Whether the run's page may be, for the same reason.
inline bool PageInTheOpen(const RunConfig& config) {
  return config.network.insecure || config.security.page_plain_text;
}

// TLS where [security] names files; plain text otherwise. Errors as of MakeTlsTransport, and
// InvalidArgument for half of a certificate.
absl::StatusOr<Transport> MakeTransport(const SecuritySection& security, bool insecure, Role role,
                                        FileSystem* files);
// The same for a process of this role, which may listen where [network] says: FailedPrecondition
// when that would be plain text off the loopback.
absl::StatusOr<Transport> MakeTransport(const RunConfig& config, Role role, FileSystem* files);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_TRANSPORT_CONFIG_H_
