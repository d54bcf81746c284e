#include "common/rpc/transport.h"

#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "common/rpc/address.h"
#include "common/rpc/certificate.h"
#include "common/rpc/token_file.h"

namespace crescendo {
namespace {

namespace tls_api = grpc::experimental;

constexpr unsigned kReadFilesEverySeconds = 1;
constexpr absl::string_view kBearer = "Bearer ";

absl::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

std::string Names(const std::vector<Role>& roles) {
  return absl::StrJoin(roles, " or ",
                       [](std::string* out, Role role) { absl::StrAppend(out, RoleName(role)); });
}

// The accepted tokens of every role. A role whose file is not there may not call this process.
class AcceptedTokens {
 public:
  AcceptedTokens(FileSystem* files, const std::string& folder) {
    for (const Role role : kRoles) {
      files_[role] = std::make_unique<TokenFile>(
          files, JoinPath(folder, absl::StrCat(RoleName(role), ".token")));
    }
  }
  bool Accepts(Role role, absl::string_view token) {
    return files_.at(role)->Accepts(token, RealNow());
  }

 private:
  std::map<Role, std::unique_ptr<TokenFile>> files_;
};

// Decides on every call before a handler hears of it.
class CallCheck : public grpc::AuthMetadataProcessor {
 public:
  CallCheck(std::shared_ptr<AcceptedTokens> tokens, OnRefusal on_refusal)
      : tokens_(std::move(tokens)), on_refusal_(std::move(on_refusal)) {}

  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context,
                       OutputMetadata* consumed, OutputMetadata*) override {
    const absl::string_view method = Value(metadata, ":path");
    const std::optional<Role> role = RoleOf(*context);
    if (!role) {
      return Refuse(Refusal::kNoRole, grpc::StatusCode::PERMISSION_DENIED,
                    "the certificate names no role of Crescendo");
    }
    if (IsOpenToAllRoles(method)) return grpc::Status::OK;
    const absl::string_view authorization = Value(metadata, "authorization");
    if (authorization.empty()) {
      return Refuse(Refusal::kNoToken, grpc::StatusCode::UNAUTHENTICATED,
                    absl::StrCat("no bearer token came with the call of the ", RoleName(*role)));
    }
    consumed->emplace("authorization", std::string(authorization));
    absl::string_view token = authorization;
    if (!absl::ConsumePrefix(&token, kBearer) || !tokens_->Accepts(*role, token)) {
      return Refuse(
          Refusal::kWrongToken, grpc::StatusCode::UNAUTHENTICATED,
          absl::StrCat("the bearer token is not accepted for the role ", RoleName(*role)));
    }
    if (!MayCall(*role, method)) {
      return Refuse(Refusal::kWrongRole, grpc::StatusCode::PERMISSION_DENIED,
                    absl::StrCat("the role ", RoleName(*role), " may not call ", method));
    }
    return grpc::Status::OK;
  }

 private:
  static absl::string_view Value(const InputMetadata& metadata, const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? absl::string_view() : View(found->second);
  }

  static std::optional<Role> RoleOf(const grpc::AuthContext& context) {
    std::vector<std::string> uris;
    for (const grpc::string_ref& uri : context.FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
      uris.emplace_back(uri.data(), uri.size());
    }
    const auto names = context.FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME);
    return RoleOfNames(uris, names.size() == 1 ? View(names.front()) : absl::string_view());
  }

  grpc::Status Refuse(Refusal refusal, grpc::StatusCode code, const std::string& message) {
    if (on_refusal_) on_refusal_(refusal);
    return {code, message};
  }

  const std::shared_ptr<AcceptedTokens> tokens_;
  const OnRefusal on_refusal_;
};

// The peer's certificate is of the authority already; here its role is asked for.
class PeerRole : public tls_api::ExternalCertificateVerifier {
 public:
  explicit PeerRole(std::vector<Role> roles) : roles_(std::move(roles)) {}

  bool Verify(tls_api::TlsCustomVerificationCheckRequest* request,
              std::function<void(grpc::Status)>, grpc::Status* sync_status) override {
    std::vector<std::string> uris;
    for (const grpc::string_ref& uri : request->uri_names()) {
      uris.emplace_back(uri.data(), uri.size());
    }
    const std::optional<Role> role = RoleOfNames(uris, View(request->common_name()));
    if (role && std::find(roles_.begin(), roles_.end(), *role) != roles_.end()) {
      *sync_status = grpc::Status::OK;
    } else {
      *sync_status = {grpc::StatusCode::UNAUTHENTICATED,
                      absl::StrCat("expected the certificate of a ", Names(roles_), ", found ",
                                   role ? RoleName(*role) : "one without a role")};
    }
    return true;  // decided
  }
  void Cancel(tls_api::TlsCustomVerificationCheckRequest*) override {}

