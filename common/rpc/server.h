// A gRPC server as every service of Crescendo runs it: health service and reflection on, bounded
// messages, a port in use told in words, plain text only on the loopback unless asked for by name.
//
//   CoordinatorServiceImpl service(...);
//   ASSIGN_OR_RETURN(auto server, RpcServer::Start({.address = config.network.coordinator,
//                                                   .who = "coordinator",
//                                                   .insecure = config.network.insecure},
//                                                  {&service}));
//   stop.WaitFor(absl::InfiniteDuration());
//   server->Stop(absl::Seconds(5));
//
// Thread-safe. The services are owned by the caller and outlive the server.
#ifndef CRESCENDO_COMMON_RPC_SERVER_H_
#define CRESCENDO_COMMON_RPC_SERVER_H_

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace crescendo {

struct RpcServerOptions {
  std::string address;    // host:port; port 0 takes any free one
  std::string who;        // "coordinator", for messages
  bool insecure = false;  // plain text off the loopback
};

class RpcServer {
 public:
  // Listens and serves. Errors as of CheckPlainText and CheckCanListen. Blocks briefly.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const RpcServerOptions& options, const std::vector<grpc::Service*>& services);
  ~RpcServer();  // Stop(0)
  RpcServer(const RpcServer&) = delete;
  RpcServer& operator=(const RpcServer&) = delete;

  int port() const { return port_; }
  // host:port with the port that was bound.
  const std::string& address() const { return address_; }

  // What the health service answers; serving from the start. For draining.
  void SetServing(bool serving);
  // Takes no new calls, gives those that run `grace` to end, cancels the rest. Blocks that long at
  // most, plus the time that cancelled handlers take to return. Once only has an effect.
  void Stop(absl::Duration grace);

 private:
  RpcServer(std::unique_ptr<grpc::Server> server, std::string address, int port);

  std::unique_ptr<grpc::Server> server_;
  const std::string address_;
  const int port_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_SERVER_H_
