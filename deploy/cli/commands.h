// The commands of crescendo: what each takes and does.
#ifndef CRESCENDO_DEPLOY_CLI_COMMANDS_H_
#define CRESCENDO_DEPLOY_CLI_COMMANDS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "deploy/cli/arguments.h"
#include "deploy/cli/training.h"

namespace crescendo {

struct Command {
  absl::string_view name;
  absl::string_view help;
  // Blocks until it is done. Cancelled when it was stopped.
  absl::Status (*run)(const CliArguments&, const TrainingWorld&);
};

// nullptr when there is none of that name.
const Command* FindCommand(absl::string_view name);

absl::Status TrainCommand(const CliArguments& arguments, const TrainingWorld& world);
absl::Status TopCommand(const CliArguments& arguments, const TrainingWorld& world);
absl::Status CompareCommand(const CliArguments& arguments, const TrainingWorld& world);
absl::Status DataCommand(const CliArguments& arguments, const TrainingWorld& world);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_COMMANDS_H_
