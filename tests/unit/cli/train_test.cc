// `crescendo train` with fake services: runs to the end, restarts, stops on Ctrl-C and resumes, and
// tells a user's mistake with status 2.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "deploy/cli/child_process.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

constexpr char kRecipe[] = R"([run]
name = "fake"
steps = 4
[policy]
path = "base"
[data]
train = "train.jsonl"
[[stage]]
context_tokens = 48
)";

class Fixture {
 public:
  Fixture() {
    const char* build = std::getenv("CRESCENDO_BUILD_DIR");
    REQUIRE(build != nullptr);
    REQUIRE(files_->MakeDirs(folder_ + "/bin").ok());
    // The command looks for the services beside itself: a copy of it stands among the fakes.
    const std::string to = folder_ + "/bin/";
    REQUIRE(RunTool({"cp", absl::StrCat(build, "/bin/crescendo"), to}, "").ok());
    for (const char* service : {"coordinator", "reward", "learner", "rollout"}) {
      REQUIRE(symlink(absl::StrCat(build, "/tests/fake_service").c_str(),
                      absl::StrCat(to, "crescendo-", service).c_str()) == 0);
    }
    REQUIRE(files_->WriteFile(folder_ + "/fake.toml", kRecipe).ok());
  }

  std::string out() const { return folder_ + "/out"; }
  void Wish(const std::string& service, const std::string& what) {
    REQUIRE(files_->MakeDirs(out()).ok());
    REQUIRE(files_->WriteFile(absl::StrCat(out(), "/crescendo-", service, ".wish"), what).ok());
  }
  std::unique_ptr<ChildProcess> Start(const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {folder_ + "/bin/crescendo", "train", folder_ + "/fake.toml",
                                        "--out", out()};
    command.insert(command.end(), more.begin(), more.end());
    (void)files_->Remove(folder_ + "/output");
    auto child = ChildProcess::Spawn(command, folder_ + "/output");
    REQUIRE(child.ok());
    return std::move(child).value();
  }
  // The status with which it ends, within a minute.
  int Wait(ChildProcess& child) {
    const absl::Time deadline = RealNow() + absl::Seconds(60);
    while (RealNow() < deadline) {
      if (const auto exit = child.Poll()) return exit->by_signal ? -exit->number : exit->number;
      clock_->SleepFor(absl::Milliseconds(10));
    }
    return -1000;
  }
  int Train(const std::vector<std::string>& more = {}) { return Wait(*Start(more)); }
  std::string Output() const { return Read(folder_ + "/output"); }
  std::string Read(const std::string& path) const {
    const auto text = files_->ReadFile(path, 1 << 24);
    return text.ok() ? *text : "";
  }
  nlohmann::json Report() const {
    return nlohmann::json::parse(Read(out() + "/report.json"), nullptr, false);
  }
  bool Exists(const std::string& name) const { return files_->Exists(out() + "/" + name); }
  Clock& clock() { return *clock_; }

 private:
  const TempDir dir_;
  FileSystem* const files_ = dir_.files.get();
  std::unique_ptr<Clock> clock_ = MakeRealClock();
  const std::string& folder_ = dir_.path();
};

TEST_CASE("a run goes to its end and leaves its report") {
  Fixture f;
  const int status = f.Train({"--seed=3", "--workers", "1"});
  INFO(f.Output());
  REQUIRE(status == 0);
  CHECK(f.Report()["steps"] == 4);
  CHECK(f.Report()["seed"] == 3);
  CHECK(f.Report()["rollout_workers"] == 1);
  CHECK(f.Exists("metrics.jsonl"));
  CHECK(f.Exists("report.html"));
  CHECK(f.Exists("logs/rollout-0.log"));
  CHECK_FALSE(f.Exists("logs/rollout-1.log"));
  CHECK_FALSE(f.Exists("addresses.json"));
  CHECK(absl::StrContains(f.Output(), "step 4/4"));
  SECTION("again: it says that it is finished; more steps go on") {
    CHECK(f.Train({"--seed=3"}) == 0);
    CHECK(absl::StrContains(f.Output(), "this run is finished"));
    CHECK(f.Train({"--seed=3", "--steps", "6"}) == 0);
    CHECK(f.Report()["steps"] == 6);
  }
  SECTION("another seed in the same folder is refused, with the key") {
    CHECK(f.Train({"--seed=4"}) == 2);
    CHECK(absl::StrContains(f.Output(),
                            "another configuration ([run] seed = 3 there, seed = 4 here)"));
  }
}

