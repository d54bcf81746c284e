// crescendo-learner: takes samples, trains the policy on them, and publishes it (README.md).
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"
#include "common/config/run_config.h"
#include "common/metrics/learner_metrics.h"
#include "common/metrics/metrics_server.h"
#include "common/metrics/metrics_table.h"
#include "common/metrics/refused_calls.h"
#include "common/os/gpu_claim.h"
#include "common/os/log.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "common/rpc/address.h"
#include "common/rpc/server.h"
#include "common/rpc/service_log.h"
#include "common/rpc/trace_service.h"
#include "common/rpc/transport_config.h"
#include "services/learner/checkpoint.h"
#include "services/learner/coordinator_link.h"
#include "services/learner/learner_config.h"
#include "services/learner/learner_host.h"
#include "services/learner/learner_service.h"
#include "services/learner/make_trainer.h"
#include "services/learner/policy_check.h"
#include "services/learner/rank_environment.h"
#include "services/learner/weight_store.h"

namespace crescendo {
namespace {

constexpr absl::string_view kName = "crescendo-learner";
constexpr absl::Duration kServerGrace = absl::Milliseconds(200);

std::string RandomIncarnation() {
  std::random_device device;
  return absl::StrFormat("%08x%08x", device(), device());
}

absl::StatusOr<std::string> DescribeRun(FileSystem& files, const RunConfig& config) {
  ASSIGN_OR_RETURN(const std::string policy, DescribePolicyFiles(files, config.policy.path));
  return absl::StrCat("train ", policy, " for ", config.run.steps, " steps, listening on ",
                      config.network.learner, ", coordinator at ", config.network.coordinator,
                      ", checkpoints in ", MakeCheckpointOptions(config).folder, " (every ",
                      config.learner.checkpoint_every, " steps, ", config.learner.checkpoints_kept,
                      " kept), at most ", ExperienceBytesMax(config) >> 20, " MiB of samples");
}

// The newest good checkpoint goes into the trainer; what it says of the run is returned.
absl::StatusOr<LearnerRestore> Restore(CheckpointStore& store, Trainer& trainer,
                                       const Logger& log) {
  ASSIGN_OR_RETURN(LoadedCheckpoint loaded, store.LoadNewest());
  for (const absl::Status& skipped : loaded.skipped) {
    log.Error("checkpoint cannot be used, an older one is", {{"status", skipped}});
  }
  LearnerRestore restore;
  if (!loaded.checkpoint.has_value()) return restore;
  Checkpoint& checkpoint = *loaded.checkpoint;
  RETURN_IF_ERROR(Annotate(trainer.Restore(checkpoint.trainer, checkpoint.folder),
                           absl::StrCat("checkpoint of ", checkpoint.steps_trained, " steps")));
  restore.steps_trained = checkpoint.steps_trained;
  restore.ledger = std::move(checkpoint.ledger);
  restore.last_report = std::move(checkpoint.last_report);
  log.Info("resumed from a checkpoint",
           {{"step", restore.steps_trained}, {"groups_consumed", restore.ledger.groups()}});
  return restore;
}

absl::StatusOr<RankEnvironment> FindRanks() {
  return RanksFromEnvironment([](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  });
}

// A rank above 0 ends when rank 0 does: that may have its last checkpoint to write.
absl::Status FollowRankZero(const RunConfig& config, const RankEnvironment& ranks,
                            FileSystem& files, const StopSignal& stop, const Logger& log) {
  log.Info("joining", {{"rank", ranks.rank},
                       {"size", ranks.size},
                       {"master", absl::StrCat(ranks.master_host, ":", ranks.master_port)}});
  absl::Status status =
      RunRank(files, config, {ranks, [&stop] { return stop.requested(); }, nullptr});
  if (!status.ok() && stop.requested()) {
    log.Info("stopped", {{"status", status}});
    return absl::OkStatus();
  }
  if (status.ok()) log.Info("stopped");
  return status;
}

absl::Status RunLearner(const RunConfig& config, const RankEnvironment& ranks, FileSystem& files,
                        Clock& clock, StopSignal& stop, const Logger& log) {
  ASSIGN_OR_RETURN(const Transport transport, MakeTransport(config, Role::kLearner, &files));
  RETURN_IF_ERROR(CheckCanListen(config.network.learner, "learner"));
  ASSIGN_OR_RETURN(const std::unique_ptr<MetricsServer> metrics_server,
                   MetricsServer::Start({.address = config.network.metrics,
                                         .who = "learner",
                                         .insecure = MetricsInTheOpen(config),
                                         .folder = config.run.out}));
  LearnerMetrics metrics(metrics_server->registry());
  RefusedCalls refused(metrics_server->registry(), "learner");
  LifeTrace trace(&clock, metrics_server->registry(), "learner", LifeStagesOf("learner"));
  TraceServiceImpl trace_service("learner", "learner", &trace);
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Trainer> trainer,
      MakeTrainer(
          files, config,
          {ranks, [&stop] { return stop.requested(); },
           [&metrics](double imbalance) { metrics.rank_imbalance_ratio.Set(imbalance); }, &clock}));
  metrics.ranks.Set(ranks.size);
  const std::string incarnation = RandomIncarnation();
  CheckpointOptions checkpoint_options = MakeCheckpointOptions(config);
  checkpoint_options.ranks = ranks.size;
  checkpoint_options.nonce = incarnation;
  CheckpointStore checkpoints(&files, checkpoint_options);
  ASSIGN_OR_RETURN(LearnerRestore restore, Restore(checkpoints, *trainer, log));
  WeightStore weights(config.learner.versions_kept, limits::kWeightChunkBytes,
                      config.learner.weight_deltas);
  ASSIGN_OR_RETURN(const LearnerHostOptions options,
                   MakeHostOptions(config, trainer->vocabulary_size(), incarnation));
  LearnerHost host(options, {trainer.get(), &checkpoints, &weights, &metrics, &clock, &trace}, log,
                   std::move(restore));
  ExperienceServiceImpl experience(&host);
  LearnerServiceImpl learner_service(&host);
  WeightsServiceImpl weights_service(
      &weights, [&host] { return host.incarnation(); }, &metrics.weight_bytes_sent_total,
      &metrics.weight_delta_bytes_sent_total);
  ASSIGN_OR_RETURN(
      const std::unique_ptr<RpcServer> server,
      RpcServer::Start({.address = config.network.learner,
                        .who = "learner",
                        .transport = transport,
                        .on_refusal = refused.Counter()},
                       {&experience, &weights_service, &learner_service, &trace_service}));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<CoordinatorLink> coordinator,
      MakeCoordinatorLink(
          {.coordinator = config.network.coordinator,
           .learner_address = AdvertisedAddress(server->address()),
           .config_digest = ConfigDigest(config),
           .resources = {config.cost.gpu_type, config.cost.gpus_learner, config.learner.threads},
           .transport = transport,
           .rpc_timeout = config.network.rpc_timeout}));
  log.Info("serving", {{"address", server->address()},
                       {"metrics", metrics_server->address()},
                       {"policy", config.policy.path}});
  std::thread watcher([&] {
    while (!stop.WaitFor(absl::Minutes(1))) {
    }
    server->SetServing(false);
    host.RequestStop();
  });
  absl::Status status = host.Run(coordinator.get());
  stop.Request();
  watcher.join();
  server->Stop(kServerGrace);
  if (const absl::Status saved = trace_service.Save(files, config.run.out); !saved.ok()) {
    log.Warn("the trace is not kept", {{"status", saved}});
  }
  if (status.ok()) log.Info("stopped");
  return status;
}

