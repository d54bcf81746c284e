// The journal on a real disk: what is written comes back, and what is broken is said to be.
#include "services/coordinator/sqlite_journal.h"

#include <sqlite3.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

std::vector<JournalRecord> SomeRecords() {
  StepRow step;
  step.step = 3;
  step.stage = 1;
  step.reported = true;
  step.metrics.loss = std::numeric_limits<double>::infinity();
  step.metrics.generated_tokens = ~uint64_t{0};
  step.metrics.skipped = true;
  GroupRow group;
  group.group = EvaluationGroup(3, 5);
  group.state = GroupRowState::kLeased;
  group.worker = "w'; DROP TABLE run; --";
  EvaluationRow evaluation;
  evaluation.step = 3;
  evaluation.pass_at_1 = 1.0 / 3;
  return {RunRow{"run", ~uint64_t{0}, "digest", "[run]\n", {~uint64_t{0}, 1}},
          step,
          group,
          evaluation,
          StageRow{},
          PlanRow{4, 1, 12, 4, 3, 1, 2, "3,4"}};
}

void RunSql(const std::string& path, const std::string& sql) {
  sqlite3* db = nullptr;
  REQUIRE(sqlite3_open(path.c_str(), &db) == SQLITE_OK);
  REQUIRE(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK);
  sqlite3_close(db);
}

std::string Written(const TempDir& dir, const char* name) {
  const std::string path = dir / name;
  auto journal = SqliteJournal::Open(path);
  REQUIRE(journal.ok());
  REQUIRE((*journal)->Append(SomeRecords()).ok());
  return path;
}

TEST_CASE("what was appended comes back, in all its bits") {
  TempDir dir;
  const std::string path = Written(dir, "j.sqlite");
  JournalImage expected;
  for (const JournalRecord& record : SomeRecords()) expected.Apply(record);
  auto journal = SqliteJournal::Open(path);
  REQUIRE(journal.ok());
  const auto image = (*journal)->Load();
  INFO(image.status().ToString());
  REQUIRE(image.ok());
  REQUIRE(DebugString(*image) == DebugString(expected));
  REQUIRE(image->run.config == "[run]\n");
}

TEST_CASE("NaN survives") {
  TempDir dir;
  auto journal = SqliteJournal::Open(dir / "j.sqlite");
  StepRow step;
  step.metrics.loss = std::numeric_limits<double>::quiet_NaN();
  REQUIRE((*journal)->Append({step}).ok());
  const auto image = (*journal)->Load();
  REQUIRE(image.ok());
  REQUIRE(std::isnan(image->steps.at(0).metrics.loss));
}

TEST_CASE("a second coordinator is refused") {
  TempDir dir;
  const auto first = SqliteJournal::Open(dir / "j.sqlite");
  REQUIRE(first.ok());
  const auto second = SqliteJournal::Open(dir / "j.sqlite");
  REQUIRE(second.status().code() == absl::StatusCode::kAlreadyExists);
  REQUIRE(absl::StrContains(second.status().message(), "another process has it open"));
}

TEST_CASE("a changed value is noticed: table and key are named") {
  TempDir dir;
  const std::string path = Written(dir, "j.sqlite");
  RunSql(path, "UPDATE plan SET first_group = 13 WHERE step = 4");
  auto journal = SqliteJournal::Open(path);
  REQUIRE(journal.ok());
  const auto image = (*journal)->Load();
  REQUIRE(image.status().code() == absl::StatusCode::kDataLoss);
  REQUIRE(absl::StrContains(image.status().message(), "table plan, key 4"));
}

TEST_CASE("bytes that are no database, another program's, another version's") {
  TempDir dir;
  std::ofstream(dir / "text.sqlite") << std::string(5000, 'x');
  const auto text = SqliteJournal::Open(dir / "text.sqlite");
  REQUIRE(text.status().code() == absl::StatusCode::kDataLoss);
  REQUIRE(absl::StrContains(text.status().message(), "text.sqlite"));

  RunSql(dir / "other.sqlite", "CREATE TABLE t (x)");
  const auto other = SqliteJournal::Open(dir / "other.sqlite");
  REQUIRE(other.status().code() == absl::StatusCode::kFailedPrecondition);

  const std::string newer = Written(dir, "newer.sqlite");
  RunSql(newer, "PRAGMA user_version = 99");
  const auto version = SqliteJournal::Open(newer);
  REQUIRE(version.status().code() == absl::StatusCode::kFailedPrecondition);
  REQUIRE(absl::StrContains(version.status().message(), "version 99"));

  REQUIRE(SqliteJournal::Open(dir / "no/such/folder/j.sqlite").status().code() ==
          absl::StatusCode::kNotFound);
}

