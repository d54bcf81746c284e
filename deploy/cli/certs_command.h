// crescendo certs: certificates and tokens for a run of one's own.
#ifndef CRESCENDO_DEPLOY_CLI_CERTS_COMMAND_H_
#define CRESCENDO_DEPLOY_CLI_CERTS_COMMAND_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "deploy/cli/arguments.h"
#include "deploy/cli/training.h"

namespace crescendo {

inline constexpr absl::string_view kCertsHelp =
    R"(crescendo certs DIR [--name HOST...] [--force]

Makes a development authority, a certificate for each role and the roles' tokens in DIR: ca.pem, ca.key,
and ROLE.pem, ROLE.key, ROLE.token for coordinator, learner, rollout, reward and operator, readable by
their owner only. What is there stays as it is: the same command again adds what is missing.

  --name HOST...  further host names and addresses that stand in the certificates. Crescendo's services
                  tell each other by role and need none
  --force         makes everything anew, the authority too; running services take the new files within
                  seconds

Use it with [security] directory = "DIR" in the recipe, or --security.directory=DIR. Give each service
ca.pem, its own ROLE.pem, ROLE.key and ROLE.token, and the tokens of the roles that call it; keep ca.key.
)";

absl::Status CertsCommand(const CliArguments& arguments, const TrainingWorld& world);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_CERTS_COMMAND_H_
