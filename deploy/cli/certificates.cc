#include "deploy/cli/certificates.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/role.h"

namespace crescendo {
namespace {

constexpr int kTokenBytes = 32;
// So that a clock that is a little behind takes the certificate too.
constexpr absl::Duration kBackdated = absl::Minutes(5);

struct Free {
  void operator()(BIO* p) const { BIO_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(X509_EXTENSION* p) const { X509_EXTENSION_free(p); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

absl::Status OpenSslError(absl::string_view what) {
  std::array<char, 256> text{};
  ERR_error_string_n(ERR_get_error(), text.data(), text.size());
  ERR_clear_error();
  return absl::InternalError(absl::StrCat("OpenSSL, ", what, ": ", text.data()));
}

struct Identity {
  Owned<X509> certificate;
  Owned<EVP_PKEY> key;
};

absl::Status AddExtension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Owned<X509_EXTENSION> extension(
      X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1) {
    return OpenSslError(absl::StrCat("extension ", OBJ_nid2ln(kind), " = ", value));
  }
  return absl::OkStatus();
}

// A key and an unsigned certificate of it.
absl::StatusOr<Identity> NewIdentity(const std::string& common_name,
                                     const CertificateOptions& options) {
  Identity made{Owned<X509>(X509_new()), Owned<EVP_PKEY>(EVP_EC_gen("P-256"))};
  X509* certificate = made.certificate.get();
  if (certificate == nullptr || made.key == nullptr) return OpenSslError("making a key");
  std::array<unsigned char, 16> serial{};
  if (RAND_bytes(serial.data(), serial.size()) != 1) return OpenSslError("randomness");
  serial[0] &= 0x7f;  // positive
  BIGNUM* number = BN_bin2bn(serial.data(), serial.size(), nullptr);
  BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
  BN_free(number);
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_TIME_set(X509_getm_notBefore(certificate), absl::ToTimeT(options.now - kBackdated));
  ASN1_TIME_set(X509_getm_notAfter(certificate), absl::ToTimeT(options.now + options.valid));
  X509_NAME* subject = X509_get_subject_name(certificate);
  const auto add = [&](const char* field, const std::string& text) {
    return X509_NAME_add_entry_by_txt(subject, field, MBSTRING_UTF8,
                                      reinterpret_cast<const unsigned char*>(text.c_str()), -1, -1,
                                      0) == 1;
  };
  if (!add("O", "Crescendo") || !add("CN", common_name) ||
      X509_set_pubkey(certificate, made.key.get()) != 1) {
    return OpenSslError("naming a certificate");
  }
  return made;
}

absl::Status Sign(X509* certificate, X509* issuer, EVP_PKEY* key) {
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer));
  if (X509_sign(certificate, key, EVP_sha256()) == 0) return OpenSslError("signing");
  return absl::OkStatus();
}

absl::StatusOr<Identity> NewAuthority(const CertificateOptions& options) {
  ASSIGN_OR_RETURN(Identity made, NewIdentity("Crescendo development authority", options));
  X509* certificate = made.certificate.get();
  for (const auto& [kind, value] :
       {std::pair<int, const char*>{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
        {NID_key_usage, "critical,keyCertSign,cRLSign"},
        {NID_subject_key_identifier, "hash"}}) {
    RETURN_IF_ERROR(AddExtension(certificate, certificate, kind, value));
  }
  RETURN_IF_ERROR(Sign(certificate, certificate, made.key.get()));
  return made;
}

bool IsAddress(const std::string& name) {
  std::array<unsigned char, sizeof(in6_addr)> bytes{};
  return inet_pton(AF_INET, name.c_str(), bytes.data()) == 1 ||
         inet_pton(AF_INET6, name.c_str(), bytes.data()) == 1;
}

absl::StatusOr<Identity> NewRole(Role role, const Identity& authority,
                                 const CertificateOptions& options) {
  const std::string name(RoleName(role));
  ASSIGN_OR_RETURN(Identity made, NewIdentity(name, options));
  std::string names =
      absl::StrCat("URI:", RoleUri(role), ",DNS:localhost,DNS:", name, ",IP:127.0.0.1,IP:::1");
  for (const std::string& host : options.names) {
    absl::StrAppend(&names, IsAddress(host) ? ",IP:" : ",DNS:", host);
  }
  for (const auto& [kind, value] :
       {std::pair<int, std::string>{NID_basic_constraints, "critical,CA:FALSE"},
        {NID_key_usage, "critical,digitalSignature"},
        {NID_ext_key_usage, "serverAuth,clientAuth"},
        {NID_subject_key_identifier, "hash"},
        {NID_authority_key_identifier, "keyid"},
        {NID_subject_alt_name, names}}) {
    RETURN_IF_ERROR(AddExtension(made.certificate.get(), authority.certificate.get(), kind, value));
  }
  RETURN_IF_ERROR(Sign(made.certificate.get(), authority.certificate.get(), authority.key.get()));
  return made;
}

std::string BytesOf(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<size_t>(size)};
}

std::string CertificateText(const Identity& identity) {
  const Owned<BIO> out(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(out.get(), identity.certificate.get());
  return BytesOf(out.get());
}

std::string KeyText(const Identity& identity) {
  const Owned<BIO> out(BIO_new(BIO_s_secmem()));
  PEM_write_bio_PKCS8PrivateKey(out.get(), identity.key.get(), nullptr, nullptr, 0, nullptr,
                                nullptr);
  return BytesOf(out.get());
}

// Where the files lie; keeps the names of what it made.
class Folder {
 public:
  explicit Folder(const CertificateOptions& options) : options_(options) {}

  absl::Status Make() const {
    std::error_code error;
    if (std::filesystem::is_directory(options_.folder, error)) return absl::OkStatus();
    std::filesystem::create_directories(options_.folder, error);
    if (!error) {
      std::filesystem::permissions(options_.folder, std::filesystem::perms::owner_all, error);
    }
    if (error) {
      return absl::UnavailableError(
          absl::StrCat(options_.folder, ": cannot be made: ", error.message()));
    }
    return absl::OkStatus();
  }

  bool Has(const std::string& name) const {
    std::error_code error;
    return std::filesystem::exists(Path(name), error);
  }
  // Whether `name` is to be made.
  bool Wants(const std::string& name) const { return options_.force || !Has(name); }

  absl::StatusOr<std::string> Read(const std::string& name) const {
    std::ifstream in(Path(name), std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    if (!in) return absl::UnavailableError(absl::StrCat(Path(name), ": cannot be read"));
    return text.str();
  }

  // Under another name first: a service that reads while this runs sees the old file or the new.
  absl::Status Write(const std::string& name, const std::string& text) {
    const std::string path = Path(name);
    const std::string temporary = path + ".new";
    const int file =
        open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool written = file >= 0 && fchmod(file, 0600) == 0 &&
                   write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                   fsync(file) == 0;
    if (file >= 0) written = close(file) == 0 && written;
    if (!written || rename(temporary.c_str(), path.c_str()) != 0) {
      return absl::UnavailableError(
          absl::StrCat(path, ": cannot be written: ", std::strerror(errno)));
    }
    made_.push_back(name);
    return absl::OkStatus();
  }

  std::vector<std::string> TakeMade() { return std::move(made_); }

 private:
  std::string Path(const std::string& name) const {
    return absl::StrCat(options_.folder, "/", name);
  }

  const CertificateOptions& options_;
  std::vector<std::string> made_;
};

absl::StatusOr<Identity> ReadAuthority(const Folder& folder, const std::string& where) {
  if (!folder.Has("ca.key")) {
    return absl::FailedPreconditionError(
        absl::StrCat(where,
                     ": ca.pem is there without ca.key, and a certificate is missing: give the "
                     "authority's key, or --force for a new authority and new certificates"));
  }
  ASSIGN_OR_RETURN(const std::string pem, folder.Read("ca.pem"));
  ASSIGN_OR_RETURN(const std::string key, folder.Read("ca.key"));
  const Owned<BIO> pem_in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const Owned<BIO> key_in(BIO_new_mem_buf(key.data(), static_cast<int>(key.size())));
  Identity authority{
      Owned<X509>(PEM_read_bio_X509(pem_in.get(), nullptr, nullptr, nullptr)),
      Owned<EVP_PKEY>(PEM_read_bio_PrivateKey(key_in.get(), nullptr, nullptr, nullptr))};
  if (authority.certificate == nullptr || authority.key == nullptr ||
      X509_check_private_key(authority.certificate.get(), authority.key.get()) != 1) {
    ERR_clear_error();
    return absl::FailedPreconditionError(
        absl::StrCat(where, ": ca.pem and ca.key are not a certificate and its key"));
  }
  return authority;
}

absl::Status CheckNames(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    for (const char c : name) {
      if (absl::ascii_isalnum(c) || c == '-' || c == '.' || c == ':' || c == '*') continue;
      return absl::InvalidArgumentError(
          absl::StrCat("--name: expected a host name or an address, found '", name, "'"));
    }
  }
  return absl::OkStatus();
}

absl::Status MakeRole(Role role, const Identity& authority, const CertificateOptions& options,
                      Folder& folder) {
  const std::string name(RoleName(role));
  // A key and its certificate are of one making.
  if (folder.Wants(name + ".pem") || folder.Wants(name + ".key")) {
    ASSIGN_OR_RETURN(const Identity made, NewRole(role, authority, options));
    RETURN_IF_ERROR(folder.Write(name + ".key", KeyText(made)));
    RETURN_IF_ERROR(folder.Write(name + ".pem", CertificateText(made)));
  }
  if (folder.Wants(name + ".token")) {
    std::array<unsigned char, kTokenBytes> bytes{};
    if (RAND_bytes(bytes.data(), bytes.size()) != 1) return OpenSslError("randomness");
    const absl::string_view raw(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    RETURN_IF_ERROR(folder.Write(name + ".token", absl::BytesToHexString(raw) + "\n"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> MakeCertificates(const CertificateOptions& options) {
  RETURN_IF_ERROR(CheckNames(options.names));
  Folder folder(options);
  RETURN_IF_ERROR(folder.Make());
  bool missing = folder.Wants("ca.pem");
  for (const Role role : kRoles) {
    missing = missing || folder.Wants(absl::StrCat(RoleName(role), ".pem")) ||
              folder.Wants(absl::StrCat(RoleName(role), ".key"));
  }
  if (folder.Wants("ca.pem") && !options.force) {
    for (const Role role : kRoles) {
      if (!folder.Has(absl::StrCat(RoleName(role), ".pem"))) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(options.folder, ": ", RoleName(role),
                       ".pem is there without the ca.pem "
                       "that vouches for it: put that back, or --force to make all anew"));
    }
  }
  Identity authority;
  if (folder.Wants("ca.pem")) {
    ASSIGN_OR_RETURN(authority, NewAuthority(options));
    RETURN_IF_ERROR(folder.Write("ca.key", KeyText(authority)));
    RETURN_IF_ERROR(folder.Write("ca.pem", CertificateText(authority)));
  } else if (missing) {
    ASSIGN_OR_RETURN(authority, ReadAuthority(folder, options.folder));
  }
  for (const Role role : kRoles) RETURN_IF_ERROR(MakeRole(role, authority, options, folder));
  return folder.TakeMade();
}

}  // namespace crescendo
