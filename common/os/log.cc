#include "common/os/log.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"

namespace crescendo {
namespace {

constexpr size_t kValueBytesMax = 8192;

// Bare when a logfmt reader takes it for one word; quoted and escaped as in Go's strconv otherwise.
void AppendValue(std::string* out, absl::string_view value) {
  const bool cut = value.size() > kValueBytesMax;
  if (cut) {
    value = value.substr(0, kValueBytesMax);
    // Not in the middle of a UTF-8 character.
    while (!value.empty() && (static_cast<unsigned char>(value.back()) & 0xc0) == 0x80) {
      value.remove_suffix(1);
    }
    if (!value.empty() && static_cast<unsigned char>(value.back()) >= 0xc0) value.remove_suffix(1);
  }
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
               LogSink sink)
    : level_(level), clock_(clock), sink_(std::make_shared<const LogSink>(std::move(sink))) {
  AppendField(&fixed_fields_, "service", service);
  AppendField(&fixed_fields_, "instance", instance);
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
  std::string line =
      absl::FormatTime("time=%Y-%m-%dT%H:%M:%E3SZ", clock_->Now(), absl::UTCTimeZone());
  absl::StrAppend(&line, " level=", LevelName(level), fixed_fields_);
  AppendField(&line, "msg", message);
  for (const LogField& field : fields) AppendField(&line, field.key, field.value.text());
  line.push_back('\n');
  (*sink_)(line);
}

Logger NullLogger() {
  static EpochClock clock;  // Without state.
  return Logger("none", "none", LogLevel::kError, &clock, [](absl::string_view) {});
}

}  // namespace crescendo
