#include "deploy/cli/commands.h"

#include <array>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/rpc/transport_config.h"
#include "deploy/cli/certs_command.h"
#include "deploy/cli/child_process.h"
#include "deploy/cli/completion.h"
#include "deploy/cli/run_report.h"
#include "deploy/cli/run_watcher.h"
#include "deploy/cli/trace_command.h"

namespace crescendo {
namespace {

constexpr absl::string_view kTrainHelp =
    R"(crescendo train RECIPE [--out DIR] [--seed N] [--workers N] [--steps N] [--plain] [--dry-run]
                [--section.key=value ...]

Starts a coordinator, a reward service, a learner and rollout workers as processes of this machine,
starts again what dies, shows the run, and closes with report.json, metrics.jsonl and report.html.
For example: crescendo train deploy/recipes/demo.toml --out runs/mine --workers 2

  --out DIR      the run's folder. Without it: the recipe's run.out, or that name with -2, -3, ... when
                 it holds a finished run or one of another configuration
  --seed N       the run's seed
  --workers N    rollout workers, 2 by default
  --steps N      optimizer steps; a finished run goes on when there are more now
  --plain        log lines instead of the live view; so too when the output is no terminal
  --dry-run      print the effective configuration and what would run
  --section.key=value   any key of the recipe, such as --optimizer.learning_rate=1e-4

Ctrl-C stops everything; the same command resumes. Logs: DIR/logs.
)";

constexpr absl::string_view kTopHelp =
    R"(crescendo top [RUN FOLDER | --coordinator HOST:PORT [--insecure]] [--plain] [--security.directory=DIR]

The live view of a run that is under way, on this machine or another. Without an address: the run in
the folder (runs/demo when none is given). Ends with the run; Ctrl-C leaves it, and the run goes on.

  --plain                    log lines instead of the view; so too when the output is no terminal
  --insecure                 plain text off the loopback
  --security.directory=DIR   certificates of a run with TLS (operator.pem, operator.key, operator.token)

Exit status: 0 the run is finished, or Ctrl-C; 1 it failed; 2 no coordinator, or none any more.
)";

constexpr absl::string_view kCompareHelp =
    R"(crescendo compare RECIPE [--seeds 1,2,3] [--out DIR] [--workers N] [--steps N] [--plain]
                  [--section.key=value ...]

Trains the recipe in three arms with the same seeds, one after another: iterative (as it is), fixed-long
(the last stage's context limit throughout), short-only (the first one's). Writes compare.json and
compare.html: the curves over tokens and seconds, and what each level of accuracy cost. Evaluates every
second step unless told otherwise. Stopped, it goes on where it was: finished arms are kept.
)";

constexpr absl::string_view kEvalHelp =
    R"(crescendo eval RECIPE [--model PATH] [--set FILE...] [--out DIR] [--workers N] [--plain] [--dry-run]
               [--section.key=value ...]

Runs evaluation sets alone on a model, with the services of a training run and no training: pass@1 with
its interval, pass@k, majority, length and truncation of each set, beside what was published for it.
For example: crescendo eval deploy/recipes/demo.toml --model runs/demo/policy --evaluation.samples=4

  --model PATH   a Hugging Face folder or a .gguf file; the recipe's policy without it
  --set FILE...  the sets (JSON lines, whole); those of the recipe without it
  --out DIR      the report's folder; the recipe's run.out with -eval behind it, without it
  --section.key=value   such as --evaluation.samples=16, --evaluation.temperature=0.6,
                 --evaluation.context_tokens=32768

A set may hold variants of its problems (a row's variant_of names another row's id): then the accuracy on
originals, on variants, and the drop are told too.
)";

constexpr absl::string_view kDataHelp =
    R"(crescendo data check TRAIN... [--eval SET...] [--unrelated SET...] [--threshold 0.5] [--write FILE]

Reads training data (JSON lines with id, problem and answer) and tells what is wrong with it: rows that
cannot be read, golds that the grader cannot parse, problems that come twice, and problems of evaluation
sets among them, in the same words or in most of their word 8-grams.

  --eval SET...       sets that must not be trained on
  --unrelated SET...  sets that have nothing to do with the training data: how often they seem to match
                      tells how far a match is to be trusted. Without: the --eval sets among each other
  --threshold T       the share of a problem's 8-grams from which on a row is a leak
  --write FILE        the rows that stay, and FILE.manifest.json with every row that was dropped and why
)";

constexpr absl::string_view kCompletionHelp = R"help(crescendo completion bash

Prints the completion of this command line for bash: eval "$(crescendo completion bash)"
)help";

