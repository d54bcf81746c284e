// What a user can get wrong: each case ends with status 2 and a message that says what and where,
// and leaves nothing half-written behind.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/server.h"
#include "crescendo/v1/coordinator.grpc.pb.h"
#include "tests/support/subprocess.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

constexpr absl::Duration kEndsIn = absl::Seconds(60);
constexpr size_t kFileMax = 16u << 20;
const std::vector<std::string> kServices = {"coordinator", "learner", "reward", "rollout"};

// The demo's recipe and its files in a folder of their own, to be spoilt.
struct World {
  World() {
    for (const char* name : {"demo.toml", "demo-train.jsonl", "demo-eval.jsonl"}) Copy(name);
    for (const char* name : {"config.json", "generation_config.json", "model.safetensors",
                             "tokenizer.json", "tokenizer_config.json"}) {
      Copy(absl::StrCat("demo-base/", name));
    }
  }
  void Copy(const std::string& name) {
    REQUIRE(dir.files->MakeDirs(DirName(dir / name)).ok());
    const auto text = dir.files->ReadFile("deploy/recipes/" + name, kFileMax);
    REQUIRE(text.ok());
    Write(name, *text);
  }
  void Write(const std::string& name, const std::string& text) {
    REQUIRE(dir.files->WriteFile(dir / name, text).ok());
  }
  std::string Read(const std::string& name) const {
    const auto text = dir.files->ReadFile(dir / name, kFileMax);
    REQUIRE(text.ok());
    return *text;
  }
  // Replaces `from`, which must be there, and gives its line.
  int Spoil(const std::string& name, const std::string& from, const std::string& to) {
    const std::string text = Read(name);
    const size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    Write(name, text.substr(0, at) + to + text.substr(at + from.size()));
    return 1 + static_cast<int>(std::count(text.begin(), text.begin() + at, '\n'));
  }

