#include "deploy/cli/trace_command.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/trace_service.h"
#include "deploy/cli/commands.h"
#include "deploy/cli/run_client.h"
#include "deploy/cli/trace_picture.h"
#include "nlohmann/json.hpp"

namespace crescendo {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(10);
constexpr size_t kAddressesBytesMax = 1u << 20;

// Any service of the run may stand at `address`.
absl::StatusOr<v1::Trace> AskTrace(const std::string& address, const Transport& transport) {
  ASSIGN_OR_RETURN(const auto channel, MakeChannel(address, "service", transport,
                                                   {Role::kCoordinator, Role::kLearner,
                                                    Role::kRollout, Role::kReward}));
  const auto stub = v1::TraceService::NewStub(channel);
  v1::Trace trace;
  RETURN_IF_ERROR(Call(kCallTimeout, absl::StrCat("the service at ", address, " for its trace"),
                       [&](grpc::ClientContext* context) {
                         return stub->GetTrace(context, v1::GetTraceRequest(), &trace);
                       }));
  return trace;
}

// What the services at these addresses remember. One that does not answer is told and left out.
absl::StatusOr<std::vector<v1::Trace>> AskAll(const std::vector<std::string>& addresses,
                                              const Transport& transport,
                                              const TrainingWorld& world) {
  std::vector<v1::Trace> traces;
  absl::Status failed = absl::NotFoundError("the run has no service that could be asked");
  for (const std::string& address : addresses) {
    absl::StatusOr<v1::Trace> trace = AskTrace(address, transport);
    if (trace.ok()) {
      traces.push_back(*std::move(trace));
    } else {
      failed = trace.status();
      world.terminal->Line(absl::StrCat("left out: ", failed.message()));
    }
  }
  if (traces.empty()) return failed;
  return traces;
}

std::vector<std::string> AddressesIn(const std::string& text) {
  std::vector<std::string> addresses;
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return addresses;
  for (const auto& [name, service] : json.items()) {
    if (!service.is_object() || !service.contains("address")) continue;
    if (service["address"].is_string()) addresses.push_back(service["address"].get<std::string>());
  }
  return addresses;
}

absl::StatusOr<std::vector<v1::Trace>> OfFolder(const CliArguments& arguments,
                                                const std::string& folder,
                                                const TrainingWorld& world) {
  const auto addresses = world.files->ReadFile(AddressesFile(folder), kAddressesBytesMax);
  if (addresses.ok()) {
    ASSIGN_OR_RETURN(const Transport transport, OperatorTransport(arguments, folder, world));
    return AskAll(AddressesIn(*addresses), transport, world);
  }
  const auto names = world.files->ListDir(TraceFolder(folder));
  std::vector<v1::Trace> traces;
  if (names.ok()) {
    for (const std::string& name : *names) {
      if (!absl::EndsWith(name, ".json")) continue;
      ASSIGN_OR_RETURN(v1::Trace trace,
                       ReadTrace(*world.files, JoinPath(TraceFolder(folder), name)));
      traces.push_back(std::move(trace));
    }
  }
  if (traces.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder,
                     ": no run is under way there, and none left a trace; give its folder, "
                     "or its coordinator with --coordinator HOST:PORT"));
  }
  return traces;
}

absl::StatusOr<std::vector<v1::Trace>> OfCoordinator(const CliArguments& arguments,
                                                     const TrainingWorld& world) {
  ASSIGN_OR_RETURN(const Transport transport, OperatorTransport(arguments, "", world));
  ASSIGN_OR_RETURN(const auto client, RunClient::Make(arguments.coordinator, transport));
  RunPicture run;
  RETURN_IF_ERROR(client->Update(kCallTimeout, &run));
  std::vector<std::string> addresses = {arguments.coordinator};
  for (const v1::WorkerStatus& worker : run.status.workers()) {
    if (worker.state() != "lost") addresses.push_back(worker.address());
  }
  addresses.insert(addresses.end(), arguments.positional.begin(), arguments.positional.end());
  return AskAll(addresses, transport, world);
}

}  // namespace

absl::Status TraceCommand(const CliArguments& arguments, const TrainingWorld& world) {
  const bool remote = !arguments.coordinator.empty();
  const std::string folder =
      arguments.positional.empty() || remote ? "runs/demo" : arguments.positional[0];
  ASSIGN_OR_RETURN(const std::vector<v1::Trace> traces,
                   remote ? OfCoordinator(arguments, world) : OfFolder(arguments, folder, world));
  const std::string file = !arguments.write.empty() ? arguments.write
                           : remote                 ? "trace.json"
                                                    : JoinPath(folder, "trace.json");
  RETURN_IF_ERROR(world.files->WriteFile(file, TracePicture(traces)));
  int64_t moments = 0;
  for (const v1::Trace& trace : traces) moments += trace.moments_size();
  world.terminal->Line(absl::StrCat(file, ": ", moments, " moments of ", traces.size(),
                                    " services; open it at ui.perfetto.dev"));
  return absl::OkStatus();
}

}  // namespace crescendo
