// The audit log: verdicts that were no plain byte match, sampled, with what is needed to grade them
// again. JSON lines, rotated by size: PATH is the newest file, PATH.1 the one before, up to
// PATH.(files_max - 1).
//
//   {"time", "id", "kind", "gold", "problem", "response", "verdict", "reason", "reward",
//   "extracted", "micros"}
//
// Which answers are sampled depends on their contents only. Long texts are cut to their last
// kAuditTextBytesMax bytes (and "response_cut" says so). Thread-safe; Write blocks for as long as
// an append takes. An error is kept and reported once: grading goes on.
#ifndef CRESCENDO_SERVICES_REWARD_AUDIT_LOG_H_
#define CRESCENDO_SERVICES_REWARD_AUDIT_LOG_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/os/env.h"

namespace crescendo {

struct AuditOptions {
  std::string path;  // empty: no log
  double rate = 1;
  int64_t bytes_max = 64 << 20;
  int files_max = 4;
};

inline constexpr size_t kAuditTextBytesMax = 64 << 10;

class AuditLog {
 public:
  // `files` outlives the log.
  AuditLog(AuditOptions options, FileSystem* files);

  // Whether a verdict on this response belongs in the log.
  bool Samples(absl::string_view response, absl::string_view reason) const;
  // Appends one line (without a newline).
  void Write(absl::string_view line);
  // The first error since the last call.
  absl::Status TakeError();

 private:
  absl::Status Append(absl::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Rotate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const AuditOptions options_;
  FileSystem& files_;
  absl::Mutex mutex_;
  std::unique_ptr<AppendFile> file_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_AUDIT_LOG_H_
