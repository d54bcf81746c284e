// The supervisor starts again what dies, gives up when it must, and leaves nothing behind.
#include "deploy/cli/supervisor.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "catch2/catch.hpp"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

constexpr ProcessExit kKilled{.by_signal = true, .number = SIGKILL};
constexpr ProcessExit kFailed{.by_signal = false, .number = 1};
constexpr ProcessExit kUser{.by_signal = false, .number = 2};

TEST_CASE("waits double with each quick death, and the sixth in a row is the last") {
  RestartPolicy policy;
  const int expected_ms[] = {200, 400, 800, 1600, 3200};
  for (const int wait_ms : expected_ms) {
    const auto decision = policy.OnExit(kKilled, absl::Seconds(1), absl::InfiniteDuration());
    REQUIRE(decision.restart);
    CHECK(decision.wait == absl::Milliseconds(wait_ms));
  }
  const auto last = policy.OnExit(kFailed, absl::Seconds(1), absl::InfiniteDuration());
  CHECK_FALSE(last.restart);
  CHECK(last.reason ==
        "ended with status 1 (it failed), the 6th time in a row within 10s of its start");
}

TEST_CASE("a long life clears the record") {
  RestartPolicy policy;
  for (int i = 0; i < 100; ++i) {
    const auto lifetime = i % 5 == 4 ? absl::Seconds(11) : absl::Seconds(1);
    CHECK(policy.OnExit(kKilled, lifetime, absl::InfiniteDuration()).restart);
  }
}

TEST_CASE("status 2 is final, unless another process has just died") {
  CHECK_FALSE(RestartPolicy().OnExit(kUser, absl::Seconds(100), absl::InfiniteDuration()).restart);
  CHECK_FALSE(RestartPolicy().OnExit(kUser, absl::Seconds(1), absl::Seconds(61)).restart);
  CHECK(RestartPolicy().OnExit(kUser, absl::Seconds(1), absl::Seconds(59)).restart);
}

TEST_CASE("an exit is told in words") {
  CHECK(DescribeExit(kKilled) ==
        "was ended by SIGKILL (9): by hand, or because the machine ran out of memory");
  CHECK(DescribeExit({.by_signal = true, .number = SIGSEGV}) ==
        "was ended by SIGSEGV (11): a bug in it; its log may say more");
  CHECK(DescribeExit({.by_signal = false, .number = 0}) == "ended with status 0");
}

// Children are shell scripts; waiting is on what they do, with a bound.
class Fixture {
 public:
  Supervisor& Make(const std::vector<std::string>& scripts, absl::Duration grace) {
    std::vector<SupervisedService> services;
    for (const std::string& script : scripts) {
      services.push_back({.name = absl::StrCat("child-", services.size()),
                          .command = {"/bin/sh", "-c", script, folder_},
                          .stop_rank = static_cast<int>(services.size()),
                          .stop_grace = grace});
    }
    supervisor_ = std::make_unique<Supervisor>(
        clock_.get(), std::move(services), folder_,
        [this](absl::string_view line) { told_.push_back(std::string(line)); });
    REQUIRE(supervisor_->Start().ok());
    return *supervisor_;
  }
  // Polls until `done` or an error, for at most 20 s.
  template <typename Done>
  absl::Status PollUntil(Done done) {
    const absl::Time deadline = RealNow() + absl::Seconds(20);
    while (!done() && RealNow() < deadline) {
      const absl::Status status = supervisor_->Poll();
      if (!status.ok()) return status;
      clock_->SleepFor(absl::Milliseconds(5));
    }
    CHECK(done());
    return absl::OkStatus();
  }
  std::string Log(const std::string& name) {
    const auto text = files_->ReadFile(supervisor_->LogFile(name), 1 << 20);
    return text.ok() ? *text : "";
  }
  const std::string& folder() const { return folder_; }
  const std::vector<std::string>& told() const { return told_; }

 private:
  const TempDir dir_;
  FileSystem* const files_ = dir_.files.get();
  std::unique_ptr<Clock> clock_ = MakeRealClock();
  const std::string& folder_ = dir_.path();
  std::vector<std::string> told_;
  std::unique_ptr<Supervisor> supervisor_;
};

TEST_CASE("a child that is killed is started again and the restart is told") {
  Fixture f;
  Supervisor& supervisor = f.Make({"echo up; exec sleep 1000"}, absl::Seconds(5));
  const pid_t first = supervisor.Pid("child-0");
  REQUIRE(f.PollUntil([&] { return f.Log("child-0") == "up\n"; }).ok());
  kill(first, SIGKILL);
  REQUIRE(f.PollUntil([&] { return f.Log("child-0") == "up\nup\n"; }).ok());
  CHECK(supervisor.Pid("child-0") != first);
  CHECK(supervisor.restarts() == 1);
  REQUIRE(f.told().size() == 1);
  CHECK(absl::StartsWith(f.told()[0], "child-0 was ended by SIGKILL (9)"));
  supervisor.Stop();
  CHECK(supervisor.Pid("child-0") == 0);
}

