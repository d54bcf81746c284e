#include "deploy/cli/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"

namespace crescendo {
namespace {

constexpr absl::Duration kToolTime = absl::Seconds(60);
constexpr size_t kToolOutputMax = 64u << 20;

ProcessExit FromWait(int status) {
  if (WIFSIGNALED(status)) return {.by_signal = true, .number = WTERMSIG(status)};
  return {.by_signal = false, .number = WEXITSTATUS(status)};
}

std::vector<char*> Pointers(const std::vector<std::string>& command) {
  std::vector<char*> pointers;
  pointers.reserve(command.size() + 1);
  for (const std::string& part : command) pointers.push_back(const_cast<char*>(part.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// The child between fork and exec: async-signal-safe calls only. Does not return.
[[noreturn]] void Execute(char* const* arguments, int in, int out, int error, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it died before prctl
  UnblockStopSignals();
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(error, STDERR_FILENO);
  execvp(arguments[0], arguments);
  const char* reason = strerrorname_np(errno);
  for (const char* text : {"cannot execute ", static_cast<const char*>(arguments[0]), ": ",
                           reason == nullptr ? "?" : reason, "\n"}) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) break;
  }
  _exit(127);
}

class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_, O_CLOEXEC) != 0) ends_[0] = ends_[1] = -1;
  }
  ~Pipe() {
    Close(0);
    Close(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  int read_end() const { return ends_[0]; }
  int write_end() const { return ends_[1]; }
  void Close(int end) {
    if (ends_[end] >= 0) close(ends_[end]);
    ends_[end] = -1;
  }

 private:
  int ends_[2];
};

// Writes `input` and reads both outputs until they end; false when that takes too long.
bool Exchange(const std::string& input, Pipe& to, Pipe& from, Pipe& from_error, std::string* output,
              std::string* error) {
  fcntl(to.write_end(), F_SETFL, O_NONBLOCK);
  const absl::Time deadline = RealNow() + kToolTime;
  size_t written = 0;
  if (input.empty()) to.Close(1);
  while (from.read_end() >= 0 || from_error.read_end() >= 0) {
    pollfd fds[3] = {{from.read_end(), POLLIN, 0},
                     {from_error.read_end(), POLLIN, 0},
                     {to.write_end(), POLLOUT, 0}};
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - RealNow());
    if (left_ms <= 0 || output->size() + error->size() > kToolOutputMax) return false;
    if (poll(fds, 3, static_cast<int>(left_ms)) < 0 && errno != EINTR) return false;
    char buffer[65536];
    const auto take = [&](Pipe& pipe, const pollfd& fd, std::string* into) {
      if (fd.fd < 0 || fd.revents == 0) return;
      const ssize_t got = read(fd.fd, buffer, sizeof(buffer));
      if (got > 0) into->append(buffer, static_cast<size_t>(got));
      if (got <= 0 && errno != EINTR) pipe.Close(0);
    };
    errno = 0;
    take(from, fds[0], output);
    take(from_error, fds[1], error);
    if (to.write_end() >= 0 && fds[2].revents != 0) {
      const ssize_t put = write(to.write_end(), input.data() + written, input.size() - written);
      if (put > 0) written += static_cast<size_t>(put);
      if ((put < 0 && errno != EAGAIN && errno != EINTR) || written == input.size()) to.Close(1);
    }
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Spawn(
    const std::vector<std::string>& command, const std::string& log_file) {
  const int log = open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) {
    return absl::UnavailableError(absl::StrCat("open ", log_file, ": ", std::strerror(errno)));
  }
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const std::vector<char*> arguments = Pointers(command);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) Execute(arguments.data(), null, log, log, parent);
  const int error = errno;
  close(log);
  if (null >= 0) close(null);
  if (pid < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("start ", command[0], ": ", std::strerror(error)));
  }
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid));
}

ChildProcess::~ChildProcess() {
  if (Poll().has_value()) return;
  kill(pid_, SIGKILL);
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
}

std::optional<ProcessExit> ChildProcess::Poll() {
  if (exit_.has_value()) return exit_;
  int status = 0;
  const pid_t got = waitpid(pid_, &status, WNOHANG);
  if (got == pid_) exit_ = FromWait(status);
  if (got < 0 && errno == ECHILD) exit_ = ProcessExit{.by_signal = true, .number = SIGKILL};
  return exit_;
}

void ChildProcess::Signal(int number) {
  if (!Poll().has_value()) kill(pid_, number);
}

absl::StatusOr<std::string> RunTool(const std::vector<std::string>& command,
                                    const std::string& input) {
  Pipe to, from, from_error;
  if (to.read_end() < 0 || from.read_end() < 0 || from_error.read_end() < 0) {
    return absl::ResourceExhaustedError(absl::StrCat("start ", command[0], ": no pipe"));
  }
  const std::vector<char*> arguments = Pointers(command);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    Execute(arguments.data(), to.read_end(), from.write_end(), from_error.write_end(), parent);
  }
  if (pid < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("start ", command[0], ": ", std::strerror(errno)));
  }
  to.Close(0);
  from.Close(1);
  from_error.Close(1);
  std::string output, error;
  const bool done = Exchange(input, to, from, from_error, &output, &error);
  if (!done) kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  const ProcessExit exit = FromWait(status);
  if (!exit.by_signal && exit.number == 0) return output;
  if (exit.number == 127) return absl::UnavailableError(error);
  if (error.size() > 2000) error = error.substr(error.size() - 2000);
  return absl::InternalError(absl::StrCat(command[0], " ", DescribeExit(exit), ": ", error));
}

}  // namespace crescendo
