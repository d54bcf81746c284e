#include "tests/support/subprocess.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "common/base/status_macros.h"
#include "common/os/posix_env.h"

namespace crescendo {
namespace {

// What is left of a timeout, by the real clock: programs under test live in real time.
class Deadline {
 public:
  explicit Deadline(absl::Duration timeout)
      : clock_(MakeRealClock()), at_(clock_->Now() + timeout) {}
  int LeftMs() const {
    const int64_t left = absl::ToInt64Milliseconds(at_ - clock_->Now());
    return left < 0 ? 0 : static_cast<int>(std::min<int64_t>(left, 1 << 30));
  }

 private:
  std::unique_ptr<Clock> clock_;
  absl::Time at_;
};

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// "pid (name) state ppid ...": the name may hold anything, so it is read from its last parenthesis
// on.
bool ReadStat(const std::string& folder, char& state, pid_t& parent) {
  const std::string stat = ReadAll(folder + "/stat");
  const size_t close_at = stat.rfind(')');
  if (close_at == std::string::npos) return false;
  std::istringstream rest(stat.substr(close_at + 1));
  rest >> state >> parent;
  return true;
}

}  // namespace

std::unique_ptr<Subprocess> Subprocess::Start(const std::vector<std::string>& argv,
                                              const std::vector<std::string>& environment) {
  int pipe_fds[2];
  CRESCENDO_CHECK(pipe2(pipe_fds, O_CLOEXEC) == 0);
  std::vector<char*> args;
  for (const std::string& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  const pid_t pid = fork();
  CRESCENDO_CHECK(pid >= 0);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(pipe_fds[1], STDOUT_FILENO);
    dup2(pipe_fds[1], STDERR_FILENO);
    const int null_fd = open("/dev/null", O_RDONLY);
    dup2(null_fd, STDIN_FILENO);
    for (const std::string& entry : environment) putenv(const_cast<char*>(entry.c_str()));
    execvp(args[0], args.data());
    _exit(127);
  }
  close(pipe_fds[1]);
  return std::unique_ptr<Subprocess>(new Subprocess(pid, pipe_fds[0]));
}

Subprocess::~Subprocess() {
  if (!exit_code_ && !Reap(/*block=*/false)) {
    Signal(SIGKILL);
    Reap(/*block=*/true);
  }
  close(fd_);
}

void Subprocess::Signal(int signal) { kill(pid_, signal); }

std::optional<int> Subprocess::Reap(bool block) {
  if (exit_code_) return exit_code_;
  int status = 0;
  if (waitpid(pid_, &status, block ? 0 : WNOHANG) != pid_) return std::nullopt;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit_code_;
}

std::optional<std::string> Subprocess::ReadLine(absl::Duration timeout) {
  const Deadline deadline(timeout);
  while (true) {
    const size_t end = output_.find('\n', line_begin_);
    if (end != std::string::npos) {
      std::string line = output_.substr(line_begin_, end - line_begin_);
      line_begin_ = end + 1;
      return line;
    }
    if (ended_) return std::nullopt;
    pollfd waited = {fd_, POLLIN, 0};
    if (poll(&waited, 1, deadline.LeftMs()) <= 0) return std::nullopt;
    char buffer[4096];
    const ssize_t count = read(fd_, buffer, sizeof(buffer));
    if (count <= 0) {
      ended_ = true;
    } else {
      output_.append(buffer, static_cast<size_t>(count));
    }
  }
}

bool Subprocess::ReadUntil(const std::function<bool(const std::string&)>& wanted,
                           absl::Duration timeout) {
  const Deadline deadline(timeout);
  while (auto line = ReadLine(absl::Milliseconds(deadline.LeftMs()))) {
    if (wanted(*line)) return true;
  }
  return false;
}

std::optional<int> Subprocess::Wait(absl::Duration timeout) {
  const Deadline deadline(timeout);
  while (ReadLine(absl::Milliseconds(deadline.LeftMs()))) {
  }
  if (!ended_) return std::nullopt;
  // The pipe is closed: what is left is the exit itself. A child that inherited the pipe is none of
  // ours.
  return Reap(/*block=*/true);
}

ProgramResult RunProgram(const std::vector<std::string>& argv, absl::Duration timeout,
                         const std::vector<std::string>& environment) {
  auto program = Subprocess::Start(argv, environment);
  ProgramResult result;
  result.exit_code = program->Wait(timeout).value_or(-1);
  result.output = program->output();
  return result;
}

bool AwaitEnd(pid_t pid, absl::Duration timeout) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return errno == ESRCH;
  pollfd waited = {fd, POLLIN, 0};
  const bool ended = poll(&waited, 1, Deadline(timeout).LeftMs()) == 1;
  close(fd);
  return ended;
}

std::vector<pid_t> ChildrenOf(pid_t parent, const std::string& name) {
  std::vector<pid_t> found;
  DIR* proc = opendir("/proc");
  CRESCENDO_CHECK(proc != nullptr);
  while (dirent* entry = readdir(proc)) {
    const pid_t pid = std::atoi(entry->d_name);
    if (pid <= 0) continue;
    const std::string folder = std::string("/proc/") + entry->d_name;
    char state = 'Z';
    pid_t ppid = 0;
    if (!ReadStat(folder, state, ppid) || ppid != parent || state == 'Z') continue;
    if (ReadAll(folder + "/cmdline").find(name) != std::string::npos) found.push_back(pid);
  }
  closedir(proc);
  return found;
}

std::string BuiltProgram(const std::string& name) {
  const char* build = std::getenv("CRESCENDO_BUILD_DIR");
  return std::string(build != nullptr ? build : "build") + "/bin/" + name;
}

}  // namespace crescendo