  std::vector<std::string> Train(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> argv = {
        BuiltProgram("crescendo"), "train", dir / "demo.toml", "--plain", "--out", dir / "out"};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  // A service by itself, on free ports, with nobody to talk to.
  std::vector<std::string> Service(const std::string& name,
                                   const std::vector<std::string>& more = {}) const {
    std::vector<std::string> argv = {BuiltProgram("crescendo-" + name),
                                     "--config",
                                     dir / "demo.toml",
                                     "--run.out=" + dir / "out",
                                     "--network.connect_timeout=1s",
                                     absl::StrCat("--network.", name, "=127.0.0.1:0")};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  // Nothing of a run, and no file that was left half-written: at most logs and traces.
  void CheckNothingWritten() const {
    if (!dir.files->Exists(dir / "out")) return;
    const auto names = dir.files->ListDir(dir / "out");
    REQUIRE(names.ok());
    for (const std::string& name : *names) CHECK((name == "logs" || name == "trace"));
  }

  TempDir dir;
};

void CheckRefused(const std::vector<std::string>& argv, const std::vector<std::string>& said) {
  const ProgramResult result = RunProgram(argv, kEndsIn);
  INFO(result.output);
  CHECK(result.exit_code == 2);
  for (const std::string& words : said) {
    INFO("expected: " << words);
    CHECK(absl::StrContains(result.output, words));
  }
}

// A loopback port that somebody listens on.
class HeldPort {
 public:
  HeldPort() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(bind(fd_, generic, size) == 0);
    REQUIRE(listen(fd_, 1) == 0);
    REQUIRE(getsockname(fd_, generic, &size) == 0);
    address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  }
  ~HeldPort() { close(fd_); }
  HeldPort(const HeldPort&) = delete;
  HeldPort& operator=(const HeldPort&) = delete;
  const std::string& address() const { return address_; }

 private:
  const int fd_;
  std::string address_;
};

// An address where nobody listens: it was free a moment ago.
std::string SilentAddress() { return HeldPort().address(); }

TEST_CASE("Keys and sections that do not exist: file, line, and the nearest that does") {
  World world;
  const int key = world.Spoil("demo.toml", "learning_rate =", "learning_rte =");
  const int section = world.Spoil("demo.toml", "[reward]", "[rewrd]");
  const std::vector<std::string> said = {
      absl::StrCat(world.dir / "demo.toml", ":", key,
                   ": unknown key 'optimizer.learning_rte'; did you mean 'learning_rate'?"),
      absl::StrCat("demo.toml:", section, ": unknown section 'rewrd'; did you mean 'reward'?")};
  CheckRefused(world.Train(), said);
  for (const std::string& service : kServices) CheckRefused(world.Service(service), said);
  CHECK_FALSE(world.dir.files->Exists(world.dir / "out"));
}

TEST_CASE("Overrides and options that do not exist or do not fit") {
  World world;
  CheckRefused(world.Train({"--optimizer.lerning_rate=1"}),
               {"--optimizer.lerning_rate: unknown key 'optimizer.lerning_rate'; did you mean "
                "'learning_rate'?"});
  CheckRefused(world.Train({"--stage.3.context_tokens=8"}), {"there is no stage 3"});
  CheckRefused(world.Train({"--learner.threads=many"}), {"--learner.threads", "many"});
  CheckRefused(world.Train({"--worker=2"}), {"unknown option '--worker=2'", "--workers"});
  CheckRefused({BuiltProgram("crescendo"), "trian", world.dir / "demo.toml"},
               {"unknown command 'trian'", "train"});
  CheckRefused({BuiltProgram("crescendo"), "train", world.dir / "nowhere.toml"},
               {"nowhere.toml", "No such file"});
  CheckRefused({BuiltProgram("crescendo-learner")}, {"--config FILE is required"});
  CHECK_FALSE(world.dir.files->Exists(world.dir / "out"));
}

// Both ends that read the model say the same, and the run that began with them is forgotten.
void CheckModelRefused(const World& world, const std::vector<std::string>& said,
                       const std::vector<std::string>& more = {}) {
  for (const char* service : {"learner", "rollout"})
    CheckRefused(world.Service(service, more), said);
  CheckRefused(world.Train(more), said);
  world.CheckNothingWritten();
}

TEST_CASE("The model's folder is not there, or is no folder") {
  World world;
  const std::string nowhere = world.dir / "nowhere";
  CheckModelRefused(world, {nowhere + " does not exist", "a Hugging Face folder or a .gguf file"},
                    {"--policy.path=" + nowhere});
  CheckModelRefused(world, {"demo.toml is a file", "a Hugging Face folder or a .gguf file"},
                    {"--policy.path=" + world.dir / "demo.toml"});
}

TEST_CASE("A safetensors file that was cut short") {
  World world;
  const std::string whole = world.Read("demo-base/model.safetensors");
  world.Write("demo-base/model.safetensors", whole.substr(0, whole.size() / 2));
  CheckModelRefused(world, {"demo-base/model.safetensors", "is the file cut short?"});
  world.Write("demo-base/model.safetensors", whole.substr(0, 4));
  CheckModelRefused(world, {"demo-base/model.safetensors"});
}

TEST_CASE("A GGUF file that was cut short, and one that is none") {
  World world;
  world.Write("model.gguf", std::string("GGUF\x03\0\0\0\x01\0\0\0", 12));
  CheckModelRefused(world, {"model.gguf"}, {"--policy.path=" + world.dir / "model.gguf"});
  world.Write("model.gguf", "this is a text");
  CheckModelRefused(world, {"model.gguf"}, {"--policy.path=" + world.dir / "model.gguf"});
}

TEST_CASE("A model file of another shape than its configuration: tensor, expected, found") {
  World world;
  world.Spoil("demo-base/config.json", "\"hidden_size\": 96", "\"hidden_size\": 112");
  CheckModelRefused(world, {"demo-base/model.safetensors", "'model.embed_tokens.weight'",
                            "expected shape [47, 112], found [47, 96]"});
}

TEST_CASE("A model without its tokenizer") {
  World world;
  REQUIRE(world.dir.files->Remove(world.dir / "demo-base/tokenizer.json").ok());
  const std::vector<std::string> said = {"demo-base holds no tokenizer.json", "policy.tokenizer"};
  CheckRefused(world.Service("rollout"), said);
  CheckRefused(world.Train(), said);
  world.CheckNothingWritten();
}

TEST_CASE("Rows without problem or answer: file and line, for both data sets") {
  World world;
  for (const char* set : {"demo-train.jsonl", "demo-eval.jsonl"}) {
    const std::string whole = world.Read(set);
    const std::vector<std::string> lines = absl::StrSplit(whole, '\n');
    for (const char* field : {"problem", "answer"}) {
      const std::string key = absl::StrCat("\"", field, "\"");
      REQUIRE(absl::StrContains(lines[2], key));
      std::vector<std::string> spoilt = lines;
      spoilt[2] = absl::StrReplaceAll(spoilt[2], {{key, "\"other\""}});
      world.Write(set, absl::StrJoin(spoilt, "\n"));
      const std::vector<std::string> said = {
          absl::StrCat(world.dir / set, ":3: field '", field, "' is missing")};
      CheckRefused(world.Service("coordinator"), said);
      CheckRefused(world.Train(), said);
      world.CheckNothingWritten();
    }
    world.Write(set, whole);
  }
}

TEST_CASE("After the input was put right the same command trains") {
  World world;
  const std::vector<std::string> steps = {"--steps=1", "--stage.0.groups_per_step=2",
                                          "--evaluation.problems=4", "--evaluation.every=0"};
  std::vector<std::string> wrong = steps;
  wrong.push_back("--policy.path=" + world.dir / "nowhere");
  CheckRefused(world.Train(wrong), {"does not exist"});
  const ProgramResult result = RunProgram(world.Train(steps), absl::Minutes(3));
  INFO(result.output);
  CHECK(result.exit_code == 0);
  CHECK(world.dir.files->Exists(world.dir / "out/report.json"));
}

TEST_CASE("A port that another process listens on: who wanted it, which, and nothing written") {
  World world;
  const HeldPort held;
  for (const std::string& service : kServices) {
    const std::string said = absl::StrCat(service, ": cannot listen on ", held.address(),
                                          ": the port is in use by another process");
    CheckRefused(world.Service(service, {absl::StrCat("--network.", service, "=", held.address())}),
                 {said});
    CheckRefused(world.Service(service, {"--network.metrics=" + held.address()}),
                 {held.address(), "in use"});
  }
  for (const char* name : {"checkpoints", "policy"}) {
    CHECK_FALSE(world.dir.files->Exists(world.dir / absl::StrCat("out/", name)));
  }
}

TEST_CASE("A coordinator that cannot be reached: who, where, and how long it was tried") {
  World world;
  const std::string nobody = SilentAddress();
  CheckRefused(world.Service("rollout", {"--network.coordinator=" + nobody}),
               {absl::StrCat("the coordinator at ", nobody, " could not be reached in 1s")});
  CheckRefused(world.Service("learner", {"--network.coordinator=" + nobody}),
               {"coordinator did not serve the learner", "for 1.", nobody, "is it running"});
  world.CheckNothingWritten();
}

// A coordinator that serves, and its address.
struct RunningCoordinator {
  explicit RunningCoordinator(const World& world)
      : process(Subprocess::Start(world.Service("coordinator"))) {
    const bool serves = process->ReadUntil(
        [&](const std::string& line) {
          const size_t at = line.find(" address=");
          if (!absl::StrContains(line, "msg=serving") || at == std::string::npos) return false;
          address = line.substr(at + 9, line.find(' ', at + 9) - at - 9);
          return true;
        },
        kEndsIn);
    INFO(process->output());
    REQUIRE(serves);
    auto channel = MakeChannel(address, "coordinator", false);
    REQUIRE(channel.ok());
    stub = v1::CoordinatorService::NewStub(*channel);
  }
  std::unique_ptr<Subprocess> process;
  std::string address;
  std::unique_ptr<v1::CoordinatorService::Stub> stub;
};

TEST_CASE("Services of different protocol versions: both versions are named") {
  World world;
  const RunningCoordinator coordinator(world);
  const uint32_t mine = limits::kProtocolVersion, other = mine + 1;
  v1::JoinRequest join;
  join.set_protocol_version(other);
  join.set_worker_id("rollout-0");
  join.set_incarnation("i");
  join.set_address("127.0.0.1:1");
  join.set_slots(1);
  v1::AttachLearnerRequest attach;
  attach.set_protocol_version(other);
  attach.set_address("127.0.0.1:1");
  attach.set_incarnation("i");
  const absl::Status joined = Call(kEndsIn, "coordinator", [&](grpc::ClientContext* context) {
    v1::JoinResponse response;
    return coordinator.stub->Join(context, join, &response);
  });
  const absl::Status attached = Call(kEndsIn, "coordinator", [&](grpc::ClientContext* context) {
    v1::AttachLearnerResponse response;
    return coordinator.stub->AttachLearner(context, attach, &response);
  });
  for (const auto& [status, who] : {std::pair(joined, "worker"), std::pair(attached, "learner")}) {
    INFO(status);
    CHECK(absl::IsFailedPrecondition(status));
    CHECK(
        absl::StrContains(status.message(), absl::StrCat("protocol version: the ", who, " speaks ",
                                                         other, ", the coordinator ", mine)));
  }
}

// A coordinator of a later build, as far as a worker or a learner sees it.
class LaterCoordinator : public v1::CoordinatorService::Service {
 public:
  grpc::Status Join(grpc::ServerContext*, const v1::JoinRequest*, v1::JoinResponse*) override {
    return Refusal();
  }
  grpc::Status AttachLearner(grpc::ServerContext*, const v1::AttachLearnerRequest*,
                             v1::AttachLearnerResponse*) override {
    return Refusal();
  }

