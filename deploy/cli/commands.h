// The commands of crescendo: what each takes and does.
#ifndef CRESCENDO_DEPLOY_CLI_COMMANDS_H_
#define CRESCENDO_DEPLOY_CLI_COMMANDS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "deploy/cli/arguments.h"
#include "deploy/cli/run_client.h"
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

// Commands that are programs of their own, with options of their own.
struct ProgramCommand {
  absl::string_view name;
  absl::string_view program;  // beside this one
  bool named;                 // the program has several commands and is told which
};
// nullptr when there is none of that name.
const ProgramCommand* FindProgramCommand(absl::string_view name);

// Of all commands, for completion and for who mistyped one.
std::vector<std::string> CommandNames();

absl::Status TrainCommand(const CliArguments& arguments, const TrainingWorld& world);
absl::Status StageCommand(const CliArguments& arguments, const TrainingWorld& world);
extern const absl::string_view kStageHelp;
absl::Status DrainCommand(const CliArguments& arguments, const TrainingWorld& world);
extern const absl::string_view kDrainHelp;
absl::Status CheckpointCommand(const CliArguments& arguments, const TrainingWorld& world);
extern const absl::string_view kCheckpointHelp;
absl::Status CompletionCommand(const CliArguments& arguments, const TrainingWorld& world);
absl::Status EstimateCommand(const CliArguments& arguments, const TrainingWorld& world);
extern const absl::string_view kEstimateHelp;
absl::Status TopCommand(const CliArguments& arguments, const TrainingWorld& world);
absl::Status CompareCommand(const CliArguments& arguments, const TrainingWorld& world);
absl::Status EvalCommand(const CliArguments& arguments, const TrainingWorld& world);
// Trains a configuration in --out, or in run.out or a name beside it, and shows what it came to.
absl::Status RunConfigured(const CliArguments& arguments, RunConfig config, absl::string_view what,
                           const TrainingWorld& world);
absl::Status DataCommand(const CliArguments& arguments, const TrainingWorld& world);

// How an operator's command speaks: as --security.directory says, else as the run in `folder` does,
// else plain text.
absl::StatusOr<Transport> OperatorTransport(const CliArguments& arguments,
                                            const std::string& folder, const TrainingWorld& world);
// The client of the run that --coordinator names, or of the one under way in `folder` (runs/demo
// when that is empty). NOT_FOUND when there is none.
absl::StatusOr<std::unique_ptr<RunClient>> ClientOfRun(const CliArguments& arguments,
                                                       const std::string& folder,
                                                       const TrainingWorld& world);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_COMMANDS_H_
