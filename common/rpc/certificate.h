// What a PEM file of certificates says, checked once before a service starts: gRPC itself would
// only log that a handshake failed, much later.
#ifndef CRESCENDO_COMMON_RPC_CERTIFICATE_H_
#define CRESCENDO_COMMON_RPC_CERTIFICATE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace crescendo {

struct CertificateNames {
  std::string common_name;
  std::vector<std::string> uris;
  absl::Time not_before;
  absl::Time not_after;
};

// Of the first certificate in `pem`. Every error here is InvalidArgument and names `path`.
absl::StatusOr<CertificateNames> ReadCertificate(absl::string_view pem, absl::string_view path);
// That the private key is that of the certificate.
absl::Status CheckKeyFits(absl::string_view certificate_pem, absl::string_view key_pem,
                          absl::string_view key_path);
// That an authority of `ca_pem` vouches for the certificate at `now`, over what stands behind it.
absl::Status CheckIssued(absl::string_view ca_pem, absl::string_view ca_path,
                         absl::string_view certificate_pem, absl::string_view path, absl::Time now);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_CERTIFICATE_H_
