#include "deploy/cli/commands.h"

namespace crescendo {

absl::Status CompareCommand(const CliArguments&, const TrainingWorld&) {
  return absl::UnimplementedError("compare: not there yet");
}

}  // namespace crescendo