TEST_CASE("a service that dies is started again and the run ends well") {
  Fixture f;
  f.Wish("learner", "die-once");
  const int status = f.Train({"--run.steps=12"});
  INFO(f.Output());
  CHECK(status == 0);
  CHECK(absl::StrContains(f.Output(), "learner was ended by SIGKILL (9)"));
  CHECK(f.Read(f.out() + "/logs/learner.log") == "crescendo-learner up\ncrescendo-learner up\n");
}

TEST_CASE("a service that ends with 2 ends the run with its words and 2, and no report") {
  Fixture f;
  f.Wish("learner", "user-error");
  CHECK(f.Train({"--run.steps=1000000"}) == 2);
  INFO(f.Output());
  CHECK(absl::StrContains(f.Output(), "learner ended with status 2"));
  CHECK(absl::StrContains(f.Output(), "the model file is cut short"));
  CHECK_FALSE(f.Exists("report.json"));
}

TEST_CASE("Ctrl-C stops all of it with 130, and the same command goes on") {
  Fixture f;
  auto child = f.Start({"--run.steps=1000000"});
  const absl::Time deadline = RealNow() + absl::Seconds(60);
  while (!absl::StrContains(f.Output(), "step 3/") && RealNow() < deadline) {
    f.clock().SleepFor(absl::Milliseconds(20));
  }
  CHECK(f.Exists("addresses.json"));
  SECTION("a second crescendo in the same folder is refused meanwhile") {
    auto second =
        ChildProcess::Spawn({"/bin/sh", "-c",
                             absl::StrCat("exec ", f.out(), "/../bin/crescendo train ", f.out(),
                                          "/../fake.toml --run.steps=1000000 --out ", f.out())},
                            f.out() + "/second-output");
    REQUIRE(second.ok());
    CHECK(f.Wait(**second) == 2);
    CHECK(absl::StrContains(f.Read(f.out() + "/second-output"),
                            "another crescendo trains there now"));
  }
  child->Signal(SIGINT);
  CHECK(f.Wait(*child) == 130);
  CHECK(absl::StrContains(f.Output(), "stopped; the same command resumes"));
  const auto left =
      RunTool({"/bin/sh", "-c", absl::StrCat("pgrep -f ", f.out(), "/config.toml || true")}, "");
  REQUIRE(left.ok());
  // pgrep's own shell carries the pattern too; no service does.
  CHECK_FALSE(absl::StrContains(f.Read(absl::StrCat("/proc/", *left, "/comm")), "crescendo"));
  CHECK_FALSE(f.Exists("report.json"));
  const int steps = std::atoi(f.Read(f.out() + "/fake-steps").c_str());
  CHECK(f.Train({absl::StrCat("--run.steps=", steps + 2)}) == 0);
  CHECK(absl::StrContains(f.Output(), "the run is at step "));
  CHECK(f.Report()["steps"] == steps + 2);
}

TEST_CASE("a dry run prints the configuration and the commands, and makes nothing") {
  Fixture f;
  CHECK(f.Train({"--dry-run"}) == 0);
  CHECK(absl::StrContains(f.Output(), "context_tokens = 48"));
  CHECK(absl::StrContains(f.Output(), "# rollout-1: "));
  CHECK_FALSE(f.Exists("config.toml"));
}

}  // namespace
}  // namespace crescendo
