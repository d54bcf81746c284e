// A program run by a test: its output line by line, its exit code, its children; killed with the
// test.
#ifndef CRESCENDO_TESTS_SUPPORT_SUBPROCESS_H_
#define CRESCENDO_TESTS_SUPPORT_SUBPROCESS_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace crescendo {

// Not thread-safe. The destructor kills the program (SIGKILL) when it still runs.
class Subprocess {
 public:
  // Standard output and standard error arrive together. `environment` entries ("NAME=value") come
  // on top of the test's.
  static std::unique_ptr<Subprocess> Start(const std::vector<std::string>& argv,
                                           const std::vector<std::string>& environment = {});
  ~Subprocess();

  pid_t pid() const { return pid_; }
  // The next line, without its end; nullopt when the output ended or `timeout` passed.
  std::optional<std::string> ReadLine(absl::Duration timeout);
  // Reads on until a line satisfies `wanted`; false when the output ended or `timeout` passed
  // before.
  bool ReadUntil(const std::function<bool(const std::string&)>& wanted, absl::Duration timeout);
  // Reads all that comes and waits for the end. The exit code, 128 + N after signal N; nullopt
  // after `timeout`.
  std::optional<int> Wait(absl::Duration timeout);
  void Signal(int signal);

  // All that was read so far.
  const std::string& output() const { return output_; }

 private:
  Subprocess(pid_t pid, int fd) : pid_(pid), fd_(fd) {}
  std::optional<int> Reap(bool block);

  pid_t pid_;
  int fd_;
  std::string output_;
  size_t line_begin_ = 0;
  bool ended_ = false;
  std::optional<int> exit_code_;
};

struct ProgramResult {
  int exit_code = -1;  // -1: it did not end in time
  std::string output;
};
// Runs a program to its end.
ProgramResult RunProgram(const std::vector<std::string>& argv, absl::Duration timeout,
                         const std::vector<std::string>& environment = {});

// The process ids of the direct children of `parent` whose command line contains `name`.
std::vector<pid_t> ChildrenOf(pid_t parent, const std::string& name);

// Waits for the end of any process (dead but not reaped has ended); false after `timeout`.
bool AwaitEnd(pid_t pid, absl::Duration timeout);

// Programs of the build under test: build/bin/NAME.
std::string BuiltProgram(const std::string& name);

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_SUBPROCESS_H_
