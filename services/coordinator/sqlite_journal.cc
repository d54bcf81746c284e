#include "services/coordinator/sqlite_journal.h"

#include <sqlite3.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/status_macros.h"
#include "services/coordinator/journal_fields.h"

namespace crescendo {

namespace {

constexpr int kSchemaVersion = 4;
constexpr int kApplicationId = 0x43524443;  // "CRDC"

// A field as SQLite's two storage classes: everything but doubles and strings is an integer.
template <typename T>
int64_t ToInteger(const T& value) {
  if constexpr (std::is_same_v<T, GroupId> || std::is_same_v<T, LeaseId>) {
    return static_cast<int64_t>(value.value());
  } else {
    return static_cast<int64_t>(value);
  }
}
template <typename T>
void FromInteger(int64_t integer, T& value) {
  if constexpr (std::is_same_v<T, GroupId> || std::is_same_v<T, LeaseId>) {
    value = T(static_cast<uint64_t>(integer));
  } else {
    value = static_cast<T>(integer);
  }
}
template <typename T>
constexpr const char* SqlType() {
  if constexpr (std::is_same_v<T, double>) return "REAL";
  if constexpr (std::is_same_v<T, std::string>) return "TEXT NOT NULL";
  return "INTEGER NOT NULL";
}

// SQLite keeps no NaN (it becomes NULL) and no negative zero.
double Canonical(double value) {
  if (std::isnan(value)) return std::numeric_limits<double>::quiet_NaN();
  return value == 0 ? 0.0 : value;
}

// The checksum of a row: over its fields in order, little-endian, strings with their length.
template <typename Row>
uint32_t RowCrc(Row& row) {
  std::string bytes;
  const auto add = [&bytes](uint64_t value) {
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  };
  Fields(row, [&](const char*, auto& field) {
    using T = std::decay_t<decltype(field)>;
    if constexpr (std::is_same_v<T, double>) {
      add(std::bit_cast<uint64_t>(Canonical(field)));
    } else if constexpr (std::is_same_v<T, std::string>) {
      add(field.size());
      bytes += field;
    } else {
      add(static_cast<uint64_t>(ToInteger(field)));
    }
  });
  return Crc32c(bytes);
}

absl::Status ToStatus(int code, absl::string_view what) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(absl::StrCat(what, ": free space and start again"));
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return absl::PermissionDeniedError(what);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(
          absl::StrCat(what, ": put a backup back, or start the run in a new folder"));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::AlreadyExistsError(absl::StrCat(what, ": another process has it open"));
    case SQLITE_CANTOPEN:
      return absl::NotFoundError(absl::StrCat(what, ": the folder is missing or must not be read"));
    default:
      return absl::UnavailableError(what);
  }
}

// Where keys stand as unsigned numbers, from one on: a signed comparison in two ranges.
std::string KeysFrom(JournalTable table, const char* key) {
  const bool has_evaluation_ids =
      table == JournalTable::kGroup || table == JournalTable::kEvaluationOutcome;
  if (!has_evaluation_ids) return absl::StrCat(key, " >= ?1");
  if (table == JournalTable::kGroup) {
    return absl::StrCat(key, " >= ?1 AND (", key, " < 0) = (?1 < 0)");
  }
  return absl::StrCat("CASE WHEN ?1 < 0 THEN ", key, " < 0 AND ", key, " >= ?1 ELSE ", key,
                      " >= ?1 OR ", key, " < 0 END");
}

}  // namespace

// The connection and its prepared statements.
class SqliteJournal::Database {
 public:
  explicit Database(std::string path) : path_(std::move(path)) {}
  ~Database() {
    for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
    sqlite3_close(handle_);
  }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  absl::Status Open();
  absl::Status CheckSchema();
  absl::Status Execute(const std::string& sql, absl::string_view operation);
  template <typename Row>
  absl::Status Put(const Row& row);
  absl::Status Truncate(const TruncateOp& op);
  absl::Status EraseGroup(GroupId group);
  template <typename Row, typename Take>
  absl::Status ReadAll(Take take);
  absl::StatusOr<int64_t> ReadInteger(const std::string& sql);
  absl::StatusOr<std::string> ReadText(const std::string& sql);

