// Structured logs: one line an event, logfmt or JSON, on standard error.
//
//   Logger log("learner", "learner-0", LogLevel::kInfo, clock, StderrSink());
//   log.Info("step done", {{"step", 7}, {"loss", 0.031}, {"status", status}});
//   time=2026-11-22T15:04:05.678Z level=info service=learner instance=learner-0 msg="step done"
//   step=7 loss=0.031
//   {"time":"2026-11-22T15:04:05.678Z","level":"info","service":"learner","instance":"learner-0",
//    "msg":"step done","step":7,"loss":0.031}
//
// Names of fields that mean the same everywhere: run, worker, group, sample, lease, step, version.
// `run` is in every line once a process knows it, `worker` in every line of a worker; the others
// stand in the lines that are about one. `step` of a checkpoint or of where a run goes on is the
// number of steps trained, which is the next one's index.
//
// A log is for people: nothing may read one to decide anything, tests included. Thread-safe; a line
// is written by one call, so lines do not mix. A copy is cheap and writes to the same sink. The
// clock outlives all copies.
#ifndef CRESCENDO_COMMON_OS_LOG_H_
#define CRESCENDO_COMMON_OS_LOG_H_

#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "common/base/clock.h"

namespace crescendo {

enum class LogLevel { kDebug = 0, kInfo, kWarn, kError };
enum class LogFormat { kLogfmt, kJson };

// "debug", "info", "warn", "error"; nullopt for anything else.
std::optional<LogLevel> ParseLogLevel(absl::string_view name);
// "logfmt", "json"; nullopt for anything else.
std::optional<LogFormat> ParseLogFormat(absl::string_view name);

// A value as text; made from numbers, bools, strings, durations and statuses.
class LogValue {
 public:
  template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
  LogValue(T value) : bare_(true) {  // NOLINT(google-explicit-constructor)
    if constexpr (std::is_same_v<T, bool>) {
      text_ = value ? "true" : "false";
    } else {
      text_ = absl::StrCat(value);
    }
  }
  LogValue(absl::string_view value) : text_(value) {}   // NOLINT(google-explicit-constructor)
  LogValue(const char* value) : text_(value) {}         // NOLINT(google-explicit-constructor)
  LogValue(const std::string& value) : text_(value) {}  // NOLINT(google-explicit-constructor)
  LogValue(absl::Duration value) : text_(absl::FormatDuration(value)) {}  // NOLINT
  LogValue(const absl::Status& value) : text_(value.ToString()) {}        // NOLINT
  const std::string& text() const { return text_; }
  // A number or a truth value.
  bool bare() const { return bare_; }

 private:
  std::string text_;
  bool bare_ = false;
};

struct LogField {
  absl::string_view key;
  LogValue value;
};

// Takes a whole line, newline included. Called from many threads at once.
using LogSink = std::function<void(absl::string_view line)>;
LogSink StderrSink();

class Logger {
 public:
  // `service` and `instance` stand in every line; `clock` must outlive the logger and its copies.
  Logger(absl::string_view service, absl::string_view instance, LogLevel level, Clock* clock,
         LogSink sink, LogFormat format = LogFormat::kLogfmt);

  // The same with further fields in every line.
  Logger With(std::initializer_list<LogField> fields) const;

  // From now on the lines of this logger and of all its copies say run=`run`.
  void SetRun(absl::string_view run) const;
  // What SetRun said last, for others that log for the same run; empty before.
  std::string run() const;

  void Debug(absl::string_view message, std::initializer_list<LogField> fields = {}) const;
  void Info(absl::string_view message, std::initializer_list<LogField> fields = {}) const;
  void Warn(absl::string_view message, std::initializer_list<LogField> fields = {}) const;
  void Error(absl::string_view message, std::initializer_list<LogField> fields = {}) const;

  // Whether lines of `level` are written: to skip the making of costly fields.
  bool Enabled(LogLevel level) const { return level >= level_; }

 private:
  struct Shared {
    LogSink sink;
    absl::Mutex mutex;
    std::string run ABSL_GUARDED_BY(mutex);
  };

  void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) const;

  LogLevel level_;
  LogFormat format_;
  Clock* clock_;
  std::string fixed_fields_;
  std::shared_ptr<Shared> shared_;
};

// A logger that writes nowhere: for tests.
Logger NullLogger();

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_OS_LOG_H_
