// Certificates and tokens of a run, as every service and `crescendo` itself expects them in the
// folder that security.directory names:
//
//   ca.pem, ca.key       the authority; only ca.pem is given to a service
//   ROLE.pem, ROLE.key   a certificate for each role (coordinator, learner, rollout, reward,
//                        operator), in the name spiffe://crescendo/ROLE
//   ROLE.token           the role's bearer token
//
// All with mode 0600 in a folder of mode 0700. Made with OpenSSL: P-256 keys, SHA-256.
#ifndef CRESCENDO_DEPLOY_CLI_CERTIFICATES_H_
#define CRESCENDO_DEPLOY_CLI_CERTIFICATES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace crescendo {

struct CertificateOptions {
  std::string folder;
  std::vector<std::string> names;  // host names and addresses beside localhost
  bool force = false;              // makes everything anew, the authority too
  absl::Duration valid = absl::Hours(24 * 365);
  absl::Time now;
};

// Makes what is missing and returns the names of the files that it made; a file that is there stays
// as it is, unless `force`. FailedPrecondition when the authority's key is needed and is not there,
// Unavailable when a file cannot be written. Blocks briefly.
absl::StatusOr<std::vector<std::string>> MakeCertificates(const CertificateOptions& options);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_CERTIFICATES_H_
