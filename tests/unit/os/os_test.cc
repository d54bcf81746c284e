// The real file system keeps the promises of env.h, logs are logfmt, and a signal becomes a request
// to stop.
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/os/env.h"
#include "common/os/gpu_claim.h"
#include "common/os/log.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

class FixedClock : public Clock {
 public:
  absl::Time Now() override { return absl::FromUnixMillis(1'700'000'000'123); }
  void SleepFor(absl::Duration) override {}
};

TEST_CASE("a written file reads back, replaces the old one and leaves no temporary") {
  TempDir dir;
  REQUIRE(dir.files->WriteFile(dir / "a", "one").ok());
  REQUIRE(dir.files->WriteFile(dir / "a", std::string("two\0three", 9)).ok());
  CHECK(*dir.files->ReadFile(dir / "a", 9) == std::string("two\0three", 9));
  CHECK(*dir.files->FileSize(dir / "a") == 9);
  CHECK(*dir.files->ListDir(dir.path()) == std::vector<std::string>{"a"});
}

TEST_CASE("a file longer than the bound is refused with its name") {
  TempDir dir;
  REQUIRE(dir.files->WriteFile(dir / "a", "0123456789").ok());
  const auto read = dir.files->ReadFile(dir / "a", 9);
  CHECK(read.status().code() == absl::StatusCode::kResourceExhausted);
  CHECK(std::string(read.status().message()) ==
        absl::StrCat("read ", dir / "a", ": longer than the bound of 9 bytes"));
  CHECK(dir.files->ReadFile("/proc/self/status", 64).status().code() ==
        absl::StatusCode::kResourceExhausted);
  CHECK(dir.files->ReadFile("/proc/self/status", 1 << 20).ok());
}

TEST_CASE("an atomic file that is not committed leaves the old contents and nothing else") {
  TempDir dir;
  REQUIRE(dir.files->WriteFile(dir / "a", "old").ok());
  {
    auto file = dir.files->CreateAtomic(dir / "a");
    REQUIRE(file.ok());
    REQUIRE((*file)->Append("new").ok());
  }
  CHECK(*dir.files->ReadFile(dir / "a", 100) == "old");
  CHECK(dir.files->ListDir(dir.path())->size() == 1);
}

TEST_CASE("appends go to the end, also after the file is opened again") {
  TempDir dir;
  for (const char* part : {"a", "b"}) {
    auto file = dir.files->OpenAppend(dir / "log");
    REQUIRE(file.ok());
    REQUIRE((*file)->Append(part).ok());
    REQUIRE((*file)->Append("\n").ok());
    REQUIRE((*file)->Sync().ok());
  }
  CHECK(*dir.files->ReadFile(dir / "log", 100) == "a\nb\n");
}

