// The main of a command with a program of its own (crescendo-ask, crescendo-export): its command
// line, --help, and how it ends.
#ifndef CRESCENDO_DEPLOY_CLI_OWN_PROGRAM_H_
#define CRESCENDO_DEPLOY_CLI_OWN_PROGRAM_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace crescendo {

struct OwnProgram {
  absl::string_view name;  // "crescendo ask"
  absl::string_view help;
  // --name value, or --name=value. An error for one that is unknown (UnknownOption) or does not
  // fit.
  absl::FunctionRef<absl::Status(absl::string_view name, absl::string_view value)> option;
  // Anything else, in order.
  absl::FunctionRef<absl::Status(absl::string_view)> positional;
  // After the whole line; not for --help.
  absl::FunctionRef<absl::Status()> run;
};

// Returns the process's exit status; errors stand on standard error.
int RunOwnProgram(int argc, const char* const* argv, const OwnProgram& program);

absl::Status UnknownOption(absl::string_view name);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_OWN_PROGRAM_H_
