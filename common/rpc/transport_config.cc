#include "common/rpc/transport_config.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {

TlsFiles TlsFilesOf(const SecuritySection& security, Role role) {
  const auto file = [&](const std::string& given, absl::string_view name) {
    if (!given.empty() || security.directory.empty()) return given;
    return JoinPath(security.directory, name);
  };
  TlsFiles files;
  files.ca = file(security.ca, "ca.pem");
  files.certificate = file(security.certificate, absl::StrCat(RoleName(role), ".pem"));
  files.key = file(security.key, absl::StrCat(RoleName(role), ".key"));
  files.token = file(security.token, absl::StrCat(RoleName(role), ".token"));
  files.tokens = security.tokens.empty() ? security.directory : security.tokens;
  return files;
}

absl::StatusOr<Transport> MakeTransport(const SecuritySection& security, bool insecure, Role role,
                                        FileSystem* files) {
  const TlsFiles tls = TlsFilesOf(security, role);
  const std::pair<const char*, const std::string*> needed[] = {
      {"security.ca", &tls.ca},
      {"security.certificate", &tls.certificate},
      {"security.key", &tls.key},
      {"security.token", &tls.token},
      {"security.tokens", &tls.tokens}};
  int given = 0;
  const char* missing = nullptr;
  for (const auto& [key, path] : needed) {
    if (path->empty()) {
      missing = key;
    } else {
      ++given;
    }
  }
  if (given == 0) return Transport(insecure);
  if (missing != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(missing,
                     ": expected a path: [security] needs ca, certificate, key, token and "
                     "tokens, or a directory that holds them (`crescendo certs DIR`)"));
  }
  absl::StatusOr<Transport> transport = MakeTlsTransport(tls, role, files);
  RETURN_IF_ERROR(Annotate(transport.status(), "[security]"));
  return transport;
}

absl::StatusOr<Transport> MakeTransport(const RunConfig& config, Role role, FileSystem* files) {
  ASSIGN_OR_RETURN(Transport transport,
                   MakeTransport(config.security, config.network.insecure, role, files));
  const NetworkSection& network = config.network;
  const std::string* listens = role == Role::kCoordinator ? &network.coordinator
                               : role == Role::kLearner   ? &network.learner
                               : role == Role::kReward    ? &network.reward
                               : role == Role::kRollout   ? &network.rollout
                                                          : nullptr;
  if (listens != nullptr) {
    RETURN_IF_ERROR(
        CheckTransport(*listens, transport, absl::StrCat(RoleName(role), " listening")));
  }
  return transport;
}

}  // namespace crescendo
