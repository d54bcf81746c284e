// crescendo data check.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "deploy/cli/commands.h"
#include "deploy/cli/data_check.h"

namespace crescendo {

absl::Status DataCommand(const CliArguments& arguments, const TrainingWorld& world) {
  if (arguments.positional.size() < 2 || arguments.positional[0] != "check") {
    return absl::InvalidArgumentError(
        "expected: crescendo data check TRAIN...; see crescendo data --help");
  }
  DataCheckOptions options;
  options.train.assign(arguments.positional.begin() + 1, arguments.positional.end());
  options.eval = arguments.eval_sets;
  options.unrelated = arguments.unrelated;
  options.threshold = arguments.threshold;
  if (std::count(options.train.begin(), options.train.end(), arguments.write) > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--write: ", arguments.write, " is read: give another name"));
  }
  ASSIGN_OR_RETURN(const DataCheck check, CheckData(*world.files, options));
  for (const absl::string_view line : absl::StrSplit(DataCheckText(options, check), '\n')) {
    world.terminal->Line(line);
  }
  if (arguments.write.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(WriteFiltered(*world.files, options, check, arguments.write));
  world.terminal->Line(
      absl::StrCat("wrote ", arguments.write, " and ", arguments.write, ".manifest.json"));
  return absl::OkStatus();
}

}  // namespace crescendo
