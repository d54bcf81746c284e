// The command line that every service shares:
//
//   --config FILE            the run's TOML file (required)
//   --section.key=value      overrides a key; --stage.0.context_tokens=64 one of a stage
//   --log-format FORMAT      logfmt or json, the same as --log.format
//   --dry-run                prints the effective configuration and what would run, and ends
//   --help, --version
//
// and the exit status of a program: 0 done, 1 failed, 2 something that its user can put right.
#ifndef CRESCENDO_COMMON_CONFIG_COMMAND_LINE_H_
#define CRESCENDO_COMMON_CONFIG_COMMAND_LINE_H_

#include <functional>
#include <optional>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/config/run_config.h"
#include "common/os/env.h"

namespace crescendo {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUser = 2;

// kExitUser for what the user can put right (a wrong value, a missing file, a port in use, a
// service that cannot be reached, a broken model file), kExitFailed for the rest, kExitOk for OK.
int ExitCode(const absl::Status& status);

struct ServiceDescription {
  absl::string_view name;     // crescendo-learner
  absl::string_view purpose;  // one line for --help
  // What would run with this configuration, in a few lines, for --dry-run; an error (a model file
  // that cannot be read) ends the dry run with it. May be empty.
  std::function<absl::StatusOr<std::string>(const RunConfig&)> dry_run;
};

// The configuration to run with; nullopt when the process has to end now with `*exit_code` (help,
// version, a dry run, or an error, which then stands on `err`).
std::optional<RunConfig> ParseServiceCommandLine(int argc, const char* const* argv,
                                                 const ServiceDescription& service,
                                                 FileSystem& files, std::ostream& out,
                                                 std::ostream& err, int* exit_code);

// "NAME: error: MESSAGE" on `err`; returns ExitCode(status). For the end of a main.
int ReportError(absl::string_view name, const absl::Status& status, std::ostream& err);

// The version of the build: "crescendo-learner 0.1.0 (protocol 1)".
std::string VersionText(absl::string_view name);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_CONFIG_COMMAND_LINE_H_
