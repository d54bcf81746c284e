// crescendo: trains on one machine, watches, compares. See --help of each command.
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"
#include "common/config/edit_distance.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "common/rpc/grpc_log.h"
#include "deploy/cli/arguments.h"
#include "deploy/cli/commands.h"
#include "deploy/cli/terminal.h"
#include "deploy/cli/training.h"

namespace crescendo {
namespace {

constexpr absl::string_view kHelp =
    R"(crescendo: reinforcement learning of reasoning, as four services

  crescendo train RECIPE     train a recipe on this machine: starts the services, shows the run, reports
  crescendo top              the live view of a run that is under way
  crescendo ask PROBLEM      puts a problem to a policy and shows how it reasons
  crescendo export RUN OUT   writes a policy for transformers or llama.cpp
  crescendo stage ACTION     shows or sets the stage of a run: status, hold, release, advance, back, go
  crescendo drain WORKER     takes a rollout worker out of a run, without losing what it holds
  crescendo checkpoint       has the learner write a checkpoint now
  crescendo grade FILE       grades answers, as the reward service does
  crescendo estimate RECIPE  the hours, GPU-hours and money that a recipe will take
  crescendo trace            the life of every group as a picture for Perfetto
  crescendo compare RECIPE   what a growing context limit saves: three arms with the same seeds
  crescendo certs DIR        certificates and tokens for mutual TLS between the services
  crescendo eval RECIPE      evaluation sets alone, on a model
  crescendo data check FILE  what is wrong with training data, and which evaluation problems are in it

  crescendo completion bash  completion of this command line

  A recipe is a TOML file; deploy/recipes/demo.toml trains in a few minutes, and deploy/demo sets up,
  builds and trains it with one command.

  crescendo COMMAND --help   more of a command
  crescendo --version

Exit status: 0 done, 1 failed, 2 something that you can put right (the message says what), 130 stopped.
)";

int Fail(const absl::Status& status) { return ReportError("crescendo", status, std::cerr); }

std::string ProgramFolder() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "." : self.parent_path().string();
}

// Commands with a program and options of their own: in place of this one.
int Become(const std::string& program, char** argv) {
  const std::string path = absl::StrCat(ProgramFolder(), "/", program);
  execv(path.c_str(), argv);
  return Fail(absl::UnavailableError(absl::StrCat("cannot execute ", path)));
}

int Main(int argc, char** argv) {
  const ProgramCommand* other = argc > 1 ? FindProgramCommand(argv[1]) : nullptr;
  if (other != nullptr) {
    return Become(std::string(other->program), other->named ? argv : argv + 1);
  }
  const absl::StatusOr<CliArguments> arguments =
      ParseArguments(std::vector<std::string>(argv + 1, argv + argc));
  if (!arguments.ok()) return Fail(arguments.status());
  if (arguments->version) {
    std::cout << VersionText("crescendo") << "\n";
    return kExitOk;
  }
  const Command* command = FindCommand(arguments->command);
  if (arguments->command.empty() || (command == nullptr && arguments->help)) {
    std::cout << kHelp;
    return arguments->help ? kExitOk : kExitUser;
  }
  if (command == nullptr) {
    const std::string nearest = Nearest(arguments->command, CommandNames());
    return Fail(absl::InvalidArgumentError(absl::StrCat(
        "unknown command '", arguments->command, "'; ",
        nearest.empty() ? "see --help" : absl::StrCat("did you mean ", nearest, "?"))));
  }
  if (arguments->help) {
    std::cout << std::string(command->help);
    return kExitOk;
  }
  SendGrpcLogTo(NullLogger());  // what fails is told in the command's own words
  const StopSignal stop;
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  const std::unique_ptr<Clock> clock = MakeRealClock();
  absl::Status status;
  {
    Terminal terminal(arguments->plain || arguments->dry_run);
    status =
        command->run(*arguments, {files.get(), clock.get(), &stop, &terminal, ProgramFolder()});
  }
  if (absl::IsCancelled(status) && stop.requested()) {
    std::cout << "stopped; the same command resumes" << std::endl;
    return 130;
  }
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