 private:
  absl::Status Error(int code, absl::string_view operation) const {
    return ToStatus(
        code, absl::StrCat("journal ", path_, ": ", operation, ": ",
                           handle_ != nullptr ? sqlite3_errmsg(handle_) : sqlite3_errstr(code)));
  }
  absl::StatusOr<sqlite3_stmt*> Prepare(const std::string& sql);
  absl::Status Step(sqlite3_stmt* statement, absl::string_view operation);
  template <typename Row>
  absl::Status CreateTable();

  const std::string path_;
  sqlite3* handle_ = nullptr;
  std::map<std::string, sqlite3_stmt*> statements_;
};

absl::Status SqliteJournal::Database::Open() {
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  const int code = sqlite3_open_v2(path_.c_str(), &handle_, flags, nullptr);
  if (code != SQLITE_OK) return Error(code, "open");
  sqlite3_extended_result_codes(handle_, 1);
  if (sqlite3_db_readonly(handle_, "main") == 1) {
    return absl::PermissionDeniedError(
        absl::StrCat("journal ", path_, ": open: the file or its folder is read-only"));
  }
  RETURN_IF_ERROR(Execute("PRAGMA locking_mode = EXCLUSIVE", "lock"));
  RETURN_IF_ERROR(Execute("PRAGMA journal_mode = WAL", "switch to the write-ahead log"));
  ASSIGN_OR_RETURN(const std::string mode, ReadText("PRAGMA journal_mode"));
  if (mode != "wal") {
    return absl::UnavailableError(
        absl::StrCat("journal ", path_, ": the disk takes no write-ahead log (mode ", mode, ")"));
  }
  RETURN_IF_ERROR(Execute("PRAGMA synchronous = FULL", "open"));
  // Takes the lock now, and finds out whether the disk can be written to.
  return Execute("BEGIN IMMEDIATE; COMMIT", "lock");
}

template <typename Row>
absl::Status SqliteJournal::Database::CreateTable() {
  std::string columns;
  Row row;
  Fields(row, [&columns](const char* name, auto& field) {
    using T = std::decay_t<decltype(field)>;
    absl::StrAppend(&columns, columns.empty() ? "" : ", ", name, " ",
                    columns.empty() ? "INTEGER PRIMARY KEY" : SqlType<T>());
  });
  return Execute(
      absl::StrCat("CREATE TABLE ", kTable<Row>, " (", columns, ", crc INTEGER NOT NULL)"),
      "create");
}

absl::Status SqliteJournal::Database::CheckSchema() {
  ASSIGN_OR_RETURN(const int64_t version, ReadInteger("PRAGMA user_version"));
  ASSIGN_OR_RETURN(const int64_t application, ReadInteger("PRAGMA application_id"));
  ASSIGN_OR_RETURN(const int64_t tables, ReadInteger("SELECT count(*) FROM sqlite_master"));
  if (version == 0 && application == 0 && tables == 0) {
    RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE", "create"));
    RETURN_IF_ERROR(CreateTable<RunRow>());
    RETURN_IF_ERROR(CreateTable<ScalarsRow>());
    RETURN_IF_ERROR(CreateTable<PlanRow>());
    RETURN_IF_ERROR(CreateTable<GroupRow>());
    RETURN_IF_ERROR(CreateTable<OutcomeRow>());
    RETURN_IF_ERROR(CreateTable<StepRow>());
    RETURN_IF_ERROR(CreateTable<StageRow>());
    RETURN_IF_ERROR(CreateTable<RoundRow>());
    RETURN_IF_ERROR(CreateTable<EvaluationOutcomeRow>());
    RETURN_IF_ERROR(CreateTable<EvaluationRow>());
    return Execute(absl::StrCat("PRAGMA user_version = ", kSchemaVersion,
                                "; PRAGMA application_id = ", kApplicationId, "; COMMIT"),
                   "create");
  }
  if (application != kApplicationId) {
    return absl::FailedPreconditionError(
        absl::StrCat("journal ", path_, ": open: it is a database of another program"));
  }
  if (version != kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("journal ", path_, ": open: its schema has version ", version,
                     ", this build reads and writes ", kSchemaVersion));
  }
  ASSIGN_OR_RETURN(const std::string check, ReadText("PRAGMA quick_check(1)"));
  if (check != "ok") return Error(SQLITE_CORRUPT, absl::StrCat("check: ", check));
  return absl::OkStatus();
}

absl::Status SqliteJournal::Database::Execute(const std::string& sql, absl::string_view operation) {
  const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code, operation);
}