int Main(int argc, const char* const* argv) {
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  const std::unique_ptr<Clock> clock = MakeRealClock();
  int exit_code = 0;
  const std::optional<RunConfig> config = ParseServiceCommandLine(
      argc, argv,
      {.name = kName,
       .purpose = "takes samples from rollout workers, trains the policy on them, publishes it",
       .dry_run = [&files](const RunConfig& run) { return DescribeRun(*files, run); }},
      *files, std::cout, std::cerr, &exit_code);
  if (!config.has_value()) return exit_code;
  const absl::StatusOr<RankEnvironment> ranks = FindRanks();
  if (!ranks.ok()) return ReportError(kName, ranks.status(), std::cerr);
  StopSignal stop;
  const Logger log =
      MakeServiceLog(config->log, "learner", absl::StrCat("learner-", ranks->rank), clock.get());
  // A launcher that says LOCAL_RANK gives out the GPUs itself.
  const absl::StatusOr<std::optional<GpuClaim>> gpu =
      TakeGpuOfEnvironment(config->learner.device != "cpu" && !ranks->local_rank.has_value());
  if (!gpu.ok()) return ReportError(kName, gpu.status(), std::cerr);
  if (gpu->has_value()) log.Info("took a GPU", {{"gpu", (*gpu)->gpu()}});
  const absl::Status status = ranks->rank == 0
                                  ? RunLearner(*config, *ranks, *files, *clock, stop, log)
                                  : FollowRankZero(*config, *ranks, *files, stop, log);
  return status.ok() ? kExitOk : ReportError(kName, status, std::cerr);
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  crescendo::PrepareComputeProcess(argv);
  return crescendo::Main(argc, argv);
}
