// crescendo-probe: asks a service's health, for healthchecks of containers and probes of
// Kubernetes, which itself cannot ask where TLS is mutual. It stands in every image, which has no
// shell.
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/config/command_line.h"
#include "common/os/posix_env.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/role.h"
#include "common/rpc/transport_config.h"

namespace crescendo {
namespace {

constexpr absl::string_view kHelp =
    R"(crescendo-probe SERVICE HOST:PORT [--directory DIR] [--alive]

Asks the gRPC health of a service: coordinator, learner, reward or rollout. $(NAME) in the address is
taken from the environment, as Kubernetes does in a container's arguments but not in its probes. A
learner whose RANK in the environment is above 0 listens nowhere: there is nothing to ask, and status 0.

  --directory DIR   certificates, as security.directory; the probe is of the service's own role.
                    Without it: plain text
  --alive           any answer will do, also that of a service that drains
  --help

Exit status: 0 serving, 1 not, 2 wrong arguments or certificates.
)";
constexpr absl::Duration kTimeout = absl::Seconds(4);

struct ProbeOptions {
  Role role = Role::kCoordinator;
  std::string address;
  std::string directory;
  bool alive = false;
};

// "$(POD_IP):7071" with the variable's value in it.
absl::StatusOr<std::string> Expand(const std::string& text) {
  if (!absl::StartsWith(text, "$(")) return text;
  const size_t end = text.find(')');
  if (end == std::string::npos) return absl::InvalidArgumentError(absl::StrCat(text, ": no ')'"));
  const std::string name = text.substr(2, end - 2);
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(text, ": ", name, " is not in the environment"));
  }
  return absl::StrCat(value, text.substr(end + 1));
}

absl::StatusOr<ProbeOptions> ParseProbe(int argc, char** argv) {
  ProbeOptions options;
  int positional = 0;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (argument == "--alive") {
      options.alive = true;
    } else if (absl::ConsumePrefix(&argument, "--directory=")) {
      options.directory = std::string(argument);
    } else if (argument == "--directory" && i + 1 < argc) {
      options.directory = argv[++i];
    } else if (positional == 0 && ParseRole(argument).has_value() && argument != "operator") {
      options.role = *ParseRole(argument);
      ++positional;
    } else if (positional == 1 && !absl::StartsWith(argument, "--")) {
      ASSIGN_OR_RETURN(options.address, Expand(argv[i]));
      ++positional;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("'", argument, "': expected SERVICE HOST:PORT; see crescendo-probe --help"));
    }
  }
  if (positional == 2) return options;
  return absl::InvalidArgumentError("expected SERVICE HOST:PORT; see crescendo-probe --help");
}

// grpc.health.v1.Health/Check of the whole server. HealthCheckRequest without a service is empty;
// of the response, field 1 is the status, a varint: 1 SERVING. (Debian ships no stub of it.)
absl::StatusOr<bool> Serving(const std::shared_ptr<grpc::Channel>& channel,
                             const std::string& awaited) {
  grpc::ByteBuffer answer;
  RETURN_IF_ERROR(Call(kTimeout, awaited, [&](grpc::ClientContext* context) {
    grpc::GenericStub stub(channel);
    grpc::CompletionQueue queue;
    const grpc::ByteBuffer empty(nullptr, 0);
    const auto call = stub.PrepareUnaryCall(context, "/grpc.health.v1.Health/Check", empty, &queue);
    grpc::Status status;
    call->StartCall();
    call->Finish(&answer, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }));
  std::vector<grpc::Slice> slices;
  if (!answer.Dump(&slices).ok()) return absl::DataLossError("the answer cannot be read");
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes == absl::string_view("\x08\x01", 2);
}

absl::Status Probe(const ProbeOptions& options) {
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  SecuritySection security;
  security.directory = options.directory;
  // Health is no secret: plain text is asked for by leaving the certificates out.
  ASSIGN_OR_RETURN(const Transport transport,
                   MakeTransport(security, /*insecure=*/true, options.role, files.get()));
  const std::string who(RoleName(options.role));
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                   MakeChannel(options.address, who, transport, {options.role}));
  ASSIGN_OR_RETURN(const bool serving,
                   Serving(channel, absl::StrCat(who, " ", options.address, " for its health")));
  if (serving || options.alive) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(who, " ", options.address, " is not serving"));
}

int Main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (absl::string_view(argv[i]) == "--help") {
      std::cout << std::string(kHelp);
      return kExitOk;
    }
    if (absl::string_view(argv[i]) == "--version") {
      std::cout << VersionText("crescendo-probe") << "\n";
      return kExitOk;
    }
  }
  const absl::StatusOr<ProbeOptions> options = ParseProbe(argc, argv);
  if (!options.ok()) return ReportError("crescendo-probe", options.status(), std::cerr);
  const char* rank = std::getenv("RANK");
  if (options->role == Role::kLearner && rank != nullptr && absl::string_view(rank) != "0") {
    return kExitOk;
  }
  const absl::Status status = Probe(*options);
  if (status.ok()) return kExitOk;
  const int code = ReportError("crescendo-probe", status, std::cerr);
  // A service that cannot be reached is what the probe is for, not its user's mistake.
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ? kExitFailed : code;
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) { return crescendo::Main(argc, argv); }
