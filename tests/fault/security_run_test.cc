// Whole runs under mutual TLS, attacked and looked through while they train: what is refused is
// counted and harms nothing, certificates are replaced in the middle, and no secret shows anywhere.
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "catch2/catch.hpp"
#include "common/base/limits.h"
#include "common/metrics/metrics_table.h"
#include "common/os/posix_env.h"
#include "common/rpc/address.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/transport_config.h"
#include "crescendo/v1/coordinator.grpc.pb.h"
#include "deploy/cli/certificates.h"
#include "tests/support/http_get.h"
#include "tests/support/temp_dir.h"
#include "tests/support/train_run.h"

namespace crescendo {
namespace {

constexpr absl::Duration kRunMax = absl::Minutes(12);
constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr int kIdleConnections = 2000;

absl::Status MakeAll(const std::string& folder) {
  return MakeCertificates({.folder = folder,
                           .names = {},
                           .force = false,
                           .valid = absl::Hours(1),
                           .now = RealNow()})
      .status();
}

std::string ReadBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// "step 3/8 ..." says that 3 steps are trained.
bool AwaitStep(Subprocess& train, int wanted) {
  return train.ReadUntil(
      [&](const std::string& line) {
        int trained = 0;
        return std::sscanf(line.c_str(), "step %d/", &trained) == 1 && trained >= wanted;
      },
      kRunMax);
}

std::vector<std::string> Overrides(const std::string& certificates, int steps) {
  std::vector<std::string> overrides = FixedStage(96, 8);
  overrides.push_back(absl::StrCat("--steps=", steps));
  overrides.push_back("--evaluation.problems=32");
  overrides.push_back(absl::StrCat("--evaluation.every=", steps));
  overrides.push_back("--security.directory=" + certificates);
  return overrides;
}

// The addresses of a run that is under way.
struct Addresses {
  explicit Addresses(const std::string& out)
      : json(nlohmann::json::parse(ReadBytes(out + "/addresses.json"), nullptr, false)) {
    REQUIRE(json.is_object());
  }
  std::string Of(const std::string& service, const char* what) const {
    return json.at(service).at(what).get<std::string>();
  }
  nlohmann::json json;
};

// The value of a metric with these labels; 0 when it is not there.
double Metric(const std::string& address, const std::string& name_and_labels) {
  for (const absl::string_view line : absl::StrSplit(HttpGet(address, "/metrics"), '\n')) {
    if (absl::StartsWith(line, name_and_labels + " ")) {
      return std::stod(std::string(line.substr(name_and_labels.size() + 1)));
    }
  }
  return 0;
}

// The coordinator shows its counts now and then.
bool AwaitMetric(const std::string& address, const std::string& name_and_labels, double at_least) {
  const absl::Time until = RealNow() + kPatience;
  while (Metric(address, name_and_labels) < at_least) {
    if (RealNow() > until) return false;
  }
  return true;
}

class Stranger {
 public:
  Stranger(const std::string& coordinator, const std::string& certificates, Role role) {
    SecuritySection security;
    security.directory = certificates;
    auto transport = MakeTransport(security, false, role, files_.get());
    REQUIRE(transport.ok());
    auto channel = MakeChannel(coordinator, "coordinator", *transport, {Role::kCoordinator});
    REQUIRE(channel.ok());
    stub_ = v1::CoordinatorService::NewStub(*channel);
  }
  template <typename Request, typename Response>
  absl::StatusCode Try(grpc::Status (v1::CoordinatorService::Stub::*method)(grpc::ClientContext*,
                                                                            const Request&,
                                                                            Response*),
                       const Request& request, Response* response) {
    return Call(kPatience, "the coordinator",
                [&](grpc::ClientContext* context) {
                  return (stub_.get()->*method)(context, request, response);
                })
        .code();
  }