const std::array<Command, 12> kCommands = {{{"train", kTrainHelp, TrainCommand},
                                            {"certs", kCertsHelp, CertsCommand},
                                            {"top", kTopHelp, TopCommand},
                                            {"trace", kTraceHelp, TraceCommand},
                                            {"stage", kStageHelp, StageCommand},
                                            {"estimate", kEstimateHelp, EstimateCommand},
                                            {"drain", kDrainHelp, DrainCommand},
                                            {"checkpoint", kCheckpointHelp, CheckpointCommand},
                                            {"completion", kCompletionHelp, CompletionCommand},
                                            {"compare", kCompareHelp, CompareCommand},
                                            {"data", kDataHelp, DataCommand},
                                            {"eval", kEvalHelp, EvalCommand}}};
constexpr std::array<ProgramCommand, 3> kProgramCommands = {{{"ask", "crescendo-ask", false},
                                                             {"export", "crescendo-export", false},
                                                             {"grade", "crescendo-reward", true}}};
constexpr const char* kDemoFolder = "runs/demo";
constexpr int kFoldersTried = 1000;
constexpr absl::Duration kTopLoop = absl::Milliseconds(100);
constexpr absl::Duration kTopPatience = absl::Seconds(10);
// A coordinator that was there may come back.
constexpr absl::Duration kTopGone = absl::Seconds(60);

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

// Sets config.run.out to the folder to train in; `*finished` when that holds the finished run.
absl::Status ChooseFolder(const CliArguments& arguments, FileSystem& files, RunConfig& config,
                          bool* finished) {
  const std::string base = AbsolutePath(arguments.out.empty() ? config.run.out : arguments.out);
  for (int i = 1; i <= kFoldersTried; ++i) {
    config.run.out = i == 1 ? base : absl::StrCat(base, "-", i);
    std::string difference;
    ASSIGN_OR_RETURN(const FolderState state,
                     InspectFolder(files, config.run.out, config, &difference));
    *finished = state == FolderState::kFinished;
    if (state == FolderState::kNew || state == FolderState::kResumable) return absl::OkStatus();
    if (arguments.out.empty()) continue;
    if (state == FolderState::kFinished) return absl::OkStatus();
    return absl::AlreadyExistsError(absl::StrCat(config.run.out,
                                                 " holds a run of another configuration (",
                                                 difference, "); choose another --out"));
  }
  return absl::AlreadyExistsError(absl::StrCat(base, " and ", kFoldersTried - 1,
                                               " names beside it are taken; choose an --out"));
}

absl::Status ShowPlan(const RunConfig& config, int workers, const TrainingWorld& world) {
  ASSIGN_OR_RETURN(const ServicePlan plan, PlanServices(config, workers, world));
  world.terminal->Line(ToToml(config));
  world.terminal->Line("# would run (ports are chosen anew at a start):");
  for (const SupervisedService& service : plan.services) {
    world.terminal->Line(
        absl::StrCat("# ", service.name, ": ", absl::StrJoin(service.command, " ")));
  }
  return absl::OkStatus();
}

void ShowEnd(const RunConfig& config, const nlohmann::ordered_json& report,
             const TrainingWorld& world) {
  world.terminal->Line("");
  std::string summary = SummaryText(report);
  summary.pop_back();
  world.terminal->Line(summary);
  world.terminal->Line(absl::StrCat("report: ", JoinPath(config.run.out, "report.html"),
                                    "  data: ", ReportFile(config.run.out)));
}

absl::StatusOr<std::string> RecipeOf(const CliArguments& arguments) {
  if (arguments.positional.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("expected one recipe (a TOML file), found ",
                                                   arguments.positional.size(), "; see crescendo ",
                                                   arguments.command, " --help"));
  }
  return arguments.positional[0];
}

absl::StatusOr<std::string> CoordinatorAddress(const CliArguments& arguments, std::string folder,
                                               FileSystem& files) {
  if (!arguments.coordinator.empty()) return arguments.coordinator;
  if (folder.empty()) folder = kDemoFolder;
  const auto text = files.ReadFile(AddressesFile(folder), 1 << 20);
  if (text.ok()) {
    const auto json = nlohmann::json::parse(*text, nullptr, false);
    const auto address = nlohmann::json::json_pointer("/coordinator/address");
    if (json.is_object() && json.contains(address) && json[address].is_string()) {
      return json[address].get<std::string>();
    }
  }
  return absl::NotFoundError(absl::StrCat(
      "no run is under way in ", folder, " (", AddressesFile(folder),
      " is not there); give its folder, or its coordinator with --coordinator HOST:PORT"));
}

}  // namespace