 private:
  const std::vector<Role> roles_;
};

class SendToken : public grpc::MetadataCredentialsPlugin {
 public:
  explicit SendToken(std::shared_ptr<TokenFile> token) : token_(std::move(token)) {}
  bool IsBlocking() const override { return false; }
  const char* GetType() const override { return "crescendo-token"; }
  std::string DebugString() override { return "the token of a role"; }

  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<std::string, std::string>* metadata) override {
    const std::string token = token_->First(RealNow());
    if (!token.empty()) metadata->emplace("authorization", absl::StrCat(kBearer, token));
    return grpc::Status::OK;
  }

 private:
  const std::shared_ptr<TokenFile> token_;
};

class FileTransport : public TlsTransport {
 public:
  FileTransport(const TlsFiles& tls, Role role, FileSystem* files)
      : role_(role),
        provider_(std::make_shared<tls_api::FileWatcherCertificateProvider>(
            tls.key, tls.certificate, tls.ca, kReadFilesEverySeconds)),
        token_(std::make_shared<TokenFile>(files, tls.token)),
        accepted_(std::make_shared<AcceptedTokens>(files, tls.tokens)) {}

  Role role() const override { return role_; }

  std::shared_ptr<grpc::ServerCredentials> Server(OnRefusal on_refusal) const override {
    tls_api::TlsServerCredentialsOptions options(provider_);
    options.watch_root_certs();
    options.watch_identity_key_cert_pairs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    auto credentials = tls_api::TlsServerCredentials(options);
    credentials->SetAuthMetadataProcessor(
        std::make_shared<CallCheck>(accepted_, std::move(on_refusal)));
    return credentials;
  }

  std::shared_ptr<grpc::ChannelCredentials> Channel(const std::vector<Role>& peers) const override {
    tls_api::TlsChannelCredentialsOptions options;
    options.set_certificate_provider(provider_);
    options.watch_root_certs();
    options.watch_identity_key_cert_pairs();
    options.set_verify_server_certs(true);
    options.set_check_call_host(false);
    options.set_certificate_verifier(tls_api::ExternalCertificateVerifier::Create<PeerRole>(peers));
    return grpc::CompositeChannelCredentials(
        tls_api::TlsCredentials(options),
        grpc::MetadataCredentialsFromPlugin(std::make_unique<SendToken>(token_)));
  }

 private:
  const Role role_;
  const std::shared_ptr<tls_api::CertificateProviderInterface> provider_;
  const std::shared_ptr<TokenFile> token_;
  const std::shared_ptr<AcceptedTokens> accepted_;
};

}  // namespace

namespace {

// A channel whose calls fail at once while it connects again has nobody to drive its handshake,
// which takes some steps under TLS, but gRPC's backup poller: every 5 s by itself, with a handshake
// timed out before it is done. Read when gRPC begins, and left as it is where the user set it.
void DriveHandshakes() { setenv("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "50", 0); }

}  // namespace

absl::StatusOr<Transport> MakeTlsTransport(const TlsFiles& tls, Role role, FileSystem* files) {
  ASSIGN_OR_RETURN(const std::string ca, files->ReadFile(tls.ca, limits::kConfigFileBytesMax));
  ASSIGN_OR_RETURN(const std::string certificate,
                   files->ReadFile(tls.certificate, limits::kConfigFileBytesMax));
  ASSIGN_OR_RETURN(const std::string key, files->ReadFile(tls.key, limits::kConfigFileBytesMax));
  ASSIGN_OR_RETURN(const CertificateNames names, ReadCertificate(certificate, tls.certificate));
  RETURN_IF_ERROR(CheckKeyFits(certificate, key, tls.key));
  RETURN_IF_ERROR(CheckIssued(ca, tls.ca, certificate, tls.certificate, RealNow()));
  const std::optional<Role> found = RoleOfNames(names.uris, names.common_name);
  if (found != role) {
    return absl::InvalidArgumentError(
        absl::StrCat(tls.certificate, ": expected the certificate of a ", RoleName(role), " (",
                     RoleUri(role), "), found ", found ? RoleName(*found) : "one without a role"));
  }
  RETURN_IF_ERROR(TokenFile(files, tls.token).Check());
  DriveHandshakes();
  Transport transport;
  transport.tls = std::make_shared<FileTransport>(tls, role, files);
  return transport;
}

absl::Status CheckTransport(absl::string_view address, const Transport& transport,
                            absl::string_view what) {
  if (transport.tls != nullptr) return ParseAddress(address).status();
  return CheckPlainText(address, transport.insecure, what);
}

}  // namespace crescendo
