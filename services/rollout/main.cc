// crescendo-rollout: generates samples with the current policy.
//
//   crescendo-rollout --config FILE [--section.key=value ...] [--dry-run]
//   crescendo-rollout serve --policy.path=MODEL [--section.key=value ...]
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"
#include "common/metrics/metrics_server.h"
#include "common/metrics/metrics_table.h"
#include "common/metrics/refused_calls.h"
#include "common/metrics/rollout_metrics.h"
#include "common/os/gpu_claim.h"
#include "common/os/log.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "common/rpc/address.h"
#include "common/rpc/server.h"
#include "common/rpc/service_log.h"
#include "common/rpc/trace_service.h"
#include "common/rpc/transport_config.h"
#include "services/rollout/make_runner.h"
#include "services/rollout/prompt_codec.h"
#include "services/rollout/relay_service.h"
#include "services/rollout/rollout_host.h"
#include "services/rollout/rollout_service.h"
#include "services/rollout/serve_command.h"
#include "services/rollout/weight_relay.h"
#include "services/rollout/worker_options.h"

namespace crescendo {
namespace {

constexpr absl::string_view kName = "crescendo-rollout";
constexpr absl::Duration kServerGrace = absl::Seconds(1);

std::string RandomIncarnation() {
  std::random_device device;
  return absl::StrFormat("%08x%08x", device(), device());
}

// network.worker_id, or one of host name and process: [a-z0-9-]{1,63}.
std::string WorkerId(const RunConfig& config) {
  if (!config.network.worker_id.empty()) return config.network.worker_id;
  char host[256] = "worker";
  gethostname(host, sizeof(host) - 1);
  std::string id = absl::StrCat("rollout-", absl::AsciiStrToLower(host), "-", getpid());
  std::replace_if(
      id.begin(), id.end(), [](char c) { return !absl::ascii_isalnum(c); }, '-');
  return id.substr(0, 63);
}

PeerAddresses Peers(const RunConfig& config, const Transport& transport) {
  PeerAddresses peers;
  peers.coordinator = config.network.coordinator;
  peers.learner = config.network.learner;
  peers.reward = config.network.reward;
  peers.transport = transport;
  peers.connect_timeout = config.network.connect_timeout;
  peers.rpc_timeout = config.network.rpc_timeout;
  peers.heartbeat = config.rollout.heartbeat;
  return peers;
}

absl::StatusOr<std::string> Describe(const RunConfig& config) {
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  ASSIGN_OR_RETURN(const auto codec, PromptCodec::Load(*files, config.policy));
  ASSIGN_OR_RETURN(const ModelRunnerParts parts,
                   MakeModelRunner(*files, config, codec->tokenizer()));
  return absl::StrCat("generate with ", config.policy.path, " (", parts.description,
                      ", chat template ", codec->template_name(), "), ", config.rollout.slots,
                      " slots, ", parts.blocks, " KV blocks of ", config.rollout.block_tokens,
                      " tokens (", parts.cache_bytes >> 20, " MiB), ", config.rollout.threads,
                      " thread(s); coordinator at ", config.network.coordinator, ", learner at ",
                      config.network.learner, ", reward service at ", config.network.reward);
}

absl::Status Serve(const RunConfig& config, FileSystem& files, Clock* clock, StopSignal& stop) {
  const std::string worker_id = WorkerId(config);
  const Logger log =
      MakeServiceLog(config.log, "rollout", worker_id, clock).With({{"worker", worker_id}});
  ASSIGN_OR_RETURN(const std::optional<GpuClaim> gpu,
                   TakeGpuOfEnvironment(config.rollout.device != "cpu"));
  if (gpu.has_value()) log.Info("took a GPU", {{"gpu", gpu->gpu()}});
  ASSIGN_OR_RETURN(const Transport transport, MakeTransport(config, Role::kRollout, &files));
  // Before the model is read: a port in use is told at once.
  RETURN_IF_ERROR(CheckCanListen(config.network.rollout, "rollout"));
  ASSIGN_OR_RETURN(
      const auto metrics_server,
      MetricsServer::Start({config.network.metrics, "rollout", MetricsInTheOpen(config)}));
  RolloutMetrics metrics(metrics_server->registry());
  RefusedCalls refused(metrics_server->registry(), "rollout");
  LifeTrace trace(clock, metrics_server->registry(), "rollout", LifeStagesOf("rollout"));
  TraceServiceImpl trace_service("rollout", worker_id, &trace);
  ASSIGN_OR_RETURN(const auto codec, PromptCodec::Load(files, config.policy));
  ASSIGN_OR_RETURN(const ModelRunnerParts parts,
                   MakeModelRunner(files, config, codec->tokenizer()));
  RolloutServiceImpl service(worker_id);
  WeightRelay relay;
  RelayServiceImpl relay_service(&relay, &metrics.relayed_weight_bytes_total);
  ASSIGN_OR_RETURN(const auto server, RpcServer::Start({config.network.rollout, "rollout",
                                                        transport, refused.Counter()},
                                                       {&service, &relay_service, &trace_service}));

  const WorkerIdentity identity{
      worker_id, AdvertisedAddress(server->address()), RandomIncarnation(), config.rollout.slots,
      Resources{config.cost.gpu_type, config.cost.gpus_per_worker, config.rollout.threads}};
  RolloutHost::Parts host_parts;
  host_parts.runner = parts.runner.get();
  host_parts.codec = codec.get();
  host_parts.stage = parts.stage;
  host_parts.weight_bytes_max = parts.weight_bytes_max;
  host_parts.relay = &relay;
  host_parts.clock = clock;
  host_parts.metrics = &metrics;
  host_parts.trace = &trace;
  host_parts.log = log;
  RolloutHost host(CoreOptions(config, parts, codec->tokenizer()), identity,
                   Peers(config, transport), host_parts);
  log.Info("serving", {{"address", server->address()},
                       {"metrics", metrics_server->address()},
                       {"policy", parts.description},
                       {"slots", config.rollout.slots}});
  RETURN_IF_ERROR(host.Start([&stop] { return stop.requested(); }));
  service.SetHost(&host);
  std::unique_ptr<CompletionFront> front;
  if (!config.rollout.http.empty()) {
    ASSIGN_OR_RETURN(front,
                     CompletionFront::Start(FrontOptions(config, parts), codec.get(), clock,
                                            [&](CoreEvent event) { host.Post(std::move(event)); }));
    host.SetServedSink([&front](const ServedToken& token) { front->OnToken(token); });
    log.Info("serving completions", {{"url", absl::StrCat("http://", front->address(), "/v1")}});
  }
  std::thread watcher([&] {
    while (!stop.WaitFor(absl::Minutes(1))) {
    }
    server->SetServing(false);
    host.RequestDrain(config.rollout.drain);
  });
  const absl::Status status = host.Run();
  if (front != nullptr) front->Stop();
  stop.Request();
  watcher.join();
  service.SetHost(nullptr);
  server->Stop(kServerGrace);
  if (const absl::Status saved = trace_service.Save(files, config.run.out); !saved.ok()) {
    log.Warn("the trace is not kept", {{"status", saved}});
  }
  log.Info("stopped", {{"status", status}});
  return status;
}

int Main(int argc, char** argv) {
  StopSignal stop;
  const auto files = MakePosixFileSystem();
  const auto clock = MakeRealClock();
  if (argc > 1 && absl::string_view(argv[1]) == "serve") {
    return ServeCommand(argc - 2, argv + 2, *files, clock.get(), stop);
  }
  ServiceDescription service;
  service.name = kName;
  service.purpose =
      "Generates samples with the current policy, for the learner and the evaluation.";
  service.dry_run = Describe;
  int exit_code = kExitOk;
  const auto config =
      ParseServiceCommandLine(argc, argv, service, *files, std::cout, std::cerr, &exit_code);
  if (!config) return exit_code;
  const absl::Status status = Serve(*config, *files, clock.get(), stop);
  if (status.ok() || (absl::IsCancelled(status) && stop.requested())) return kExitOk;
  return ReportError(kName, status, std::cerr);
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  crescendo::PrepareComputeProcess(argv);
  return crescendo::Main(argc, argv);
}
