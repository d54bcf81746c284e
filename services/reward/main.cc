// crescendo-reward: grades answers over gRPC.
//
//   crescendo-reward --config FILE [--section.key=value ...] [--dry-run]
//   crescendo-reward grade FILE|-          the same grader over JSON lines
//   crescendo-reward check-dataset FILE|-  what the gold answers of a data set are
//   crescendo-reward audit FILE|-          what an audit log says
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"
#include "common/metrics/life_trace.h"
#include "common/metrics/metrics_server.h"
#include "common/metrics/metrics_table.h"
#include "common/metrics/refused_calls.h"
#include "common/metrics/reward_metrics.h"
#include "common/os/log.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "common/rpc/server.h"
#include "common/rpc/service_log.h"
#include "common/rpc/trace_service.h"
#include "common/rpc/transport_config.h"
#include "services/reward/commands.h"
#include "services/reward/grade.h"
#include "services/reward/grading_pool.h"
#include "services/reward/reward_config.h"
#include "services/reward/reward_service.h"

namespace crescendo {
namespace {

constexpr absl::Duration kDrainMax = absl::Seconds(5);

GraderOptions OptionsFrom(const RunConfig& config) {
  GraderOptions options;
  options.extractor.allow_plain = config.reward.plain_text_answers;
  options.reward_correct = config.reward.correct_reward;
  options.reward_incorrect = config.reward.incorrect_reward;
  options.reward_undecided = config.reward.incorrect_reward;
  return options;
}

absl::StatusOr<std::string> Describe(const RunConfig& config) {
  return absl::StrCat("grade with ", config.reward.threads, " thread(s) at ",
                      config.network.reward);
}

// The kinds of reward and the audit log of a run.
struct Rewards {
  std::unique_ptr<RewardKinds> kinds;
  ExternalRewards external;
  std::unique_ptr<AuditLog> audit;
};

absl::StatusOr<Rewards> MakeRewards(const std::string& path, FileSystem* files, Clock* clock) {
  RewardConfig config;
  if (!path.empty()) {
    ASSIGN_OR_RETURN(const std::string text, files->ReadFile(path, limits::kConfigFileBytesMax));
    ASSIGN_OR_RETURN(config, ParseRewardConfig(text, path));
  }
  Rewards rewards;
  ASSIGN_OR_RETURN(rewards.kinds, RewardKinds::Make(config.kinds));
  for (const RewardKind& kind : rewards.kinds->kinds()) {
    if (kind.type != RewardType::kExternal) continue;
    ASSIGN_OR_RETURN(rewards.external[kind.name], ExternalReward::Make(kind, clock));
  }
  if (!config.audit.path.empty()) {
    if (config.audit.path[0] != '/') config.audit.path = JoinPath(DirName(path), config.audit.path);
    rewards.audit = std::make_unique<AuditLog>(config.audit, files);
  }
  return rewards;
}

std::vector<std::string> Reasons() {
  std::vector<std::string> reasons;
  reasons.reserve(kReasonCodes);
  for (int i = 0; i < kReasonCodes; ++i) {
    reasons.emplace_back(ReasonName(static_cast<ReasonCode>(i)));
  }
  return reasons;
}

absl::Status Serve(const RunConfig& config, const StopSignal& stop, FileSystem* files,
                   Clock* clock) {
  const Logger log = MakeServiceLog(config.log, "reward", config.network.reward, clock);
  ASSIGN_OR_RETURN(const Transport transport, MakeTransport(config, Role::kReward, files));
  ASSIGN_OR_RETURN(auto metrics_server, MetricsServer::Start({config.network.metrics, "reward",
                                                              MetricsInTheOpen(config)}));
  RewardMetrics metrics(metrics_server->registry(), Reasons());
  RefusedCalls refused(metrics_server->registry(), "reward");
  GradingPool pool(config.reward.threads, OptionsFrom(config));
  ASSIGN_OR_RETURN(const Rewards rewards, MakeRewards(config.reward.rewards, files, clock));
  LifeTrace trace(clock, metrics_server->registry(), "reward", LifeStagesOf("reward"));
  TraceServiceImpl trace_service("reward", "reward", &trace);
  RewardServiceImpl service(&pool, &metrics, clock,
                            {rewards.kinds.get(), &rewards.external, rewards.audit.get(), &trace},
                            log);
  ASSIGN_OR_RETURN(auto server,
                   RpcServer::Start({config.network.reward, "reward", transport, refused.Counter()},
                                    {&service, &trace_service}));
  log.Info("serving", {{"address", server->address()},
                       {"metrics", metrics_server->address()},
                       {"threads", config.reward.threads}});
  stop.WaitFor(absl::InfiniteDuration());
  log.Info("draining", {{"signal", stop.signal_number()}});
  server->SetServing(false);
  service.Drain();
  server->Stop(kDrainMax);
  if (rewards.audit != nullptr) {
    if (const absl::Status failed = rewards.audit->TakeError(); !failed.ok())
      log.Warn("audit log", {{"status", failed}});
  }
  if (const absl::Status saved = trace_service.Save(*files, config.run.out); !saved.ok()) {
    log.Warn("the trace is not kept", {{"status", saved}});
  }
  log.Info("stopped");
  return absl::OkStatus();
}

constexpr absl::string_view kCommandHelp =
    "crescendo-reward grade [--boxes-only] FILE|-\n"
    "crescendo-reward check-dataset FILE|-\n"
    "crescendo-reward audit FILE|-\n\n"
    "JSON lines in, from a file or standard input.\n"
    "  grade          {\"id\", \"problem\"?, \"answer\": text or list, \"response\"} in, {\"id\", "
    "\"verdict\", \"reason\",\n"
    "                 \"extracted\", \"micros\"} out; --boxes-only takes no answer that stands in "
    "no box\n"
    "  check-dataset  {\"problem\", \"answer\"} in: whether each gold answer is understood, its "
    "type, and problems\n"
    "                 that occur again with another answer\n"
    "  audit          an audit log in: its reasons by count, and the answers that were "
    "undecided\n\n"
    "Exit status: 0 done (malformed lines are reported by number and skipped), 2 the file cannot "
    "be read.\n";

bool IsCommand(absl::string_view word) {
  return word == "grade" || word == "check-dataset" || word == "audit";
}

absl::Status RunCommand(const std::string& command, const std::vector<std::string>& arguments,
                        Clock* clock) {
  GradeCommandOptions options;
  std::string file;
  for (const std::string& argument : arguments) {
    if (argument == "--boxes-only" && command == "grade") {
      options.allow_plain = false;
    } else if (argument != "-" && argument[0] == '-') {
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown option '", argument, "' (see crescendo-reward ", command, " --help)"));
    } else if (!file.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected one file, found '", file, "' and '", argument, "'"));
    } else {
      file = argument;
    }
  }
  if (file.empty()) return absl::InvalidArgumentError("expected a file, or - for standard input");
  CommandStreams streams;
  streams.name = file == "-" ? "standard input" : file;
  streams.out = &std::cout;
  streams.err = &std::cerr;
  streams.progress = isatty(STDERR_FILENO) == 1;
  std::ifstream in;
  if (file == "-") {
    streams.in = &std::cin;
  } else {
    std::error_code error;
    if (!std::filesystem::exists(file, error))
      return absl::NotFoundError(absl::StrCat(file, ": no such file"));
    if (std::filesystem::is_directory(file, error))
      return absl::InvalidArgumentError(absl::StrCat(file, ": expected a file, found a folder"));
    in.open(file, std::ios::binary);
    if (!in)
      return absl::PermissionDeniedError(absl::StrCat(file, ": cannot be opened for reading"));
    const auto bytes = std::filesystem::file_size(file, error);
    streams.bytes = error ? 0 : static_cast<int64_t>(bytes);
    streams.in = &in;
  }
  if (command == "grade") return RunGrade(streams, options, clock);
  return command == "audit" ? RunAudit(streams) : RunCheckDataset(streams);
}

int Main(int argc, char** argv) {
  if (argc > 1 && IsCommand(argv[1])) {
    std::ios::sync_with_stdio(false);
    const std::vector<std::string> arguments(argv + 2, argv + argc);
    for (const std::string& argument : arguments) {
      if (argument == "--help" || argument == "-h") {
        std::cout << kCommandHelp;
        return kExitOk;
      }
    }
    const auto clock = MakeRealClock();
    const absl::Status status = RunCommand(argv[1], arguments, clock.get());
    return status.ok() ? kExitOk
                       : ReportError(absl::StrCat("crescendo-reward ", argv[1]), status, std::cerr);
  }
  const StopSignal stop;
  const auto files = MakePosixFileSystem();
  const auto clock = MakeRealClock();
  ServiceDescription service;
  service.name = "crescendo-reward";
  service.purpose =
      "Grades answers: math by default, exactly or not at all.\n"
      "Also: crescendo-reward grade|check-dataset|audit FILE (--help for each).";
  service.dry_run = Describe;
  int exit_code = kExitOk;
  const auto config =
      ParseServiceCommandLine(argc, argv, service, *files, std::cout, std::cerr, &exit_code);
  if (!config) return exit_code;
  const absl::Status status = Serve(*config, stop, files.get(), clock.get());
  return status.ok() ? kExitOk : ReportError(service.name, status, std::cerr);
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
