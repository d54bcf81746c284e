#include "deploy/cli/certs_command.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "deploy/cli/certificates.h"
#include "deploy/cli/terminal.h"

namespace crescendo {

absl::Status CertsCommand(const CliArguments& arguments, const TrainingWorld& world) {
  if (arguments.positional.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected one folder for the certificates, found ",
                     arguments.positional.size(), "; see crescendo certs --help"));
  }
  CertificateOptions options;
  options.folder = arguments.positional[0];
  options.names = arguments.names;
  options.force = arguments.force;
  options.now = world.clock->Now();
  ASSIGN_OR_RETURN(const std::vector<std::string> made, MakeCertificates(options));
  world.terminal->Line(made.empty()
                           ? absl::StrCat(options.folder,
                                          ": everything is there; --force makes it "
                                          "anew")
                           : absl::StrCat(options.folder, ": made ", absl::StrJoin(made, ", ")));
  return absl::OkStatus();
}

}  // namespace crescendo