 private:
  std::unique_ptr<FileSystem> files_ = MakePosixFileSystem();
  std::unique_ptr<v1::CoordinatorService::Stub> stub_;
};

using Stub = v1::CoordinatorService::Stub;

void JoinAs(Stranger& stranger, const std::string& name) {
  v1::JoinRequest join;
  join.set_protocol_version(limits::kProtocolVersion);
  join.set_worker_id(name);
  join.set_incarnation("i");
  join.set_address("127.0.0.1:1");
  join.set_slots(1);
  v1::JoinResponse joined;
  REQUIRE(stranger.Try(&Stub::Join, join, &joined) == absl::StatusCode::kOk);
}

// Leases that were never granted, or were used before.
void ReplayLeases(Stranger& worker, const std::string& metrics) {
  JoinAs(worker, "intruder");
  const std::string late = "crescendo_coordinator_late_completions_total";
  const double before = Metric(metrics, late);
  v1::CompleteGroupRequest replay;
  replay.set_worker_id("intruder");
  replay.set_lease_id(1);
  replay.set_group_id(0);  // of the first step, which is trained
  replay.set_purpose(v1::GROUP_PURPOSE_TRAIN);
  v1::CompleteGroupResponse completed;
  CHECK(worker.Try(&Stub::CompleteGroup, replay, &completed) == absl::StatusCode::kOk);
  CHECK_FALSE(completed.accepted());
  CHECK(AwaitMetric(metrics, late, before + 1));
  const std::string refused = "crescendo_coordinator_refused_calls_total{reason=\"request\"}";
  const double refused_before = Metric(metrics, refused);
  replay.set_lease_id(1'000'000'000);
  CHECK(worker.Try(&Stub::CompleteGroup, replay, &completed) == absl::StatusCode::kInvalidArgument);
  CHECK(AwaitMetric(metrics, refused, refused_before + 1));
  v1::LeaveRequest leave;
  leave.set_worker_id("intruder");
  leave.set_incarnation("i");
  v1::LeaveResponse left;
  CHECK(worker.Try(&Stub::Leave, leave, &left) == absl::StatusCode::kOk);
}

// Connections that are made and never used.
class IdleConnections {
 public:
  explicit IdleConnections(const std::string& address) {
    const auto parsed = ParseAddress(address);
    REQUIRE(parsed.ok());
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(parsed->port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < kIdleConnections; ++i) {
      sockets_.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (connect(sockets_.back().fd(), reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) ++made;
    }
  }
  int made = 0;

 private:
  std::vector<OwnedSocket> sockets_;
};

TEST_CASE("A run under mutual TLS is attacked, its certificates are replaced, and it ends well") {
  const TempDir dir;
  const std::string certificates = dir / "certs", others = dir / "others", out = dir / "run";
  REQUIRE(MakeAll(certificates).ok());
  REQUIRE(MakeAll(others).ok());
  auto train = StartDemo(out, Overrides(certificates, 12));
  const bool came = AwaitStep(*train, 2);
  INFO(train->output());
  REQUIRE(came);
  const Addresses addresses(out);
  const std::string coordinator = addresses.Of("coordinator", "address");
  const std::string metrics = addresses.Of("coordinator", "metrics");
  const auto refused = [&](const std::string& reason) {
    return Metric(metrics, absl::StrCat("crescendo_coordinator_refused_calls_total{reason=\"",
                                        reason, "\"}"));
  };

  Stranger worker(coordinator, certificates, Role::kRollout);
  v1::SetStageResponse staged;
  CHECK(worker.Try(&Stub::SetStage, v1::SetStageRequest(), &staged) ==
        absl::StatusCode::kPermissionDenied);
  v1::AttachLearnerResponse attached;
  CHECK(worker.Try(&Stub::AttachLearner, v1::AttachLearnerRequest(), &attached) ==
        absl::StatusCode::kPermissionDenied);
  Stranger reward(coordinator, certificates, Role::kReward);
  v1::LeaseResponse leased;
  CHECK(reward.Try(&Stub::Lease, v1::LeaseRequest(), &leased) ==
        absl::StatusCode::kPermissionDenied);
  CHECK(refused("wrong_role") >= 3);
  ReplayLeases(worker, metrics);
  const IdleConnections idle(coordinator);
  CHECK(idle.made >= kIdleConnections / 2);

  // New certificates of the same authority, and a worker that starts with them.
  for (const Role role : kRoles) {
    REQUIRE(dir.files->Remove(JoinPath(certificates, absl::StrCat(RoleName(role), ".pem"))).ok());
  }
  REQUIRE(MakeAll(certificates).ok());
  const std::vector<pid_t> workers = ChildrenOf(train->pid(), "crescendo-rollout");
  REQUIRE(!workers.empty());
  REQUIRE(kill(workers.front(), SIGKILL) == 0);

  const std::optional<int> exit_code = train->Wait(kRunMax);
  INFO(train->output());
  REQUIRE(exit_code == 0);
  const TrainRun run = ReadRun(out);
  CHECK(run.steps.size() == 12);
  CHECK(run.MismatchMax() <= 1e-4);
}

// What must never be shown: the tokens, and lines of the private keys.
std::vector<std::string> SecretsOf(const std::string& certificates) {
  std::vector<std::string> secrets;
  for (const Role role : kRoles) {
    const std::string start = absl::StrCat(certificates, "/", RoleName(role));
    secrets.push_back(ReadBytes(start + ".token").substr(0, 48));
    const std::vector<std::string> lines = absl::StrSplit(ReadBytes(start + ".key"), '\n');
    for (const std::string& line : lines) {
      if (line.size() >= 32 && !absl::StartsWith(line, "-----")) secrets.push_back(line);
    }
  }
  return secrets;
}

// What a service shows is in the table of metrics, and Prometheus's linter takes it.
void CheckMetrics(const std::string& service, const std::string& shown, const TempDir& dir) {
  std::set<std::string> known;
  for (const MetricRow& row : MetricRows()) known.insert(row.name);
  for (const absl::string_view line : absl::StrSplit(shown, '\n')) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, "# TYPE ")) continue;
    if (absl::StartsWith(rest, "exposer_")) continue;  // the library's own
    INFO(service << ": " << line);
    CHECK(known.count(std::string(rest.substr(0, rest.find(' ')))) == 1);
  }
  if (std::system("command -v promtool > /dev/null") != 0) {
    WARN("promtool is not here (Debian's prometheus): not linted");
    return;
  }
  std::ofstream(dir / "metrics") << shown;
  const std::string command =
      absl::StrCat("promtool check metrics < ", dir / "metrics", " > ", dir / "said", " 2>&1");
  const int status = std::system(command.c_str());
  INFO(service << ": " << ReadBytes(dir / "said"));
  CHECK(status == 0);
}

// `crescendo trace` puts what the services remember into a picture: groups with all their phases.
void CheckTrace(const std::string& run, const TempDir& dir, size_t groups_min) {
  const std::string file = dir / "trace.json";
  const ProgramResult result =
      RunProgram({BuiltProgram("crescendo"), "trace", run, "--write", file}, absl::Minutes(1));
  INFO(result.output);
  REQUIRE(result.exit_code == 0);
  const auto picture = nlohmann::json::parse(ReadBytes(file), nullptr, false);
  REQUIRE(picture.is_object());
  std::map<std::string, std::vector<std::string>> phases;  // of a group, in order
  int64_t last = 0;
  for (const auto& event : picture.at("traceEvents")) {
    CHECK(event.at("ts") >= last);
    last = event.at("ts");
    if (event.at("ph") == "e" && event.at("cat") == "group") {
      phases[event.at("id")].push_back(event.at("name"));
    }
  }
  size_t whole = 0;
  for (const auto& [id, names] : phases) {
    const std::vector<std::string> all = {
        "prefill", "decode", "grade", "accept", "wait for the batch", "train"};
    if (names.size() == all.size() + 1 && std::equal(all.begin(), all.end(), names.begin())) {
      ++whole;
    }
  }
  CHECK(whole >= groups_min);
}

TEST_CASE("No secret stands in what a run writes or shows; its metrics and its trace are whole") {
  const TempDir dir;
  const std::string certificates = dir / "certs", out = dir / "run";
  REQUIRE(MakeAll(certificates).ok());
  const std::vector<std::string> secrets = SecretsOf(certificates);
  REQUIRE(secrets.size() >= 2 * std::size(kRoles));
  const auto check = [&](const std::string& what, const std::string& text) {
    for (const std::string& secret : secrets) {
      INFO(what);
      CHECK_FALSE(absl::StrContains(text, secret));
    }
  };
  std::vector<std::string> overrides = Overrides(certificates, 4);
  overrides.push_back("--log.format=json");
  overrides.push_back("--log.level=debug");
  auto train = StartDemo(out, overrides);
  const bool came = AwaitStep(*train, 1);
  INFO(train->output());
  REQUIRE(came);
  const Addresses addresses(out);
  for (const auto& [name, of_service] : addresses.json.items()) {
    const std::string shown = HttpGet(of_service.at("metrics").get<std::string>(), "/metrics");
    CHECK(absl::StrContains(shown, "process_cpu_seconds_total"));
    check(name + " metrics", shown);
    CheckMetrics(name, shown, dir);
  }
  CheckTrace(out, dir, 1);  // under way
  REQUIRE(train->Wait(kRunMax) == 0);
  CheckTrace(out, dir, 4 * 8);  // over
  check("trace", ReadBytes(dir / "trace.json"));
  check("standard output", train->output());
  int seen = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(out)) {
    if (!entry.is_regular_file()) continue;
    check(entry.path().string(), ReadBytes(entry.path().string()));
    ++seen;
  }
  CHECK(seen >= 10);  // journal, checkpoints, logs, report, metrics
  // Every line of a service's log is JSON with who said it.
  for (const char* service : {"coordinator", "learner", "reward", "rollout-0"}) {
    const std::string log = ReadBytes(absl::StrCat(out, "/logs/", service, ".log"));
    int lines = 0;
    for (const absl::string_view view : absl::StrSplit(log, '\n')) {
      const std::string line(view);
      if (!absl::StartsWith(line, "{")) continue;
      const auto parsed = nlohmann::json::parse(line, nullptr, false);
      INFO(line);
      REQUIRE(parsed.is_object());
      CHECK(parsed.contains("service"));
      ++lines;
    }
    INFO(service);
    CHECK(lines > 0);
  }
}

}  // namespace
}  // namespace crescendo
