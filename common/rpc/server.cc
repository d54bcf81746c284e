#include "common/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "common/rpc/address.h"
#include "common/rpc/message_size.h"

namespace crescendo {
namespace {

constexpr int kPingIntervalMinMs = 1000;  // a client's keepalive may be as frequent

void SetLimits(grpc::ServerBuilder& builder, const RpcServerOptions& options) {
  builder.SetMaxReceiveMessageSize(-1);  // message_size.h
  // What is compressed becomes any number of bytes before anybody counts them.
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder.SetMaxSendMessageSize(static_cast<int>(limits::kMessageBytesMax));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, limits::kMetadataBytesMax);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits::kStreamsPerConnectionMax);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kPingIntervalMinMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // A peer that is gone without a word, one that never gets to speak, one that never asks.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(limits::kServerPingEvery)));
  builder.AddChannelArgument(
      GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
      static_cast<int>(absl::ToInt64Milliseconds(limits::kServerPingAnswerMax)));
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(limits::kHandshakeMax)));
  builder.AddChannelArgument(
      GRPC_ARG_MAX_CONNECTION_IDLE_MS,
      static_cast<int>(absl::ToInt64Milliseconds(limits::kConnectionIdleMax)));
  grpc::ResourceQuota quota(options.who);
  quota.Resize(options.buffer_bytes_max);
  quota.SetMaxThreads(limits::kServerThreadsMax);
  builder.SetResourceQuota(quota);
  builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::NUM_CQS, 1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const RpcServerOptions& options, const std::vector<grpc::Service*>& services) {
  RETURN_IF_ERROR(
      CheckTransport(options.address, options.transport, absl::StrCat(options.who, " listening")));
  ASSIGN_OR_RETURN(const Address address, ParseAddress(options.address));
  ASSIGN_OR_RETURN(std::unique_ptr<Listener> listener,
                   Listener::Open(options.address, options.who));
  const int port = listener->port();
  std::unique_ptr<RpcServer> server(new RpcServer(FormatAddress(address.host, port), port));
  server->listener_ = std::move(listener);
  server->handshakes_ = std::make_unique<HandshakeWatch>(options.on_refusal);
  server->guard_ = std::make_unique<CallGuard>(options.stalled_write_max, options.on_refusal);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetLimits(builder, options);
  server->acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      options.transport.tls != nullptr ? options.transport.tls->Server(options.on_refusal)
                                       : grpc::InsecureServerCredentials());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(server->guard_->Interceptors());
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  for (grpc::Service* service : services) {
    CheckRequests(*service);
    builder.RegisterService(service);
  }
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr) {
    return absl::InternalError(
        absl::StrCat(options.who, ": gRPC did not start a server for ", options.address));
  }
  server->listener_->Run(
      options.connections_max,
      [acceptor = server->acceptor_.get()](int listening, int socket) {
        grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
        connection.listener_fd = listening;
        connection.fd = socket;
        acceptor->HandleNewConnection(&connection);
      },
      options.on_refusal);
  return server;
}

RpcServer::RpcServer(std::string address, int port) : address_(std::move(address)), port_(port) {}

RpcServer::~RpcServer() {
  if (server_ != nullptr) Stop(absl::ZeroDuration());
}

void RpcServer::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
}

void RpcServer::Stop(absl::Duration grace) {
  SetServing(false);
  listener_->Stop();
  server_->Shutdown(absl::ToChronoTime(RealNow() + grace));
  server_->Wait();
}

}  // namespace crescendo
