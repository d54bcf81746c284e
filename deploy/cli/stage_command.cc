// crescendo stage: an operator's hand on the curriculum of a run that is under way.
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/config/edit_distance.h"
#include "deploy/cli/commands.h"
#include "deploy/cli/live_view.h"
#include "deploy/cli/run_client.h"

namespace crescendo {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(10);

// What is asked for, for a run whose newest stage is `stage`.
absl::StatusOr<v1::SetStageRequest> ToRequest(const std::string& action, const std::string& operand,
                                              uint32_t stage) {
  v1::SetStageRequest request;
  if (action == "hold") {
    request.set_action(v1::SetStageRequest::ACTION_HOLD);
  } else if (action == "release") {
    request.set_action(v1::SetStageRequest::ACTION_RELEASE);
  } else if (action == "advance") {
    request.set_action(v1::SetStageRequest::ACTION_ADVANCE);
  } else if (action == "back") {
    if (stage == 0) {
      return absl::InvalidArgumentError(
          "the run is in its first stage: there is none to go back to");
    }
    request.set_action(v1::SetStageRequest::ACTION_GO_TO);
    request.set_stage(stage - 1);
  } else if (action == "go") {
    uint32_t target = 0;
    if (!absl::SimpleAtoi(operand, &target) || target == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("go: expected a stage, counted from 1, found '", operand, "'"));
    }
    request.set_action(v1::SetStageRequest::ACTION_GO_TO);
    request.set_stage(target - 1);
  } else {
    const std::string nearest =
        Nearest(action, {"status", "hold", "release", "advance", "back", "go"});
    return absl::InvalidArgumentError(
        absl::StrCat("unknown action '", action, "'; ",
                     nearest.empty() ? "see crescendo stage --help"
                                     : absl::StrCat("did you mean ", nearest, "?")));
  }
  return request;
}

void ShowStages(const RunPicture& run, Terminal& terminal) {
  const v1::RunStatus& status = run.status;
  terminal.Line(absl::StrCat(status.run_id(), ": ", status.state(), ", step ", status.step(),
                             " of ", status.steps_total(),
                             status.held() ? "; the stage is held: no rule ends it" : ""));
  for (const v1::StageStatus& stage : run.stages) {
    const bool ended = stage.last_step() >= 0;
    terminal.Line(absl::StrCat(
        "stage ", stage.index() + 1, ": ", stage.context_tokens(), " tokens, ",
        !ended && stage.first_step() >= status.step() ? "from step " : "steps ",
        stage.first_step() + 1,
        ended ? absl::StrCat(" to ", stage.last_step() + 1, ": ", stage.reason()) : " on"));
  }
}

}  // namespace

const absl::string_view kStageHelp =
    R"(crescendo stage status|hold|release|advance|back|go N [RUN FOLDER | --coordinator HOST:PORT [--insecure]]

Shows or sets the stage of a run that is under way. Without an address: the run in the folder (runs/demo
when none is given).

  status    the stages so far, and why each ended
  hold      no rule ends the stage until it is released
  release   the rules decide again
  advance   the next stage, from the next step that is planned
  back      the stage before this one, from the next step that is planned
  go N      stage N, counted from 1

  --insecure                 plain text off the loopback
  --security.directory=DIR   certificates of a run with TLS (operator.pem, operator.key, operator.token)

What was done is written to the run's journal, its log and its history, as the rules' own decisions are.
)";

absl::Status StageCommand(const CliArguments& arguments, const TrainingWorld& world) {
  std::vector<std::string> words = arguments.positional;
  if (words.empty()) {
    return absl::InvalidArgumentError("expected an action; see crescendo stage --help");
  }
  const std::string action = words[0];
  // Before a run is looked for.
  if (action != "status") {
    const auto request = ToRequest(action, words.size() > 1 ? words[1] : "", /*stage=*/1);
    RETURN_IF_ERROR(request.status());
  }
  const size_t operands = action == "go" ? 1 : 0;
  if (words.size() < 1 + operands || words.size() > 2 + operands) {
    return absl::InvalidArgumentError(absl::StrCat("stage ", action, ": expected ",
                                                   operands == 1 ? "a stage and " : "",
                                                   "at most one run folder; see --help"));
  }
  const std::string operand = operands == 1 ? words[1] : "";
  const std::string folder = words.size() > 1 + operands ? words.back() : "";
  ASSIGN_OR_RETURN(const auto client, ClientOfRun(arguments, folder, world));
  RunPicture run;
  RETURN_IF_ERROR(client->FetchAll(kCallTimeout, &run));
  if (action != "status") {
    const uint32_t newest = run.stages.empty() ? 0 : run.stages.back().index();
    ASSIGN_OR_RETURN(const v1::SetStageRequest request, ToRequest(action, operand, newest));
    RETURN_IF_ERROR(client->SetStage(kCallTimeout, request));
    RETURN_IF_ERROR(client->FetchAll(kCallTimeout, &run));
  }
  ShowStages(run, *world.terminal);
  return absl::OkStatus();
}

}  // namespace crescendo