absl::StatusOr<sqlite3_stmt*> SqliteJournal::Database::Prepare(const std::string& sql) {
  auto found = statements_.find(sql);
  if (found != statements_.end()) return found->second;
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v3(handle_, sql.c_str(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK) return Error(code, "prepare");
  statements_[sql] = statement;
  return statement;
}

absl::Status SqliteJournal::Database::Step(sqlite3_stmt* statement, absl::string_view operation) {
  const int code = sqlite3_step(statement);
  absl::Status status =
      code == SQLITE_DONE || code == SQLITE_ROW ? absl::OkStatus() : Error(code, operation);
  sqlite3_reset(statement);
  return status;
}

absl::StatusOr<int64_t> SqliteJournal::Database::ReadInteger(const std::string& sql) {
  ASSIGN_OR_RETURN(sqlite3_stmt * statement, Prepare(sql));
  const int code = sqlite3_step(statement);
  const int64_t value = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
  sqlite3_reset(statement);
  if (code != SQLITE_ROW) return Error(code, "read");
  return value;
}

absl::StatusOr<std::string> SqliteJournal::Database::ReadText(const std::string& sql) {
  ASSIGN_OR_RETURN(sqlite3_stmt * statement, Prepare(sql));
  const int code = sqlite3_step(statement);
  std::string value;
  if (code == SQLITE_ROW) {
    value.assign(reinterpret_cast<const char*>(sqlite3_column_text(statement, 0)),
                 sqlite3_column_bytes(statement, 0));
  }
  sqlite3_reset(statement);
  if (code != SQLITE_ROW) return Error(code, "read");
  return value;
}

template <typename Row>
absl::Status SqliteJournal::Database::Put(const Row& const_row) {
  Row& row = const_cast<Row&>(const_row);  // Fields visits by reference; nothing is written here
  static const std::string sql = [] {
    Row any;
    std::string marks;
    Fields(any, [&marks](const char*, auto&) { marks += "?,"; });
    return absl::StrCat("INSERT OR REPLACE INTO ", kTable<Row>, " VALUES (", marks, "?)");
  }();
  ASSIGN_OR_RETURN(sqlite3_stmt * statement, Prepare(sql));
  int column = 1;
  Fields(row, [&](const char*, auto& field) {
    using T = std::decay_t<decltype(field)>;
    if constexpr (std::is_same_v<T, double>) {
      sqlite3_bind_double(statement, column, field);
    } else if constexpr (std::is_same_v<T, std::string>) {
      sqlite3_bind_text64(statement, column, field.data(), field.size(), SQLITE_STATIC,
                          SQLITE_UTF8);
    } else {
      sqlite3_bind_int64(statement, column, ToInteger(field));
    }
    ++column;
  });
  sqlite3_bind_int64(statement, column, RowCrc(row));
  return Step(statement, "write");
}

absl::Status SqliteJournal::Database::Truncate(const TruncateOp& op) {
  const auto [table, key] = [&op]() -> std::pair<const char*, const char*> {
    switch (op.table) {
      case JournalTable::kPlan:
        return {kTable<PlanRow>, "step"};
      case JournalTable::kGroup:
        return {kTable<GroupRow>, "group_id"};
      case JournalTable::kOutcome:
        return {kTable<OutcomeRow>, "group_id"};
      case JournalTable::kStep:
        return {kTable<StepRow>, "step"};
      case JournalTable::kStage:
        return {kTable<StageRow>, "entry"};
      case JournalTable::kRound:
        return {kTable<RoundRow>, "step"};
      case JournalTable::kEvaluationOutcome:
        return {kTable<EvaluationOutcomeRow>, "group_id"};
      case JournalTable::kEvaluation:
        return {kTable<EvaluationRow>, "entry"};
    }
    return {"", ""};
  }();
  ASSIGN_OR_RETURN(sqlite3_stmt * statement, Prepare(absl::StrCat("DELETE FROM ", table, " WHERE ",
                                                                  KeysFrom(op.table, key))));
  sqlite3_bind_int64(statement, 1, static_cast<int64_t>(op.from_key));
  return Step(statement, "write");
}

absl::Status SqliteJournal::Database::EraseGroup(GroupId group) {
  static const std::string sql =
      absl::StrCat("DELETE FROM ", kTable<GroupRow>, " WHERE group_id = ?1");
  ASSIGN_OR_RETURN(sqlite3_stmt * statement, Prepare(sql));
  sqlite3_bind_int64(statement, 1, ToInteger(group));
  return Step(statement, "write");
}

template <typename Row, typename Take>
absl::Status SqliteJournal::Database::ReadAll(Take take) {
  ASSIGN_OR_RETURN(sqlite3_stmt * statement, Prepare(absl::StrCat("SELECT * FROM ", kTable<Row>)));
  int code = SQLITE_ROW;
  absl::Status status;
  while (status.ok() && (code = sqlite3_step(statement)) == SQLITE_ROW) {
    Row row;
    int column = 0;
    Fields(row, [&](const char*, auto& field) {
      using T = std::decay_t<decltype(field)>;
      if constexpr (std::is_same_v<T, double>) {
        field = sqlite3_column_type(statement, column) == SQLITE_NULL
                    ? std::numeric_limits<double>::quiet_NaN()
                    : sqlite3_column_double(statement, column);
      } else if constexpr (std::is_same_v<T, std::string>) {
        const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement, column));
        if (text != nullptr) field.assign(text, sqlite3_column_bytes(statement, column));
      } else {
        FromInteger(sqlite3_column_int64(statement, column), field);
      }
      ++column;
    });
    if (RowCrc(row) != static_cast<uint32_t>(sqlite3_column_int64(statement, column))) {
      status =
          ToStatus(SQLITE_CORRUPT, absl::StrCat("journal ", path_, ": read: table ", kTable<Row>,
                                                ", key ", sqlite3_column_int64(statement, 0),
                                                ": the row's checksum does not hold"));
    } else {
      take(std::move(row));
    }
  }
  sqlite3_reset(statement);
  if (status.ok() && code != SQLITE_DONE) return Error(code, "read");
  return status;
}

