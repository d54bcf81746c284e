// A journal in memory: what a crash of the coordinator leaves behind in a simulation. A failure can
// be asked for. Not thread-safe.
#ifndef CRESCENDO_TESTS_SUPPORT_MEMORY_JOURNAL_H_
#define CRESCENDO_TESTS_SUPPORT_MEMORY_JOURNAL_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "services/coordinator/journal.h"

namespace crescendo {

class MemoryJournal : public Journal {
 public:
  absl::StatusOr<JournalImage> Load() override { return image_; }
  absl::Status Append(absl::Span<const JournalRecord> records) override {
    if (!next_error_.ok()) return std::exchange(next_error_, absl::OkStatus());
    for (const JournalRecord& record : records) image_.Apply(record);
    return absl::OkStatus();
  }

  const JournalImage& image() const { return image_; }
  // The next Append fails with `error` and writes nothing.
  void FailNext(absl::Status error) { next_error_ = std::move(error); }

 private:
  JournalImage image_;
  absl::Status next_error_;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_MEMORY_JOURNAL_H_
