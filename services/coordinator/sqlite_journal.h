// The journal in a SQLite database.
//
// - Write-ahead log, synchronous = FULL: an Append that returned OK survives a power loss, not only
//   a crash of the process. NORMAL would be faster but may lose the last transactions with the
//   power, and the learner's checkpoint could then hold steps whose plans nobody knows. The adapter
//   pays one sync for a whole batch of events, so that FULL costs little (the README has figures).
// - The database is locked for as long as it is open: a second coordinator on the same run is
//   refused.
// - The schema's version stands in user_version; every row carries a CRC-32C over its fields, since
//   SQLite itself does not notice a flipped bit in a value.
//
// Not thread-safe; one thread owns it. All functions block on the disk.
#ifndef CRESCENDO_SERVICES_COORDINATOR_SQLITE_JOURNAL_H_
#define CRESCENDO_SERVICES_COORDINATOR_SQLITE_JOURNAL_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "services/coordinator/journal.h"

namespace crescendo {

class SqliteJournal : public Journal {
 public:
  // Opens the database, making it when it is not there (its folder must be). ALREADY_EXISTS another
  // process has it open; FAILED_PRECONDITION written by another version; NOT_FOUND the folder is
  // missing; others as of Append.
  static absl::StatusOr<std::unique_ptr<SqliteJournal>> Open(const std::string& path);
  ~SqliteJournal() override;

  absl::StatusOr<JournalImage> Load() override;
  absl::Status Append(absl::Span<const JournalRecord> records) override;

 private:
  class Database;
  explicit SqliteJournal(std::unique_ptr<Database> database);

  std::unique_ptr<Database> database_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_SQLITE_JOURNAL_H_
