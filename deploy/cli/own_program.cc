#include "deploy/cli/own_program.h"

#include <iostream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"

namespace crescendo {
namespace {

absl::Status Read(int argc, const char* const* argv, const OwnProgram& program, bool* help) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view rest = argv[i];
    if (rest == "--help" || rest == "-h") {
      *help = true;
    } else if (absl::ConsumePrefix(&rest, "--")) {
      const std::pair<absl::string_view, absl::string_view> parts =
          absl::StrSplit(rest, absl::MaxSplits('=', 1));
      const bool apart = !absl::StrContains(rest, '=');
      if (apart && i + 1 >= argc) {
        return absl::InvalidArgumentError(absl::StrCat("--", rest, " needs a value"));
      }
      RETURN_IF_ERROR(program.option(parts.first, apart ? argv[++i] : parts.second));
    } else {
      RETURN_IF_ERROR(program.positional(rest));
    }
  }
  return absl::OkStatus();
}

}  // namespace

int RunOwnProgram(int argc, const char* const* argv, const OwnProgram& program) {
  bool help = false;
  absl::Status status = Read(argc, argv, program, &help);
  if (status.ok() && help) {
    std::cout << std::string(program.help);
    return kExitOk;
  }
  if (status.ok()) status = program.run();
  return status.ok() ? kExitOk : ReportError(program.name, status, std::cerr);
}

absl::Status UnknownOption(absl::string_view name) {
  return absl::InvalidArgumentError(absl::StrCat("unknown option '--", name, "'; see --help"));
}

}  // namespace crescendo