TEST_CASE("any flipped byte gives an error or the same rows, never others") {
  TempDir dir;
  const std::string path = Written(dir, "j.sqlite");
  RunSql(path, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE");
  auto bytes = dir.files->ReadFile(path, 1 << 20);
  REQUIRE(bytes.ok());
  JournalImage expected;
  for (const JournalRecord& record : SomeRecords()) expected.Apply(record);
  int noticed = 0;
  for (size_t at = 0; at < bytes->size(); at += 251) {
    std::string broken = *bytes;
    broken[at] = static_cast<char>(broken[at] ^ 0x10);
    const std::string copy = dir / "copy.sqlite";
    REQUIRE(dir.files->WriteFile(copy, broken).ok());
    for (const char* suffix : {"-wal", "-shm", "-journal"}) {
      (void)dir.files->Remove(copy + suffix);
    }
    auto journal = SqliteJournal::Open(copy);
    if (!journal.ok()) {
      ++noticed;
      continue;
    }
    const auto image = (*journal)->Load();
    if (!image.ok()) {
      ++noticed;
      continue;
    }
    INFO("byte " << at);
    REQUIRE(DebugString(*image) == DebugString(expected));
  }
  REQUIRE(noticed >= 5);
}

TEST_CASE("a torn write-ahead log gives a prefix of the transactions") {
  TempDir dir;
  const std::string path = dir / "j.sqlite";
  {
    auto journal = SqliteJournal::Open(path);
    REQUIRE(journal.ok());
    for (int i = 0; i < 20; ++i) {
      StepRow step;
      step.step = i;
      REQUIRE((*journal)->Append({PlanRow{i, 0, uint64_t(i) * 4, 4, 0, 0, 0, "0"}, step}).ok());
    }
    // Copied while it is open: what a crash would leave.
    REQUIRE(dir.files->WriteFile(dir / "c.sqlite", *dir.files->ReadFile(path, 1 << 24)).ok());
    REQUIRE(dir.files->WriteFile(dir / "wal", *dir.files->ReadFile(path + "-wal", 1 << 24)).ok());
  }
  const std::string wal = *dir.files->ReadFile(dir / "wal", 1 << 24);
  const std::string main = *dir.files->ReadFile(dir / "c.sqlite", 1 << 24);
  size_t seen = 0;
  for (size_t length = 0; length <= wal.size(); length += 9001) {
    REQUIRE(dir.files->WriteFile(dir / "t.sqlite", main).ok());
    REQUIRE(dir.files->WriteFile(dir / "t.sqlite-wal", wal.substr(0, length)).ok());
    auto journal = SqliteJournal::Open(dir / "t.sqlite");
    if (!journal.ok()) continue;  // torn before the schema was there: says so
    const auto image = (*journal)->Load();
    REQUIRE(image.ok());
    REQUIRE(image->plans.size() == image->steps.size());
    REQUIRE(image->plans.size() >= seen);
    seen = image->plans.size();
    (*journal).reset();
    (void)dir.files->Remove(dir / "t.sqlite-shm");
  }
  REQUIRE(seen > 10);
}

TEST_CASE("a disk that takes no more is an error, and the rows before it stand") {
  TempDir dir;
  auto journal = SqliteJournal::Open(dir / "j.sqlite");
  REQUIRE(journal.ok());
  REQUIRE((*journal)->Append({PlanRow{0, 0, 0, 4, 0, 0, 0, "0"}}).ok());
  // The bound on a file's size stands for the full disk.
  struct rlimit before;
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  struct rlimit small = before;
  small.rlim_cur = 200'000;
  std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  StageRow large;
  large.entry = 1;
  large.reason = std::string(500'000, 'x');
  const absl::Status status = (*journal)->Append({large});
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  INFO(status.ToString());
  REQUIRE_FALSE(status.ok());
  REQUIRE(absl::StrContains(status.message(), "j.sqlite"));
  const auto image = (*journal)->Load();
  REQUIRE(image.ok());
  REQUIRE(image->plans.size() == 1);
  REQUIRE(image->stages.empty());
  REQUIRE((*journal)->Append({large}).ok());  // it can go on
}

// Opens every database for reading only, as a disk that was mounted so would.
int OpenForReading(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags,
                   int* flags_out) {
  if ((flags & SQLITE_OPEN_MAIN_DB) != 0) {
    flags = (flags & ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)) | SQLITE_OPEN_READONLY;
  }
  auto* real = static_cast<sqlite3_vfs*>(vfs->pAppData);
  return real->xOpen(real, name, file, flags, flags_out);
}

TEST_CASE("a database that must not be written is an error that names it") {
  TempDir dir;
  const std::string path = Written(dir, "j.sqlite");
  sqlite3_vfs* real = sqlite3_vfs_find(nullptr);
  REQUIRE(real != nullptr);
  sqlite3_vfs reading = *real;
  reading.zName = "reading";
  reading.pNext = nullptr;
  reading.pAppData = real;
  reading.xOpen = OpenForReading;
  REQUIRE(sqlite3_vfs_register(&reading, /*makeDflt=*/1) == SQLITE_OK);
  auto journal = SqliteJournal::Open(path);
  absl::Status status = journal.status();
  if (journal.ok()) status = (*journal)->Append({PlanRow{7, 0, 28, 4, 0, 0, 0, "0"}});
  journal = absl::UnavailableError("closed");
  REQUIRE(sqlite3_vfs_unregister(&reading) == SQLITE_OK);
  REQUIRE(sqlite3_vfs_register(real, /*makeDflt=*/1) == SQLITE_OK);
  INFO(status.ToString());
  REQUIRE(status.code() == absl::StatusCode::kPermissionDenied);
  REQUIRE(absl::StrContains(status.message(), "j.sqlite"));
  const auto again = SqliteJournal::Open(path);
  REQUIRE(again.ok());  // unharmed
  REQUIRE((*again)->Load().ok());
}

}  // namespace
}  // namespace crescendo
