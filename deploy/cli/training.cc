#include "deploy/cli/training.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/rpc/address.h"
#include "common/rpc/transport_config.h"
#include "deploy/cli/curve_files.h"
#include "deploy/cli/html_report.h"
#include "deploy/cli/run_report.h"
#include "deploy/cli/run_watcher.h"

namespace crescendo {
namespace {

constexpr absl::Duration kLoop = absl::Milliseconds(100);
constexpr absl::Duration kPolicyWait = absl::Minutes(2);  // for a learner that has to come back
// The files of the curves are brought up to date this often, and of a long run less often: it takes
// at most a twentieth of the time.
constexpr absl::Duration kCurvesEvery = absl::Seconds(2);
constexpr int kCurvesShare = 20;
constexpr int kLastCalls = 3;
constexpr absl::Duration kLastCallPause = absl::Seconds(1);
constexpr size_t kReportBytesMax = 64u << 20;

// A lock on the folder: one supervisor at a time. Let go by the system when the process ends.
class FolderLock {
 public:
  static absl::StatusOr<std::unique_ptr<FolderLock>> Take(const std::string& out) {
    const std::string path = JoinPath(out, "lock");
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
      return absl::PermissionDeniedError(absl::StrCat("open ", path, ": ", std::strerror(errno)));
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      close(fd);
      return absl::AlreadyExistsError(absl::StrCat(
          out, ": another crescendo trains there now; stop it or choose another --out"));
    }
    return std::unique_ptr<FolderLock>(new FolderLock(fd));
  }
  ~FolderLock() { close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  const int fd_;
};

// The keys whose lines differ between two effective configurations.
std::string Differences(const RunConfig& there, const RunConfig& here) {
  const std::vector<std::string> a = absl::StrSplit(ToToml(there), '\n');
  const std::vector<std::string> b = absl::StrSplit(ToToml(here), '\n');
  std::vector<std::string> words;
  if (a.size() != b.size()) return "the number of stages differs";
  std::string section;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!a[i].empty() && a[i][0] == '[') section = a[i];
    if (a[i] == b[i]) continue;
    words.push_back(absl::StrCat(section, " ", a[i], " there, ", b[i], " here"));
    if (words.size() == 5) break;
  }
  return absl::StrJoin(words, "; ");
}

SupervisedService Service(const TrainingWorld& world, const std::string& program,
                          const std::string& name, const std::vector<std::string>& shared) {
  SupervisedService service;
  service.name = name;
  service.command = {JoinPath(world.program_folder, program)};
  service.command.insert(service.command.end(), shared.begin(), shared.end());
  return service;
}

// The learner, last in `services`, becomes rank 0 of so many, each of which is told its place as
// torchrun would.
void AddRanks(int ranks, int port, std::vector<SupervisedService>& services) {
  if (ranks <= 1) return;
  const SupervisedService alone = services.back();
  for (int rank = 0; rank < ranks; ++rank) {
    if (rank > 0) services.push_back(alone);
    SupervisedService& service = services.back();
    if (rank > 0) service.name = absl::StrCat(alone.name, "-rank-", rank);
    service.command = {"/usr/bin/env", absl::StrCat("RANK=", rank),
                       absl::StrCat("WORLD_SIZE=", ranks), "MASTER_ADDR=127.0.0.1",
                       absl::StrCat("MASTER_PORT=", port)};
    service.command.insert(service.command.end(), alone.command.begin(), alone.command.end());
  }
}

// The loop around a run that is under way.
class TrainingLoop {
 public:
  TrainingLoop(const RunConfig& config, const TrainingWorld& world, bool fresh)
      : config_(config),
        world_(world),
        watcher_(world.terminal, absl::StrCat(config.run.name, ", seed ", config.run.seed),
                 /*from_the_beginning=*/fresh),
        curves_(world.files, config.run.out) {}

  absl::Status Run(std::vector<SupervisedService> services, const std::string& coordinator);
  const RunPicture& picture() const { return watcher_.picture(); }

 private:
  absl::Status Watch(Supervisor& supervisor, RunClient& client);
  bool PolicyIsThere() const;
  // What cannot be written now is written at the end, where an error is one of the run.
  absl::Status WriteCurves();

  const RunConfig& config_;
  const TrainingWorld& world_;
  RunWatcher watcher_;
  CurveFiles curves_;
  absl::Time curves_due_ = absl::InfinitePast();
};

