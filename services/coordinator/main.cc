// crescendo-coordinator: what is to be generated, by whom, and what has become of it.
//
//   crescendo-coordinator --config FILE [--section.key=value ...] [--dry-run]
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"
#include "common/metrics/coordinator_metrics.h"
#include "common/metrics/metrics_server.h"
#include "common/metrics/metrics_table.h"
#include "common/metrics/refused_calls.h"
#include "common/os/log.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "common/rpc/address.h"
#include "common/rpc/server.h"
#include "common/rpc/service_log.h"
#include "common/rpc/trace_service.h"
#include "common/rpc/transport_config.h"
#include "services/coordinator/coordinator_host.h"
#include "services/coordinator/coordinator_service.h"
#include "services/coordinator/options_from_config.h"
#include "services/coordinator/page_server.h"
#include "services/coordinator/shown_samples.h"
#include "services/coordinator/sqlite_journal.h"

namespace crescendo {
namespace {

constexpr absl::Duration kStopMax = absl::Seconds(2);
constexpr absl::Duration kLookForFailureEvery = absl::Milliseconds(200);

std::string JournalPath(const RunConfig& config) {
  return JoinPath(config.run.out, "coordinator.sqlite");
}

absl::StatusOr<std::string> Describe(FileSystem& files, const RunConfig& config) {
  ASSIGN_OR_RETURN(const CoordinatorOptions options, OptionsFromConfig(files, config, "dry-run"));
  std::string out = absl::StrCat("run '", config.run.name, "' of ", options.steps,
                                 " steps, coordinated at ", config.network.coordinator, "\n");
  absl::StrAppend(&out, "  training problems: ", options.problems.size(), " from ",
                  config.data.train, "\n");
  for (size_t i = 0; i < options.stages.size(); ++i) {
    const StageOptions& stage = options.stages[i];
    absl::StrAppend(&out, "  stage ", i, ": ", stage.context_tokens, " tokens, ",
                    stage.groups_per_step, " groups of ", stage.group_samples, " a step\n");
  }
  for (const EvaluationOptions& set : options.evaluations) {
    absl::StrAppend(&out, "  evaluation: ", set.problems, " problems of ", set.set, ", ",
                    set.samples, " sample(s) each\n");
  }
  absl::StrAppend(
      &out, "  journal: ", JournalPath(config),
      files.Exists(JournalPath(config)) ? " (there: the run goes on)\n" : " (a new run)\n");
  return out;
}

LeaseSecret DrawSecret() {
  std::random_device device;
  const auto draw = [&device] { return uint64_t{device()} << 32 | device(); };
  return {draw(), draw()};
}

struct LoadedRun {
  std::unique_ptr<SqliteJournal> journal;
  std::unique_ptr<CoordinatorState> state;
};

// The journal of the run's folder and the state that it holds; a new run where there is none.
absl::StatusOr<LoadedRun> LoadRun(const RunConfig& config, FileSystem& files, Clock* clock) {
  const std::string run_id =
      absl::StrFormat("%s-%s", config.run.name,
                      absl::FormatTime("%Y%m%d-%H%M%S", clock->Now(), absl::UTCTimeZone()));
  ASSIGN_OR_RETURN(CoordinatorOptions options, OptionsFromConfig(files, config, run_id));
  options.lease_secret = DrawSecret();
  RETURN_IF_ERROR(files.MakeDirs(config.run.out));
  LoadedRun run;
  ASSIGN_OR_RETURN(run.journal, SqliteJournal::Open(JournalPath(config)));
  ASSIGN_OR_RETURN(const JournalImage image, run.journal->Load());
  if (image.started() && image.run.config_digest != options.config_digest) {
    return absl::FailedPreconditionError(absl::StrCat(
        "run.out: ", config.run.out, " holds run ", image.run.run_id,
        " of another configuration: ", ConfigDifferences(image.run.config, options.config),
        ". Put these back to go on with that run, or give another folder with --run.out=DIR"));
  }
  auto state = CoordinatorState::Create(std::move(options), image, clock->Now());
  RETURN_IF_ERROR(Annotate(state.status(), JournalPath(config)));
  run.state = *std::move(state);
  return run;
}

absl::Status Serve(const RunConfig& config, FileSystem& files, const StopSignal& stop,
                   Clock* clock) {
  const Logger log = MakeServiceLog(config.log, "coordinator", config.network.coordinator, clock);
  const absl::Time begin = clock->Now();
  ASSIGN_OR_RETURN(const Transport transport, MakeTransport(config, Role::kCoordinator, &files));
  // Before the journal is made: a port in use must leave nothing behind.
  RETURN_IF_ERROR(CheckCanListen(config.network.coordinator, "coordinator"));
  ASSIGN_OR_RETURN(LoadedRun run, LoadRun(config, files, clock));
  log.SetRun(run.state->run_id());
  const int64_t trained = run.state->trained();
  ASSIGN_OR_RETURN(auto metrics_server,
                   MetricsServer::Start({config.network.metrics, "coordinator",
                                         MetricsInTheOpen(config), config.run.out}));
  CoordinatorMetrics metrics(metrics_server->registry());
  RefusedCalls refused(metrics_server->registry(), "coordinator");
  LifeTrace trace(clock, metrics_server->registry(), "coordinator", LifeStagesOf("coordinator"));
  TraceServiceImpl trace_service("coordinator", "coordinator", &trace);
  CoordinatorHost host(std::move(run.state), std::move(run.journal), &metrics, clock, log);
  ShownSamples samples(static_cast<size_t>(config.coordinator.samples_kept));
  CoordinatorServiceImpl service(&host, &samples);
  service.SetTrace(&trace);
  std::unique_ptr<PageServer> page;
  if (!config.coordinator.page.empty()) {
    ASSIGN_OR_RETURN(
        page, PageServer::Start({config.coordinator.page, PageInTheOpen(config)}, &host, &samples));
    service.SetPage(page->url());
  }
  ASSIGN_OR_RETURN(auto server, RpcServer::Start({config.network.coordinator, "coordinator",
                                                  transport, refused.Counter()},
                                                 {&service, &trace_service}));
  log.Info("serving", {{"address", server->address()},
                       {"metrics", metrics_server->address()},
                       {"page", page != nullptr ? page->url() : "none"},
                       {"step", trained},
                       {"took", clock->Now() - begin}});
  while (!stop.WaitFor(kLookForFailureEvery) && host.failure().ok()) {
  }
  if (host.failure().ok()) log.Info("stopping", {{"signal", stop.signal_number()}});
  server->SetServing(false);
  host.Stop();
  server->Stop(kStopMax);
  if (const absl::Status saved = trace_service.Save(files, config.run.out); !saved.ok()) {
    log.Warn("the trace is not kept", {{"status", saved}});
  }
  log.Info("stopped");
  return host.failure();
}

int Main(int argc, char** argv) {
  const StopSignal stop;
  const auto files = MakePosixFileSystem();
  const auto clock = MakeRealClock();
  ServiceDescription service;
  service.name = "crescendo-coordinator";
  service.purpose = "Hands out groups to generate, keeps the run's journal, moves the curriculum.";
  service.dry_run = [&files](const RunConfig& config) { return Describe(*files, config); };
  int exit_code = kExitOk;
  const auto config =
      ParseServiceCommandLine(argc, argv, service, *files, std::cout, std::cerr, &exit_code);
  if (!config) return exit_code;
  const absl::Status status = Serve(*config, *files, stop, clock.get());
  return status.ok() ? kExitOk : ReportError(service.name, status, std::cerr);
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
