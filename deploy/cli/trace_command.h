// crescendo trace: the life of groups as a picture for Perfetto.
#ifndef CRESCENDO_DEPLOY_CLI_TRACE_COMMAND_H_
#define CRESCENDO_DEPLOY_CLI_TRACE_COMMAND_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "deploy/cli/arguments.h"
#include "deploy/cli/training.h"

namespace crescendo {

inline constexpr absl::string_view kTraceHelp =
    R"(crescendo trace [RUN FOLDER | --coordinator HOST:PORT [HOST:PORT...]] [--write FILE]
                [--insecure] [--security.directory=DIR]

The life of each group, from its lease to the step that trained it (prefill, decode, grade, accept, wait
for the batch, train), of each sample and of each step, as Chrome's JSON: open it at ui.perfetto.dev.

Of a run that is under way, its services are asked for what they remember (the last 65,536 moments each);
of one that is over, what they left in RUN FOLDER/trace is read. With --coordinator: the coordinator, its
workers, and the further services whose addresses are given (the learner's). Without an address: the run
in the folder (runs/demo when none is given).

  --write FILE    RUN FOLDER/trace.json by default; trace.json with --coordinator
  --insecure      plain text off the loopback
  --security.directory=DIR   certificates of a run with TLS (operator.pem, operator.key, operator.token)
)";

absl::Status TraceCommand(const CliArguments& arguments, const TrainingWorld& world);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_TRACE_COMMAND_H_
