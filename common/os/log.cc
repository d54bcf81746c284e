#include "common/os/log.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"

namespace crescendo {
namespace {

constexpr size_t kValueBytesMax = 8192;

// What is shown of a long value: not a part of a UTF-8 character.
absl::string_view CutText(absl::string_view value) {
  value = value.substr(0, kValueBytesMax);
  while (!value.empty() && (static_cast<unsigned char>(value.back()) & 0xc0) == 0x80) {
    value.remove_suffix(1);
  }
  if (!value.empty() && static_cast<unsigned char>(value.back()) >= 0xc0) value.remove_suffix(1);
  return value;
}

// Bare when a logfmt reader takes it for one word; quoted and escaped as in Go's strconv otherwise.
void AppendValue(std::string* out, absl::string_view value) {
  const bool cut = value.size() > kValueBytesMax;
  if (cut) value = CutText(value);
  bool bare = !value.empty() && !cut;
  for (const char c : value) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte <= ' ' || c == '"' || c == '=' || c == '\\' || byte == 0x7f) bare = false;
  }
  if (bare) {
    out->append(value.data(), value.size());
    return;
  }
  out->push_back('"');
  for (const char c : value) {
    const unsigned char byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        out->append("\\\"");
        break;
      case '\\':
        out->append("\\\\");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      default:
        if (byte < ' ' || byte == 0x7f) {
          absl::StrAppendFormat(out, "\\x%02x", byte);
        } else {
          out->push_back(c);
        }
    }
  }
  if (cut) out->append("...");
  out->push_back('"');
}

// Keys are ours; what would break the line is replaced.
void AppendField(std::string* out, absl::string_view key, absl::string_view value) {
  out->push_back(' ');
  for (const char c : key) {
    const bool plain = static_cast<unsigned char>(c) > ' ' && c != '=' && c != '"' && c != 0x7f;
    out->push_back(plain ? c : '_');
  }
  out->push_back('=');
  AppendValue(out, value);
}

void AppendJsonText(std::string* out, absl::string_view value) {
  const bool cut = value.size() > kValueBytesMax;
  if (cut) value = CutText(value);
  out->push_back('"');
  for (const char c : value) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(c);
    } else if (byte < ' ' || byte == 0x7f) {
      absl::StrAppendFormat(out, "\\u%04x", byte);
    } else {
      out->push_back(c);
    }
  }
  if (cut) out->append("...");
  out->push_back('"');
}

// A number that JSON has (inf and nan are texts there) or a truth value.
bool IsJsonBare(const LogValue& value) {
  return value.bare() && value.text().find("nan") == std::string::npos &&
         value.text().find("inf") == std::string::npos;
}

void AppendJsonField(std::string* out, absl::string_view key, const LogValue& value) {
  out->push_back(',');
  AppendJsonText(out, key);
  out->push_back(':');
  if (IsJsonBare(value)) {
    out->append(value.text());
  } else {
    AppendJsonText(out, value.text());
  }
}

void AppendAny(std::string* out, LogFormat format, absl::string_view key, const LogValue& value) {
  if (format == LogFormat::kJson) {
    AppendJsonField(out, key, value);
  } else {
    AppendField(out, key, value.text());
  }
}

absl::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kError:
      return "error";
  }
  return "unknown";
}

class EpochClock : public Clock {
 public:
  absl::Time Now() override { return absl::UnixEpoch(); }
  void SleepFor(absl::Duration) override {}
};

}  // namespace

std::optional<LogLevel> ParseLogLevel(absl::string_view name) {
  for (const LogLevel level :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn, LogLevel::kError}) {
    if (name == LevelName(level)) return level;
  }
  return std::nullopt;
}

std::optional<LogFormat> ParseLogFormat(absl::string_view name) {
  if (name == "logfmt") return LogFormat::kLogfmt;
  if (name == "json") return LogFormat::kJson;
  return std::nullopt;
}

LogSink StderrSink() {
  return [](absl::string_view line) {
    while (!line.empty()) {
      const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return;  // There is nobody left to tell.
      line.remove_prefix(static_cast<size_t>(written));
    }
  };
}

Logger::Logger(absl::string_view service, absl::string_view instance, LogLevel level, Clock* clock,
               LogSink sink, LogFormat format)
    : level_(level), format_(format), clock_(clock), shared_(std::make_shared<Shared>()) {
  shared_->sink = std::move(sink);
  AppendAny(&fixed_fields_, format_, "service", service);
  AppendAny(&fixed_fields_, format_, "instance", instance);
}

Logger Logger::With(std::initializer_list<LogField> fields) const {
  Logger with = *this;
  for (const LogField& field : fields) {
    AppendAny(&with.fixed_fields_, format_, field.key, field.value);
  }
  return with;
}

void Logger::SetRun(absl::string_view run) const {
  absl::MutexLock lock(&shared_->mutex);
  shared_->run = std::string(run);
}

std::string Logger::run() const {
  absl::MutexLock lock(&shared_->mutex);
  return shared_->run;
}

void Logger::Debug(absl::string_view message, std::initializer_list<LogField> fields) const {
  Log(LogLevel::kDebug, message, fields);
}
void Logger::Info(absl::string_view message, std::initializer_list<LogField> fields) const {
  Log(LogLevel::kInfo, message, fields);
}
void Logger::Warn(absl::string_view message, std::initializer_list<LogField> fields) const {
  Log(LogLevel::kWarn, message, fields);
}
void Logger::Error(absl::string_view message, std::initializer_list<LogField> fields) const {
  Log(LogLevel::kError, message, fields);
}

void Logger::Log(LogLevel level, absl::string_view message,
                 std::initializer_list<LogField> fields) const {
  if (!Enabled(level)) return;
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", clock_->Now(), absl::UTCTimeZone());
  const bool json = format_ == LogFormat::kJson;
  std::string line = json ? absl::StrCat("{\"time\":\"", time, "\",\"level\":\"", LevelName(level),
                                         "\"", fixed_fields_)
                          : absl::StrCat("time=", time, " level=", LevelName(level), fixed_fields_);
  if (const std::string of = run(); !of.empty()) AppendAny(&line, format_, "run", of);
  AppendAny(&line, format_, "msg", message);
  for (const LogField& field : fields) AppendAny(&line, format_, field.key, field.value);
  line.append(json ? "}\n" : "\n");
  shared_->sink(line);
}

Logger NullLogger() {
  static EpochClock clock;  // Without state.
  return Logger("none", "none", LogLevel::kError, &clock, [](absl::string_view) {});
}

}  // namespace crescendo
