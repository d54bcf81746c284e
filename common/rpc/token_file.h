// Bearer tokens in a file: one a line, read again when it changes.
//
// A process sends the first line of its own file; a service accepts every line of the file of a
// role. So a token is replaced without a gap: add the new one as a further line where it is
// accepted, make it the first line where it is sent, then take the old line away.
//
// Thread-safe. A file that is gone or cannot be read holds no token: what cannot be checked is
// refused.
#ifndef CRESCENDO_COMMON_RPC_TOKEN_FILE_H_
#define CRESCENDO_COMMON_RPC_TOKEN_FILE_H_

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/os/env.h"

namespace crescendo {

// The tokens of a file's text: lines without the blanks around them, empty ones left out.
// InvalidArgument (which never shows a token) when there is none, more than kTokensMax, or one
// that is not 16 to 4096 printable characters.
absl::StatusOr<std::vector<std::string>> ParseTokens(absl::string_view text,
                                                     absl::string_view path);

class TokenFile {
 public:
  // `files` outlives this.
  TokenFile(FileSystem* files, std::string path);

  // Reads now: for a start that must fail when the file is no good.
  absl::Status Check();
  // The first line, or "" when there is none. Reads the file when that was long ago.
  std::string First(absl::Time now);
  // Whether a line is `token`. The time it takes does not depend on the tokens' bytes.
  bool Accepts(absl::string_view token, absl::Time now);

 private:
  void Refresh(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  FileSystem* const files_;
  const std::string path_;
  absl::Mutex mutex_;
  std::vector<std::string> tokens_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> digests_ ABSL_GUARDED_BY(mutex_);  // SHA-256 of each
  absl::Time read_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_TOKEN_FILE_H_