TEST_CASE("a child that ends with 2 ends the run with the end of its log") {
  Fixture f;
  Supervisor& supervisor =
      f.Make({"exec sleep 1000", "echo the port is in use >&2; exit 2"}, absl::Seconds(5));
  const absl::Status status = f.PollUntil([] { return false; });
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(absl::StrContains(std::string(status.message()),
                          "child-1 ended with status 2 (something in its input has to be put "
                          "right). The end of "));
  CHECK(absl::StrContains(std::string(status.message()), "\n  | the port is in use\n"));
  CHECK(supervisor.restarts() == 0);
}

TEST_CASE("a program that does not exist is told, not tried forever") {
  Fixture f;
  std::vector<SupervisedService> services = {{.name = "x", .command = {"/no/such/program"}}};
  const auto clock = MakeRealClock();
  Supervisor supervisor(clock.get(), services, f.folder(), [](absl::string_view) {});
  REQUIRE(supervisor.Start().ok());
  absl::Status status;
  const absl::Time deadline = RealNow() + absl::Seconds(30);
  while (status.ok() && RealNow() < deadline) {
    status = supervisor.Poll();
    clock->SleepFor(absl::Milliseconds(5));
  }
  CHECK(status.code() == absl::StatusCode::kAborted);
  CHECK(
      absl::StrContains(std::string(status.message()), "cannot execute /no/such/program: ENOENT"));
}

TEST_CASE("stopping goes by rank, asks first, and kills what does not listen") {
  Fixture f;
  const std::string polite =
      "trap 'echo end-$$ >> $0/order; exit 0' TERM; echo up; "
      "while :; do sleep 0.01; done";
  const std::string deaf = "trap '' TERM; echo up; while :; do sleep 0.01; done";
  Supervisor& supervisor = f.Make({polite, deaf, polite}, absl::Milliseconds(500));
  const pid_t first = supervisor.Pid("child-0");
  const pid_t last = supervisor.Pid("child-2");
  REQUIRE(f.PollUntil([&] {
             return f.Log("child-0") == "up\n" && f.Log("child-1") == "up\n" &&
                    f.Log("child-2") == "up\n";
           }).ok());
  supervisor.Stop();
  const auto order = MakePosixFileSystem()->ReadFile(f.folder() + "/order", 1000);
  REQUIRE(order.ok());
  CHECK(*order == absl::StrCat("end-", first, "\nend-", last, "\n"));
  CHECK(f.told() == std::vector<std::string>{"child-1 did not stop within 500ms: killed"});
}

TEST_CASE("children die with a supervisor that is killed") {
  Fixture f;
  const std::string pid_file = f.folder() + "/pid";
  const pid_t middle = fork();
  if (middle == 0) {
    auto child = ChildProcess::Spawn(
        {"/bin/sh", "-c", "echo $$ > $0.part; mv $0.part $0; exec sleep 1000", pid_file},
        f.folder() + "/log");
    pause();
    _exit(0);
  }
  const auto files = MakePosixFileSystem();
  const auto clock = MakeRealClock();
  const absl::Time deadline = RealNow() + absl::Seconds(20);
  while (!files->Exists(pid_file) && RealNow() < deadline) clock->SleepFor(absl::Milliseconds(5));
  const auto text = files->ReadFile(pid_file, 100);
  REQUIRE(text.ok());
  const pid_t child = static_cast<pid_t>(std::atoi(text->c_str()));
  REQUIRE(child > 1);
  CHECK(kill(child, 0) == 0);
  kill(middle, SIGKILL);
  const auto gone = [&] {
    const auto stat = files->ReadFile(absl::StrCat("/proc/", child, "/stat"), 4096);
    return !stat.ok() || absl::StrContains(*stat, ") Z ");
  };
  while (!gone() && RealNow() < deadline) clock->SleepFor(absl::Milliseconds(5));
  CHECK(gone());
}

TEST_CASE("a tool gets its input and gives its output, or says why not") {
  const std::string big(1 << 20, 'x');
  CHECK(*RunTool({"cat"}, big) == big);
  CHECK(RunTool({"/no/such/tool"}, "").status().code() == absl::StatusCode::kUnavailable);
  const auto failed = RunTool({"/bin/sh", "-c", "echo no luck >&2; exit 3"}, "");
  CHECK(std::string(failed.status().message()) == "/bin/sh ended with status 3: no luck\n");
}

}  // namespace
}  // namespace crescendo
