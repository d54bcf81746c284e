// A gRPC server as every service of Crescendo runs it: health service and reflection on, bounded
// messages, streams and connections, mutual TLS with roles (or plain text on the loopback), slow
// readers let go, a port in use told in words.
//
//   CoordinatorServiceImpl service(...);
//   ASSIGN_OR_RETURN(auto server, RpcServer::Start({.address = config.network.coordinator,
//                                                   .who = "coordinator",
//                                                   .transport = transport,
//                                                   .on_refusal = refused_calls.Counter()},
//                                                  {&service}));
//   stop.WaitFor(absl::InfiniteDuration());
//   server->Stop(absl::Seconds(5));
//
// Thread-safe. The services are owned by the caller and outlive the server.
#ifndef CRESCENDO_COMMON_RPC_SERVER_H_
#define CRESCENDO_COMMON_RPC_SERVER_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/limits.h"
#include "common/rpc/call_guard.h"
#include "common/rpc/grpc_log.h"
#include "common/rpc/listener.h"
#include "common/rpc/refusal.h"
#include "common/rpc/transport.h"

namespace crescendo {

struct RpcServerOptions {
  std::string address;             // host:port; port 0 takes any free one
  std::string who;                 // "coordinator", for messages
  Transport transport = {};        // plain text on the loopback, unless it says otherwise
  OnRefusal on_refusal = nullptr;  // may be empty
  // A reader that takes nothing for so long is let go; limits' own unless a test says less.
  absl::Duration stalled_write_max = limits::kStalledWriteMax;
  int connections_max = limits::kConnectionsMax;
  // Above this gRPC ends streams, those that bring more first of all, with RESOURCE_EXHAUSTED.
  size_t buffer_bytes_max = limits::kServerBufferBytesMax;
};

class RpcServer {
 public:
  // Listens and serves. Errors as of CheckTransport and CheckCanListen. Blocks briefly.
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
  RpcServer(std::string address, int port);

  const std::string address_;
  const int port_;
  std::unique_ptr<HandshakeWatch> handshakes_;
  std::unique_ptr<CallGuard> guard_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_SERVER_H_
