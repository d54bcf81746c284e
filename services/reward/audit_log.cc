#include "services/reward/audit_log.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"

namespace crescendo {

AuditLog::AuditLog(AuditOptions options, FileSystem* files)
    : options_(std::move(options)), files_(*files) {}

bool AuditLog::Samples(absl::string_view response, absl::string_view reason) const {
  if (options_.path.empty() || reason == "byte_match") return false;
  uint64_t hash = MixSeed(response.size(), 0xa0d17);
  for (size_t i = response.size() > 256 ? response.size() - 256 : 0; i < response.size(); ++i) {
    hash = MixSeed(hash, static_cast<uint8_t>(response[i]));
  }
  return static_cast<double>(hash >> 11) * 0x1p-53 < options_.rate;
}

void AuditLog::Write(absl::string_view line) {
  absl::MutexLock lock(&mutex_);
  const absl::Status status = Append(line);
  if (!status.ok() && error_.ok()) error_ = status;
}

absl::Status AuditLog::TakeError() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(error_, absl::OkStatus());
}

absl::Status AuditLog::Append(absl::string_view line) {
  if (file_ != nullptr && bytes_ + static_cast<int64_t>(line.size()) > options_.bytes_max)
    RETURN_IF_ERROR(Rotate());
  if (file_ == nullptr) {
    bytes_ = files_.Exists(options_.path) ? files_.FileSize(options_.path).value_or(0) : 0;
    ASSIGN_OR_RETURN(file_, files_.OpenAppend(options_.path));
  }
  bytes_ += static_cast<int64_t>(line.size()) + 1;
  return file_->Append(absl::StrCat(line, "\n"));
}

absl::Status AuditLog::Rotate() {
  file_.reset();
  for (int i = options_.files_max - 1; i > 0; --i) {
    const std::string from = i == 1 ? options_.path : absl::StrCat(options_.path, ".", i - 1);
    if (files_.Exists(from))
      RETURN_IF_ERROR(files_.Rename(from, absl::StrCat(options_.path, ".", i)));
  }
  if (options_.files_max == 1) RETURN_IF_ERROR(files_.Remove(options_.path));
  return absl::OkStatus();
}

}  // namespace crescendo