 private:
  static grpc::Status Refusal() {
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                        "protocol version: the caller speaks 1, the coordinator 99");
  }
};

TEST_CASE("A worker and a learner that are refused for their version end and say so") {
  World world;
  LaterCoordinator later;
  const auto server = RpcServer::Start({"127.0.0.1:0", "coordinator", false}, {&later});
  REQUIRE(server.ok());
  const std::string address = (*server)->address();
  const std::string coordinator = "--network.coordinator=" + address;
  const std::vector<std::string> said = {address, "protocol version", "the coordinator 99"};
  CheckRefused(world.Service("learner", {coordinator}), said);
  CheckRefused(world.Service("rollout", {coordinator, "--network.learner=" + address,
                                         "--network.reward=" + address}),
               said);
  world.CheckNothingWritten();
}

TEST_CASE("A learner of another configuration than its coordinator's") {
  World world;
  const RunningCoordinator coordinator(world);
  CheckRefused(world.Service("learner", {"--network.coordinator=" + coordinator.address,
                                         "--optimizer.learning_rate=0.5"}),
               {"the learner's configuration", "is not the coordinator's",
                "start both with the same file and overrides"});
  CHECK_FALSE(world.dir.files->Exists(world.dir / "out/checkpoints"));
}

TEST_CASE("A folder that holds a run of another configuration: what differs, and it stays whole") {
  World world;
  const std::vector<std::string> small = {"--steps=1", "--stage.0.groups_per_step=2",
                                          "--evaluation.problems=4", "--evaluation.every=0"};
  const ProgramResult first = RunProgram(world.Train(small), absl::Minutes(3));
  INFO(first.output);
  REQUIRE(first.exit_code == 0);
  const std::string report = world.Read("out/report.json");
  std::vector<std::string> other = small;
  other.push_back("--optimizer.learning_rate=0.5");
  CheckRefused(world.Train(other), {"holds a run of another configuration", "learning_rate = 0.5",
                                    "choose another --out"});
  CHECK(world.Read("out/report.json") == report);
}

}  // namespace
}  // namespace crescendo
