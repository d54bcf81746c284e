#include "common/config/command_line.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/edit_distance.h"

namespace crescendo {
namespace {

constexpr absl::string_view kOptions = R"(
  --config FILE        the run's TOML file, such as deploy/recipes/demo.toml (required)
  --section.key=value  overrides a key of it; --stage.0.context_tokens=64 one of a stage
  --log-format FORMAT  logfmt or json: the same as --log.format
  --dry-run            print the effective configuration (every key) and what would run, and end
  --version
  --help

Exit status: 0 done, 1 failed, 2 something that you can put right (the message says what).
)";

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  bool dry_run = false;
  bool help = false;
  bool version = false;
};

absl::StatusOr<Arguments> Parse(int argc, const char* const* argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    absl::string_view rest = argument;
    if (argument == "--help" || argument == "-h") {
      arguments.help = true;
    } else if (argument == "--version") {
      arguments.version = true;
    } else if (argument == "--dry-run") {
      arguments.dry_run = true;
    } else if (argument == "--config") {
      if (i + 1 >= argc) return absl::InvalidArgumentError("--config needs a file");
      arguments.config = argv[++i];
    } else if (absl::ConsumePrefix(&rest, "--config=")) {
      arguments.config = std::string(rest);
    } else if (argument == "--log-format") {
      if (i + 1 >= argc) return absl::InvalidArgumentError("--log-format needs logfmt or json");
      arguments.overrides.push_back(absl::StrCat("log.format=", argv[++i]));
    } else if (absl::ConsumePrefix(&rest, "--log-format=")) {
      arguments.overrides.push_back(absl::StrCat("log.format=", rest));
    } else if (absl::ConsumePrefix(&rest, "--") && absl::StrContains(rest, '.')) {
      arguments.overrides.push_back(std::string(rest));
    } else {
      const std::string nearest =
          Nearest(argument, {"--config", "--log-format", "--dry-run", "--version", "--help"});
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown option '", argument, "'; ",
          nearest.empty() ? "see --help" : absl::StrCat("did you mean ", nearest, "?")));
    }
  }
  return arguments;
}

}  // namespace

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitFailed;
    default:
      return kExitUser;
  }
}

int ReportError(absl::string_view name, const absl::Status& status, std::ostream& err) {
  err << name << ": error: " << std::string(status.message()) << std::endl;
  return ExitCode(status);
}

std::string VersionText(absl::string_view name) {
  return absl::StrCat(name, " ", CRESCENDO_VERSION, " (protocol ", limits::kProtocolVersion, ")");
}

std::optional<RunConfig> ParseServiceCommandLine(int argc, const char* const* argv,
                                                 const ServiceDescription& service,
                                                 FileSystem& files, std::ostream& out,
                                                 std::ostream& err, int* exit_code) {
  const auto fail = [&](const absl::Status& status) {
    *exit_code = ReportError(service.name, status, err);
    return std::nullopt;
  };
  *exit_code = kExitOk;
  const absl::StatusOr<Arguments> arguments = Parse(argc, argv);
  if (!arguments.ok()) return fail(arguments.status());
  if (arguments->help) {
    out << std::string(service.name) << ": " << std::string(service.purpose) << "\n"
        << std::string(kOptions);
    return std::nullopt;
  }
  if (arguments->version) {
    out << VersionText(service.name) << "\n";
    return std::nullopt;
  }
  if (arguments->config.empty()) {
    return fail(absl::InvalidArgumentError("--config FILE is required (see --help)"));
  }
  absl::StatusOr<RunConfig> config = LoadRunConfig(files, arguments->config, arguments->overrides);
  if (!config.ok()) return fail(config.status());
  if (!arguments->dry_run) return std::move(config).value();
  out << ToToml(*config);
  if (service.dry_run) {
    const absl::StatusOr<std::string> words = service.dry_run(*config);
    if (!words.ok()) return fail(words.status());
    // As comments, so that the whole can be kept as a recipe.
    const std::string lines =
        absl::StrReplaceAll(absl::StripTrailingAsciiWhitespace(*words), {{"\n", "\n# "}});
    out << "\n# " << std::string(service.name) << " would run: " << lines << "\n";
  }
  return std::nullopt;
}

}  // namespace crescendo