const Command* FindCommand(absl::string_view name) {
  for (const Command& command : kCommands) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

const ProgramCommand* FindProgramCommand(absl::string_view name) {
  for (const ProgramCommand& command : kProgramCommands) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

std::vector<std::string> CommandNames() {
  std::vector<std::string> names;
  names.reserve(kCommands.size() + kProgramCommands.size());
  for (const Command& command : kCommands) names.emplace_back(command.name);
  for (const ProgramCommand& command : kProgramCommands) names.emplace_back(command.name);
  return names;
}

absl::Status TrainCommand(const CliArguments& arguments, const TrainingWorld& world) {
  ASSIGN_OR_RETURN(const std::string recipe, RecipeOf(arguments));
  ASSIGN_OR_RETURN(RunConfig config, LoadRunConfig(*world.files, recipe, arguments.overrides));
  return RunConfigured(arguments, std::move(config), absl::StrCat("training ", recipe), world);
}

absl::Status RunConfigured(const CliArguments& arguments, RunConfig config, absl::string_view what,
                           const TrainingWorld& world) {
  bool finished = false;
  RETURN_IF_ERROR(ChooseFolder(arguments, *world.files, config, &finished));
  if (arguments.dry_run) return ShowPlan(config, arguments.workers, world);
  if (finished) {
    ASSIGN_OR_RETURN(const std::string text,
                     world.files->ReadFile(ReportFile(config.run.out), 64u << 20));
    world.terminal->Line("this run is finished; give another --out to train anew, or more --steps");
    ShowEnd(config, nlohmann::ordered_json::parse(text, nullptr, false), world);
    return absl::OkStatus();
  }
  world.terminal->Line(absl::StrCat(what, " in ", config.run.out));
  ASSIGN_OR_RETURN(const nlohmann::ordered_json report, Train(config, arguments.workers, world));
  ShowEnd(config, report, world);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RunClient>> ClientOfRun(const CliArguments& arguments,
                                                       const std::string& folder,
                                                       const TrainingWorld& world) {
  ASSIGN_OR_RETURN(const std::string address, CoordinatorAddress(arguments, folder, *world.files));
  const std::string place = folder.empty() ? kDemoFolder : folder;
  ASSIGN_OR_RETURN(const Transport transport,
                   OperatorTransport(arguments, arguments.coordinator.empty() ? place : "", world));
  return RunClient::Make(address, transport);
}

absl::Status TopCommand(const CliArguments& arguments, const TrainingWorld& world) {
  const std::string folder = arguments.positional.empty() ? "" : arguments.positional[0];
  ASSIGN_OR_RETURN(const auto client, ClientOfRun(arguments, folder, world));
  RunWatcher watcher(world.terminal, absl::StrCat("the run at ", client->address()),
                     /*from_the_beginning=*/false);
  while (!world.stop->WaitFor(kTopLoop)) {
    const absl::Time now = world.clock->Now();
    const absl::Status status = watcher.Poll(*client, now);
    const bool never = watcher.picture().status.run_id().empty();
    const absl::Duration silent = now - watcher.last_answer();
    if (!status.ok() && silent > (never ? kTopPatience : kTopGone)) {
      world.terminal->KeepFrame();
      return absl::UnavailableError(absl::StrCat(
          never ? "no coordinator answers: " : "the coordinator is gone: ", status.message()));
    }
    const v1::RunStatus& run = watcher.picture().status;
    if (run.state() == "finished") break;
    if (run.state() == "failed") {
      world.terminal->KeepFrame();
      return absl::AbortedError(absl::StrCat("the run failed: ", run.failure()));
    }
  }
  world.terminal->KeepFrame();
  return absl::OkStatus();
}

absl::Status CompletionCommand(const CliArguments& arguments, const TrainingWorld& world) {
  if (arguments.positional.size() != 1 || arguments.positional[0] != "bash") {
    return absl::InvalidArgumentError("expected the shell: crescendo completion bash");
  }
  std::vector<CommandHelp> commands;
  commands.reserve(kCommands.size() + kProgramCommands.size());
  for (const Command& command : kCommands) {
    commands.emplace_back(std::string(command.name), std::string(command.help));
  }
  for (const ProgramCommand& command : kProgramCommands) {
    std::vector<std::string> line = {JoinPath(world.program_folder, std::string(command.program))};
    if (command.named) line.emplace_back(command.name);
    line.emplace_back("--help");
    // One that is not there completes files only.
    const absl::StatusOr<std::string> help = RunTool(line, "");
    commands.emplace_back(std::string(command.name), help.ok() ? *help : "");
  }
  std::string script = BashCompletion(commands);
  script.pop_back();
  world.terminal->Line(script);
  return absl::OkStatus();
}

}  // namespace crescendo
