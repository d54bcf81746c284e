#include "common/rpc/certificate.h"

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

struct Free {
  void operator()(BIO* p) const { BIO_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(X509_STORE* p) const { X509_STORE_free(p); }
  void operator()(X509_STORE_CTX* p) const { X509_STORE_CTX_free(p); }
  void operator()(STACK_OF(X509) * p) const { sk_X509_pop_free(p, X509_free); }
  void operator()(GENERAL_NAMES* p) const { GENERAL_NAMES_free(p); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

constexpr int kCertificatesMax = 64;

absl::StatusOr<std::vector<Owned<X509>>> ReadAll(absl::string_view pem, absl::string_view path) {
  const Owned<BIO> in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  std::vector<Owned<X509>> certificates;
  while (certificates.size() < kCertificatesMax) {
    Owned<X509> next(PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr));
    if (next == nullptr) break;
    certificates.push_back(std::move(next));
  }
  ERR_clear_error();
  if (certificates.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a certificate in PEM form"));
  }
  return certificates;
}

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm parts = {};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string TextOf(const ASN1_STRING* text) {
  return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                     static_cast<size_t>(ASN1_STRING_length(text)));
}

}  // namespace

absl::StatusOr<CertificateNames> ReadCertificate(absl::string_view pem, absl::string_view path) {
  ASSIGN_OR_RETURN(const std::vector<Owned<X509>> certificates, ReadAll(pem, path));
  X509* first = certificates.front().get();
  CertificateNames names;
  names.not_before = TimeOf(X509_get0_notBefore(first));
  names.not_after = TimeOf(X509_get0_notAfter(first));
  X509_NAME* subject = X509_get_subject_name(first);
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at >= 0) {
    names.common_name = TextOf(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  }
  const Owned<GENERAL_NAMES> others(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(first, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; others != nullptr && i < sk_GENERAL_NAME_num(others.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(others.get(), i);
    if (name->type == GEN_URI) names.uris.push_back(TextOf(name->d.uniformResourceIdentifier));
  }
  return names;
}

absl::Status CheckKeyFits(absl::string_view certificate_pem, absl::string_view key_pem,
                          absl::string_view key_path) {
  ASSIGN_OR_RETURN(const std::vector<Owned<X509>> certificates,
                   ReadAll(certificate_pem, "certificate"));
  const Owned<BIO> in(BIO_new_mem_buf(key_pem.data(), static_cast<int>(key_pem.size())));
  // A key with a passphrase is refused instead of asked about at a terminal.
  const auto no_passphrase = [](char*, int, int, void*) { return 0; };
  const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(in.get(), nullptr, no_passphrase, nullptr));
  const bool fits =
      key != nullptr && X509_check_private_key(certificates.front().get(), key.get()) == 1;
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(key_path, ": expected a private key in PEM form, without a passphrase"));
  }
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(key_path, ": is not the private key of the certificate beside it"));
}

absl::Status CheckIssued(absl::string_view ca_pem, absl::string_view ca_path,
                         absl::string_view certificate_pem, absl::string_view path,
                         absl::Time now) {
  ASSIGN_OR_RETURN(const std::vector<Owned<X509>> authorities, ReadAll(ca_pem, ca_path));
  ASSIGN_OR_RETURN(std::vector<Owned<X509>> chain, ReadAll(certificate_pem, path));
  const Owned<X509_STORE> store(X509_STORE_new());
  for (const Owned<X509>& authority : authorities) {
    X509_STORE_add_cert(store.get(), authority.get());
  }
  const Owned<STACK_OF(X509)> between(sk_X509_new_null());
  for (size_t i = 1; i < chain.size(); ++i) sk_X509_push(between.get(), chain[i].release());
  const Owned<X509_STORE_CTX> check(X509_STORE_CTX_new());
  X509_STORE_CTX_init(check.get(), store.get(), chain.front().get(), between.get());
  X509_STORE_CTX_set_time(check.get(), 0, absl::ToTimeT(now));
  const int verified = X509_verify_cert(check.get());
  const int error = X509_STORE_CTX_get_error(check.get());
  ERR_clear_error();
  if (verified == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": not a good certificate of the authority ",
                                                 ca_path, ": ",
                                                 X509_verify_cert_error_string(error)));
}

}  // namespace crescendo