absl::Status TrainingLoop::WriteCurves() {
  const RunPicture& run = watcher_.picture();
  if (run.steps.empty() && run.evaluations.empty()) return absl::OkStatus();
  const absl::Time begin = world_.clock->Now();
  absl::Status status = curves_.Update(run, begin);
  const absl::Time end = world_.clock->Now();
  curves_due_ = end + std::max(kCurvesEvery, kCurvesShare * (end - begin));
  return status;
}

// A learner that died behind the last step comes back to write it, or to train that step again.
bool TrainingLoop::PolicyIsThere() const {
  return config_.run.steps == 0 ||
         world_.files->Exists(JoinPath(config_.run.out, "policy/model.safetensors"));
}

absl::Status TrainingLoop::Watch(Supervisor& supervisor, RunClient& client) {
  absl::Time finished = absl::InfiniteFuture();  // since then, without the policy
  while (true) {
    if (world_.stop->WaitFor(kLoop)) return absl::CancelledError("stopped");
    RETURN_IF_ERROR(supervisor.Poll());
    (void)watcher_.Poll(client, world_.clock->Now());  // the view tells of a silent coordinator
    if (world_.clock->Now() >= curves_due_) (void)WriteCurves();
    const v1::RunStatus& status = watcher_.picture().status;
    if (status.state() == "failed") {
      return absl::AbortedError(absl::StrCat("the run failed: ", status.failure()));
    }
    if (status.state() != "finished") {
      finished = absl::InfiniteFuture();
      continue;
    }
    if (PolicyIsThere()) break;
    finished = std::min(finished, world_.clock->Now());
    if (world_.clock->Now() - finished > kPolicyWait) {
      return absl::DeadlineExceededError(
          absl::StrCat("the run is finished, but the learner has not written ", config_.run.out,
                       "/policy within ", absl::FormatDuration(kPolicyWait),
                       "; the same command goes on from there"));
    }
  }
  supervisor.ExpectEnd();
  // A run that has been trained to its end does not fail for one call that did not come through.
  absl::Status fetched = watcher_.FetchAll(client);
  for (int i = 1; i < kLastCalls && !fetched.ok() && !world_.stop->WaitFor(kLastCallPause); ++i) {
    fetched = watcher_.FetchAll(client);
  }
  RETURN_IF_ERROR(fetched);
  return WriteCurves();
}

absl::Status TrainingLoop::Run(std::vector<SupervisedService> services,
                               const std::string& coordinator) {
  ASSIGN_OR_RETURN(const Transport transport,
                   MakeTransport(config_, Role::kOperator, world_.files));
  ASSIGN_OR_RETURN(auto client, RunClient::Make(coordinator, transport));
  Supervisor supervisor(world_.clock, std::move(services), JoinPath(config_.run.out, "logs"),
                        [&](absl::string_view line) { world_.terminal->Line(line); });
  RETURN_IF_ERROR(supervisor.Start());
  absl::Status status = Watch(supervisor, *client);
  if (!status.ok()) (void)WriteCurves();
  world_.terminal->KeepFrame();
  if (absl::IsCancelled(status)) world_.terminal->Line("stopping ...");
  supervisor.Stop();
  return status;
}

absl::Status WriteResults(const RunConfig& config, int workers, const TrainingWorld& world,
                          const RunPicture& picture, nlohmann::ordered_json* report) {
  *report = ReportJson(picture, config.run.seed, workers,
                       FindProvenance(*world.files, world.program_folder));
  const std::string& out = config.run.out;
  RETURN_IF_ERROR(world.files->WriteFile(
      JoinPath(out, "report.html"), HtmlReport(config.run.name, picture, *report, ToToml(config))));
  // Last: it says that the run is finished.
  return world.files->WriteFile(ReportFile(out), report->dump(2) + "\n");
}

// A run that never began because its input was wrong: only the logs stay, or the same command with
// the input put right would find a run of another configuration.
void ForgetRun(const TrainingWorld& world, const std::string& out) {
  for (const char* name : {"config.toml", "coordinator.sqlite", "coordinator.sqlite-wal",
                           "coordinator.sqlite-shm", "lock"}) {
    (void)world.files->Remove(JoinPath(out, name));
  }
}

}  // namespace

std::string ReportFile(const std::string& out) { return JoinPath(out, "report.json"); }
std::string ConfigFile(const std::string& out) { return JoinPath(out, "config.toml"); }
std::string AddressesFile(const std::string& out) { return JoinPath(out, "addresses.json"); }

