// crescendo-reward: grades answers over gRPC.
//
//   crescendo-reward --config FILE [--section.key=value ...] [--dry-run]
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"
#include "common/metrics/metrics_server.h"
#include "common/metrics/reward_metrics.h"
#include "common/os/log.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "common/rpc/server.h"
#include "services/reward/grading_pool.h"
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
  return absl::StrCat("would grade with ", config.reward.threads, " thread(s) at ",
                      config.network.reward, "\n");
}

absl::Status Serve(const RunConfig& config, const StopSignal& stop, Clock* clock) {
  const Logger log("reward", config.network.reward, LogLevel::kInfo, clock, StderrSink());
  ASSIGN_OR_RETURN(auto metrics_server, MetricsServer::Start({config.network.metrics, "reward",
                                                              config.network.insecure}));
  RewardMetrics metrics(metrics_server->registry());
  GradingPool pool(config.reward.threads, OptionsFrom(config));
  RewardServiceImpl service(&pool, &metrics, clock);
  ASSIGN_OR_RETURN(
      auto server,
      RpcServer::Start({config.network.reward, "reward", config.network.insecure}, {&service}));
  log.Info("serving", {{"address", server->address()},
                       {"metrics", metrics_server->address()},
                       {"threads", config.reward.threads}});
  stop.WaitFor(absl::InfiniteDuration());
  log.Info("draining", {{"signal", stop.signal_number()}});
  server->SetServing(false);
  service.Drain();
  server->Stop(kDrainMax);
  log.Info("stopped");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  const StopSignal stop;
  const auto files = MakePosixFileSystem();
  const auto clock = MakeRealClock();
  ServiceDescription service;
  service.name = "crescendo-reward";
  service.purpose = "Grades answers: math by default, exactly or not at all.";
  service.dry_run = Describe;
  int exit_code = kExitOk;
  const auto config =
      ParseServiceCommandLine(argc, argv, service, *files, std::cout, std::cerr, &exit_code);
  if (!config) return exit_code;
  const absl::Status status = Serve(*config, stop, clock.get());
  return status.ok() ? kExitOk : ReportError(service.name, status, std::cerr);
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