TEST_CASE("a mapping keeps its bytes when the file is replaced") {
  TempDir dir;
  REQUIRE(dir.files->WriteFile(dir / "a", "old").ok());
  auto map = dir.files->MemoryMap(dir / "a");
  REQUIRE(map.ok());
  REQUIRE(dir.files->WriteFile(dir / "a", "replaced").ok());
  CHECK(std::string((*map)->bytes().begin(), (*map)->bytes().end()) == "old");
  REQUIRE(dir.files->WriteFile(dir / "empty", "").ok());
  CHECK((*dir.files->MemoryMap(dir / "empty"))->bytes().empty());
  CHECK(dir.files->MemoryMap(dir.path()).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("folders are made, listed in order, renamed and removed whole") {
  TempDir dir;
  REQUIRE(dir.files->MakeDirs(dir / "x/y/z").ok());
  REQUIRE(dir.files->MakeDirs(dir / "x/y/z").ok());
  REQUIRE(dir.files->MakeDirs(dir / "x/a/").ok());
  REQUIRE(dir.files->WriteFile(dir / "x/y/f", "1").ok());
  CHECK(*dir.files->ListDir(dir / "x/y") == std::vector<std::string>{"f", "z"});
  REQUIRE(dir.files->Rename(dir / "x/y/f", dir / "x/g").ok());
  CHECK(dir.files->Exists(dir / "x/g"));
  CHECK_FALSE(dir.files->IsDirectory(dir / "x/g"));
  CHECK(dir.files->Remove(dir / "x").code() == absl::StatusCode::kAlreadyExists);
  CHECK(dir.files->MakeDirs(dir / "x/g/h").code() == absl::StatusCode::kNotFound);
  REQUIRE(dir.files->RemoveTree(dir / "x").ok());
  CHECK_FALSE(dir.files->Exists(dir / "x"));
  CHECK(dir.files->RemoveTree(dir / "x").ok());
}

TEST_CASE("a missing file is NOT_FOUND and names operation and path") {
  TempDir dir;
  CHECK(dir.files->ReadFile(dir / "no", 1).status().ToString() ==
        absl::StrCat("NOT_FOUND: open ", dir / "no", ": No such file or directory"));
  CHECK(dir.files->WriteFile(dir / "no/a", "").code() == absl::StatusCode::kNotFound);
}

TEST_CASE("paths are joined and taken apart") {
  CHECK(JoinPath("a", "b") == "a/b");
  CHECK(JoinPath("a/", "b") == "a/b");
  CHECK(JoinPath("", "b") == "b");
  CHECK(DirName("a/b") == "a");
  CHECK(DirName("/a") == "/");
  CHECK(DirName("a") == ".");
  CHECK(BaseName("a/b") == "b");
}

TEST_CASE("log lines are logfmt or JSON, quoted where needed, and below the level silent") {
  FixedClock clock;
  std::string out;
  Logger log("learner", "learner-0", LogLevel::kInfo, &clock,
             [&out](absl::string_view line) { absl::StrAppend(&out, line); });
  log.Debug("hidden");
  log.Info("step done", {{"step", 7},
                         {"loss", 0.5},
                         {"ok", true},
                         {"took", absl::Milliseconds(1500)},
                         {"text", "a=\"b\"\n\x01"},
                         {"empty", ""},
                         {"status", absl::NotFoundError("x y")}});
  CHECK(out ==
        "time=2023-11-14T22:13:20.123Z level=info service=learner instance=learner-0 msg=\"step "
        "done\" step=7 "
        "loss=0.5 ok=true took=1.5s text=\"a=\\\"b\\\"\\n\\x01\" empty=\"\" status=\"NOT_FOUND: x "
        "y\"\n");
  out.clear();
  log.Error("long", {{"v", std::string(100'000, 'x')}});
  CHECK(out.size() < 9000);
  out.clear();
  const Logger json =
      Logger(
          "rollout", "w\"1\"", LogLevel::kInfo, &clock,
          [&out](absl::string_view line) { absl::StrAppend(&out, line); }, LogFormat::kJson)
          .With({{"run", "r-1"}});
  json.Warn(
      "lost",
      {{"group", 7}, {"loss", 0.5}, {"bad", std::nan("")}, {"ok", false}, {"text", "a\n\x01"}});
  CHECK(out ==
        "{\"time\":\"2023-11-14T22:13:20.123Z\",\"level\":\"warn\",\"service\":\"rollout\","
        "\"instance\":\"w\\\"1\\\"\",\"run\":\"r-1\",\"msg\":\"lost\",\"group\":7,\"loss\":0.5,"
        "\"bad\":\"nan\",\"ok\":false,\"text\":\"a\\u000a\\u0001\"}\n");
  CHECK(ParseLogLevel("warn") == LogLevel::kWarn);
  CHECK_FALSE(ParseLogLevel("loud").has_value());
}

TEST_CASE("a run that is known later stands in the lines of every copy of a logger") {
  FixedClock clock;
  std::string out;
  const Logger log("rollout", "rollout-0", LogLevel::kInfo, &clock,
                   [&out](absl::string_view line) { absl::StrAppend(&out, line); });
  const Logger early = log.With({{"worker", "rollout-0"}});
  early.Info("a");
  CHECK(log.run().empty());
  log.SetRun("demo-1");
  CHECK(early.run() == "demo-1");
  early.Info("b", {{"group", 7}});
  const std::string head =
      "time=2023-11-14T22:13:20.123Z level=info service=rollout instance=rollout-0 ";
  CHECK(out ==
        head + "worker=rollout-0 msg=a\n" + head + "worker=rollout-0 run=demo-1 msg=b group=7\n");
}

TEST_CASE("a signal is a request to stop, and so is Request") {
  {
    StopSignal stop;
    CHECK_FALSE(stop.requested());
    REQUIRE(kill(getpid(), SIGTERM) == 0);
    CHECK(stop.WaitFor(absl::Seconds(30)));
    CHECK(stop.signal_number() == SIGTERM);
  }
  StopSignal stop;
  stop.Request();
  CHECK(stop.requested());
  CHECK(stop.signal_number() == 0);
}

TEST_CASE("the clock goes forward and memory is measured") {
  const auto clock = MakeRealClock();
  const absl::Time first = clock->Now();
  CHECK(clock->Now() >= first);
  CHECK(ResidentBytes() > 0);
  CHECK(PeakResidentBytes() >= ResidentBytes() / 2);
}

TEST_CASE("GPUs go to who asks in turn, are shared when there are no more, and come back") {
  const TempDir dir;
  const std::string folder = dir / "claims";
  const auto take = [&] {
    auto claim = GpuClaim::Take(folder, {"0", "1"});
    INFO(claim.status().ToString());
    REQUIRE(claim.ok());
    return std::move(*claim);
  };
  const GpuClaim first = take();
  auto second = std::make_unique<GpuClaim>(take());
  const GpuClaim third = take();
  CHECK(first.gpu() == "0");
  CHECK(second->gpu() == "1");
  CHECK(third.gpu() == "0");
  second = nullptr;  // as when its process ends
  CHECK(take().gpu() == "1");
  CHECK(GpuClaim::Take(folder, {}).status().code() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("the GPUs of a process are those that the environment or the devices name") {
  const TempDir dir;
  for (const char* name : {"nvidia0", "nvidia3", "nvidiactl"}) {
    REQUIRE(dir.files->WriteFile(dir / name, "").ok());
  }
  unsetenv("CUDA_VISIBLE_DEVICES");
  CHECK(VisibleGpus(dir.path()) == std::vector<std::string>{"0", "3"});
  setenv("CUDA_VISIBLE_DEVICES", "2,GPU-1", 1);
  CHECK(VisibleGpus(dir.path()) == std::vector<std::string>{"2", "GPU-1"});
  unsetenv("CRESCENDO_GPU_CLAIMS");
  const auto none = TakeGpuOfEnvironment(true);
  CHECK((none.ok() && !none->has_value()));
  setenv("CRESCENDO_GPU_CLAIMS", dir.path().c_str(), 1);
  CHECK_FALSE(TakeGpuOfEnvironment(false)->has_value());
  const auto taken = TakeGpuOfEnvironment(true);
  REQUIRE((taken.ok() && taken->has_value()));
  CHECK((*taken)->gpu() == "2");
  CHECK(std::string(std::getenv("CUDA_VISIBLE_DEVICES")) == "2");
  unsetenv("CUDA_VISIBLE_DEVICES");
  unsetenv("CRESCENDO_GPU_CLAIMS");
}

}  // namespace
}  // namespace crescendo
