// One run from start to end on this machine: its folder, its processes, its view, its report.
#ifndef CRESCENDO_DEPLOY_CLI_TRAINING_H_
#define CRESCENDO_DEPLOY_CLI_TRAINING_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/config/run_config.h"
#include "common/os/env.h"
#include "common/os/process.h"
#include "common/rpc/address.h"
#include "deploy/cli/run_client.h"
#include "deploy/cli/supervisor.h"
#include "deploy/cli/terminal.h"

namespace crescendo {

// What a run needs of the world. All outlive the calls below.
struct TrainingWorld {
  FileSystem* files = nullptr;
  Clock* clock = nullptr;
  const StopSignal* stop = nullptr;
  Terminal* terminal = nullptr;
  std::string program_folder;  // where crescendo-coordinator and the others lie
};

// The files of a run's folder.
std::string ReportFile(const std::string& out);     // report.json: there when the run is finished
std::string ConfigFile(const std::string& out);     // config.toml, the effective configuration
std::string AddressesFile(const std::string& out);  // addresses.json of the processes that run now

enum class FolderState { kNew, kResumable, kFinished, kOther };
// What `out` holds: nothing, this run unfinished, this run finished, or a run of another
// configuration
// (`*difference` then names the keys that differ; a run may be given more steps).
absl::StatusOr<FolderState> InspectFolder(FileSystem& files, const std::string& out,
                                          const RunConfig& config, std::string* difference);

// The processes of a run with their commands, and the loopback ports that they will listen on,
// which nobody else is given while the plan is kept.
struct ServicePlan {
  std::vector<SupervisedService> services;
  std::string coordinator;  // its address
  nlohmann::ordered_json addresses;
  ReservedPorts ports;
};
absl::StatusOr<ServicePlan> PlanServices(const RunConfig& config, int workers,
                                         const TrainingWorld& world);

// Trains (or goes on training) into config.run.out and writes report.json, metrics.jsonl and
// report.html there. Cancelled when it was stopped: the run can go on later. InvalidArgument and
// others of ExitCode's 2 for what the user can put right; Aborted when a process keeps dying or the
// run fails. Blocks until the end.
absl::StatusOr<nlohmann::ordered_json> Train(const RunConfig& config, int workers,
                                             const TrainingWorld& world);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_TRAINING_H_
