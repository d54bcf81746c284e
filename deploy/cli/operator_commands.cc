// crescendo drain, crescendo checkpoint: an operator's hand on a worker and on the learner of a run
// that is under way.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/transport_config.h"
#include "crescendo/v1/learner.grpc.pb.h"
#include "crescendo/v1/rollout.grpc.pb.h"
#include "deploy/cli/commands.h"
#include "nlohmann/json.hpp"

namespace crescendo {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(10);
constexpr absl::Duration kPoll = absl::Milliseconds(200);
constexpr const char* kDemoFolder = "runs/demo";

std::string FolderOf(const CliArguments& arguments, size_t position) {
  return arguments.positional.size() > position ? arguments.positional[position] : kDemoFolder;
}

// The learner's address: as given (host:port), or that of the run under way in a folder.
absl::StatusOr<std::string> LearnerAddress(const std::string& place, FileSystem& files) {
  if (place.find(':') != std::string::npos) return place;
  const auto text = files.ReadFile(AddressesFile(place), 1 << 20);
  const auto json = nlohmann::json::parse(text.ok() ? *text : "", nullptr, false);
  const auto address = nlohmann::json::json_pointer("/learner/address");
  if (json.is_object() && json.contains(address) && json[address].is_string()) {
    return json[address].get<std::string>();
  }
  return absl::NotFoundError(absl::StrCat("no run is under way in ", place, " (",
                                          AddressesFile(place),
                                          " is not there); give its folder or HOST:PORT"));
}

}  // namespace

const absl::string_view kDrainHelp =
    R"(crescendo drain WORKER [RUN FOLDER | --coordinator HOST:PORT] [--within SECONDS] [--insecure]
                [--security.directory=DIR]

Has a rollout worker take no more groups, finish what it can within the time, hand the rest back and leave:
nothing of it is lost. WORKER is its name, as crescendo top shows it.

  --within SECONDS           30 by default; 0: everything is handed back at once
  --security.directory=DIR   certificates of a run with TLS (operator.pem, operator.key, operator.token)
)";

const absl::string_view kCheckpointHelp =
    R"(crescendo checkpoint [RUN FOLDER | HOST:PORT] [--insecure] [--security.directory=DIR]

Has the learner write a checkpoint of what it has trained, between two steps or after the one under way, and
waits until it is on disk. HOST:PORT is the learner's. Without either: the run in runs/demo.

  --security.directory=DIR   certificates of a run with TLS (operator.pem, operator.key, operator.token)
)";

absl::StatusOr<Transport> OperatorTransport(const CliArguments& arguments,
                                            const std::string& folder, const TrainingWorld& world) {
  for (const std::string& text : arguments.overrides) {
    absl::string_view rest = text;
    if (!absl::ConsumePrefix(&rest, "security.directory=")) continue;
    SecuritySection security;
    security.directory = std::string(rest);
    return MakeTransport(security, arguments.insecure, Role::kOperator, world.files);
  }
  if (!folder.empty() && world.files->Exists(ConfigFile(folder))) {
    ASSIGN_OR_RETURN(const RunConfig config,
                     LoadRunConfig(*world.files, ConfigFile(folder), arguments.overrides));
    return MakeTransport(config.security, arguments.insecure || config.network.insecure,
                         Role::kOperator, world.files);
  }
  return Transport(arguments.insecure);
}

absl::Status DrainCommand(const CliArguments& arguments, const TrainingWorld& world) {
  if (arguments.positional.empty()) {
    return absl::InvalidArgumentError("expected a worker's name; see crescendo drain --help");
  }
  const std::string& worker = arguments.positional[0];
  const std::string folder = FolderOf(arguments, 1);
  ASSIGN_OR_RETURN(const auto client, ClientOfRun(arguments, folder, world));
  RunPicture run;
  RETURN_IF_ERROR(client->Update(kCallTimeout, &run));
  std::string address;
  std::vector<std::string> names;
  for (const v1::WorkerStatus& status : run.status.workers()) {
    names.push_back(status.worker_id());
    if (status.worker_id() == worker) address = status.address();
  }
  if (address.empty()) {
    return absl::NotFoundError(absl::StrCat("the run has no worker '", worker, "'; it has ",
                                            names.empty() ? "none" : absl::StrJoin(names, ", ")));
  }
  ASSIGN_OR_RETURN(
      const Transport transport,
      OperatorTransport(arguments, arguments.coordinator.empty() ? folder : "", world));
  const std::string who = absl::StrCat("worker ", worker);
  ASSIGN_OR_RETURN(const auto channel, MakeChannel(address, who, transport, {Role::kRollout}));
  const auto stub = v1::RolloutService::NewStub(channel);
  v1::DrainRequest request;
  request.set_finish_within_ms(static_cast<uint32_t>(arguments.within_seconds) * 1000);
  RETURN_IF_ERROR(Call(kCallTimeout, absl::StrCat(who, " at ", address, " to drain"),
                       [&](grpc::ClientContext* context) {
                         v1::DrainResponse response;
                         return stub->Drain(context, request, &response);
                       }));
  world.terminal->Line(absl::StrCat(worker, " drains: it leaves within ", arguments.within_seconds,
                                    " s and takes no more groups"));
  return absl::OkStatus();
}

absl::Status CheckpointCommand(const CliArguments& arguments, const TrainingWorld& world) {
  const std::string place = FolderOf(arguments, 0);
  ASSIGN_OR_RETURN(const std::string address, LearnerAddress(place, *world.files));
  const bool folder = place.find(':') == std::string::npos;
  ASSIGN_OR_RETURN(const Transport transport,
                   OperatorTransport(arguments, folder ? place : "", world));
  ASSIGN_OR_RETURN(const auto channel,
                   MakeChannel(address, "learner", transport, {Role::kLearner}));
  const auto stub = v1::LearnerService::NewStub(channel);
  v1::CheckpointResponse first;
  const std::string awaited = absl::StrCat("the learner at ", address, " for a checkpoint");
  for (bool begun = false;; begun = true) {
    v1::CheckpointResponse now;
    RETURN_IF_ERROR(Call(kCallTimeout, awaited, [&](grpc::ClientContext* context) {
      return stub->Checkpoint(context, v1::CheckpointRequest(), &now);
    }));
    if (!begun) first = now;
    if (now.steps_checkpointed() >= first.steps_trained()) {
      world.terminal->Line(
          absl::StrCat("a checkpoint of ", now.steps_checkpointed(), " steps is on disk"));
      return absl::OkStatus();
    }
    if (world.stop->WaitFor(kPoll)) {
      return absl::CancelledError("stopped; the learner still writes the checkpoint");
    }
  }
}

}  // namespace crescendo