SqliteJournal::SqliteJournal(std::unique_ptr<Database> database) : database_(std::move(database)) {}
SqliteJournal::~SqliteJournal() = default;

absl::StatusOr<std::unique_ptr<SqliteJournal>> SqliteJournal::Open(const std::string& path) {
  auto database = std::make_unique<Database>(path);
  RETURN_IF_ERROR(database->Open());
  RETURN_IF_ERROR(database->CheckSchema());
  return std::unique_ptr<SqliteJournal>(new SqliteJournal(std::move(database)));
}

absl::StatusOr<JournalImage> SqliteJournal::Load() {
  JournalImage image;
  const auto apply = [&image](auto row) { image.Apply(std::move(row)); };
  RETURN_IF_ERROR(database_->ReadAll<RunRow>(apply));
  RETURN_IF_ERROR(database_->ReadAll<ScalarsRow>(apply));
  RETURN_IF_ERROR(database_->ReadAll<PlanRow>(apply));
  RETURN_IF_ERROR(database_->ReadAll<GroupRow>(apply));
  RETURN_IF_ERROR(database_->ReadAll<OutcomeRow>(apply));
  RETURN_IF_ERROR(database_->ReadAll<StepRow>(apply));
  RETURN_IF_ERROR(database_->ReadAll<StageRow>(apply));
  RETURN_IF_ERROR(database_->ReadAll<RoundRow>(apply));
  RETURN_IF_ERROR(database_->ReadAll<EvaluationOutcomeRow>(apply));
  RETURN_IF_ERROR(database_->ReadAll<EvaluationRow>(apply));
  return image;
}

absl::Status SqliteJournal::Append(absl::Span<const JournalRecord> records) {
  if (records.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(database_->Execute("BEGIN IMMEDIATE", "begin"));
  absl::Status status;
  for (const JournalRecord& record : records) {
    status = std::visit(
        [this](const auto& row) {
          using Row = std::decay_t<decltype(row)>;
          if constexpr (std::is_same_v<Row, TruncateOp>) {
            return database_->Truncate(row);
          } else if constexpr (std::is_same_v<Row, EraseGroupOp>) {
            return database_->EraseGroup(row.group);
          } else {
            return database_->Put(row);
          }
        },
        record);
    if (!status.ok()) break;
  }
  if (status.ok()) status = database_->Execute("COMMIT", "commit");
  // An error may have ended the transaction already; then there is nothing to roll back.
  if (!status.ok()) (void)database_->Execute("ROLLBACK", "roll back");
  return status;
}

}  // namespace crescendo