absl::StatusOr<FolderState> InspectFolder(FileSystem& files, const std::string& out,
                                          const RunConfig& config, std::string* difference) {
  if (!files.Exists(ConfigFile(out))) return FolderState::kNew;
  ASSIGN_OR_RETURN(const RunConfig there, LoadRunConfig(files, ConfigFile(out), {}));
  if (ConfigDigest(there) != ConfigDigest(config)) {
    *difference = Differences(there, config);
    return FolderState::kOther;
  }
  if (!files.Exists(ReportFile(out))) return FolderState::kResumable;
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(ReportFile(out), kReportBytesMax));
  const auto report = nlohmann::json::parse(text, nullptr, false);
  const bool enough = report.is_object() && report.contains("steps") &&
                      report["steps"].is_number_integer() &&
                      report["steps"].get<int64_t>() >= config.run.steps;
  return enough ? FolderState::kFinished : FolderState::kResumable;
}

absl::StatusOr<ServicePlan> PlanServices(const RunConfig& config, int workers,
                                         const TrainingWorld& world) {
  ServicePlan plan;
  ASSIGN_OR_RETURN(plan.ports, ReserveLoopbackPorts(3 + 3 + 1 + 2 * workers));
  size_t used = 0;
  const auto next = [&] { return absl::StrCat("127.0.0.1:", plan.ports.ports[used++]); };
  plan.coordinator = next();
  const std::string learner = next(), reward = next();
  const std::vector<std::string> shared = {absl::StrCat("--config=", ConfigFile(config.run.out)),
                                           absl::StrCat("--network.coordinator=", plan.coordinator),
                                           absl::StrCat("--network.learner=", learner),
                                           absl::StrCat("--network.reward=", reward)};
  std::vector<SupervisedService>& services = plan.services;
  const auto add = [&](const std::string& program, const std::string& name, int rank,
                       absl::Duration grace, const std::string& address) {
    services.push_back(Service(world, program, name, shared));
    services.back().stop_rank = rank;
    services.back().stop_grace = grace;
    const std::string metrics = next();
    services.back().command.push_back(absl::StrCat("--network.metrics=", metrics));
    plan.addresses[name] = {{"address", address}, {"metrics", metrics}};
  };
  // Workers stop first: they hand back their groups while the others still listen. The coordinator
  // is last. A learner may have a checkpoint to write.
  add("crescendo-coordinator", "coordinator", 3, absl::Seconds(10), plan.coordinator);
  add("crescendo-reward", "reward", 1, absl::Seconds(5), reward);
  add("crescendo-learner", "learner", 2, absl::Seconds(60), learner);
  AddRanks(config.learner.ranks, plan.ports.ports[used++], services);
  for (int i = 0; i < workers; ++i) {
    const std::string address = next();
    add("crescendo-rollout", absl::StrCat("rollout-", i), 0,
        config.rollout.drain + absl::Seconds(5), address);
    services.back().command.push_back(absl::StrCat("--network.rollout=", address));
    services.back().command.push_back(absl::StrCat("--network.worker_id=rollout-", i));
  }
  return plan;
}

absl::StatusOr<nlohmann::ordered_json> Train(const RunConfig& config, int workers,
                                             const TrainingWorld& world) {
  const std::string& out = config.run.out;
  RETURN_IF_ERROR(world.files->MakeDirs(JoinPath(out, "logs")));
  ASSIGN_OR_RETURN(const auto lock, FolderLock::Take(out));
  const bool fresh = !world.files->Exists(ConfigFile(out));
  RETURN_IF_ERROR(world.files->WriteFile(ConfigFile(out), ToToml(config)));
  // Processes that compute on GPUs take one each, where there are several (common/os/gpu_claim.h).
  setenv("CRESCENDO_GPU_CLAIMS", JoinPath(out, "gpus").c_str(), /*overwrite=*/0);
  // Kept until the end: a service that is started again finds its port.
  ASSIGN_OR_RETURN(ServicePlan plan, PlanServices(config, workers, world));
  RETURN_IF_ERROR(world.files->WriteFile(AddressesFile(out), plan.addresses.dump(2) + "\n"));
  TrainingLoop loop(config, world, fresh);
  const absl::Status status = loop.Run(std::move(plan.services), plan.coordinator);
  (void)world.files->Remove(AddressesFile(out));
  if (absl::IsInvalidArgument(status) && fresh && loop.picture().steps.empty())
    ForgetRun(world, out);
  RETURN_IF_ERROR(status);
  nlohmann::ordered_json report;
  RETURN_IF_ERROR(WriteResults(config, workers, world, loop.picture(), &report));
  return report;
}

}  // namespace crescendo
