#include "common/rpc/token_file.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr size_t kTokenFileBytesMax = 64u << 10;
constexpr size_t kTokensMax = 16;
constexpr size_t kTokenBytesMin = 16;
constexpr size_t kTokenBytesMax = 4096;
// How late a change is noticed.
constexpr absl::Duration kReadEvery = absl::Seconds(1);

std::string Digest(absl::string_view text) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseTokens(absl::string_view text,
                                                     absl::string_view path) {
  std::vector<std::string> tokens;
  int number = 0;
  for (const absl::string_view raw : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::string_view line = absl::StripAsciiWhitespace(raw);
    if (line.empty()) continue;
    const bool printable =
        std::all_of(line.begin(), line.end(), [](char c) { return absl::ascii_isgraph(c); });
    if (line.size() < kTokenBytesMin || line.size() > kTokenBytesMax || !printable) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", number, ": expected a token of ",
                                                     kTokenBytesMin, " to ", kTokenBytesMax,
                                                     " printable characters without blanks"));
    }
    if (tokens.size() == kTokensMax) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": expected at most ", kTokensMax, " tokens, one a line"));
    }
    tokens.emplace_back(line);
  }
  if (tokens.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a token, found none"));
  }
  return tokens;
}

TokenFile::TokenFile(FileSystem* files, std::string path) : files_(files), path_(std::move(path)) {}

absl::Status TokenFile::Check() {
  ASSIGN_OR_RETURN(const std::string text, files_->ReadFile(path_, kTokenFileBytesMax));
  return ParseTokens(text, path_).status();
}

void TokenFile::Refresh(absl::Time now) {
  if (now - read_ < kReadEvery) return;
  read_ = now;
  tokens_.clear();
  digests_.clear();
  const absl::StatusOr<std::string> text = files_->ReadFile(path_, kTokenFileBytesMax);
  if (!text.ok()) return;
  absl::StatusOr<std::vector<std::string>> tokens = ParseTokens(*text, path_);
  if (!tokens.ok()) return;
  tokens_ = *std::move(tokens);
  for (const std::string& token : tokens_) digests_.push_back(Digest(token));
}

std::string TokenFile::First(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Refresh(now);
  return tokens_.empty() ? std::string() : tokens_.front();
}

bool TokenFile::Accepts(absl::string_view token, absl::Time now) {
  // Digests are of one length whatever was sent, and all are compared, equal or not.
  const std::string sent = Digest(token);
  absl::MutexLock lock(&mutex_);
  Refresh(now);
  unsigned accepted = 0;
  for (const std::string& digest : digests_) {
    accepted |= CRYPTO_memcmp(digest.data(), sent.data(), digest.size()) == 0 ? 1u : 0u;
  }
  return accepted != 0;
}

}  // namespace crescendo
