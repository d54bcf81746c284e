// A child process with its output in a log file, that cannot outlive its parent.
//
// Not thread-safe. Spawn from the main thread only: the kernel ties the child's life to the thread
// that made it (PR_SET_PDEATHSIG).
#ifndef CRESCENDO_DEPLOY_CLI_CHILD_PROCESS_H_
#define CRESCENDO_DEPLOY_CLI_CHILD_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "deploy/cli/restart_policy.h"

namespace crescendo {

class ChildProcess {
 public:
  // Starts `command` (program and arguments) in a process group of its own, so that a Ctrl-C at the
  // terminal reaches the parent alone. Its output is appended to `log_file`. It is killed when the
  // parent dies, however that happens. Errors: the log cannot be opened, or no process can be made;
  // a program that cannot be executed is an exit with status 127 and a line in the log.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Spawn(
      const std::vector<std::string>& command, const std::string& log_file);
  // Kills it and waits when it still runs.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // How it ended; nullopt while it runs. Does not block.
  std::optional<ProcessExit> Poll();
  // Sends a signal when it still runs.
  void Signal(int number);

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}

  const pid_t pid_;
  std::optional<ProcessExit> exit_;
};

// Runs a program to its end with `input` on its standard input; what it printed. For small tools
// (gnuplot, git): Unavailable when it cannot be started, Internal with the end of what it said on
// standard error when its status is not 0. Blocks; the tool is killed after a minute.
absl::StatusOr<std::string> RunTool(const std::vector<std::string>& command,
                                    const std::string& input);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_CHILD_PROCESS_H_
