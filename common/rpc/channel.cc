#include "common/rpc/channel.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"

namespace crescendo {
namespace {

constexpr absl::Duration kStopPoll = absl::Milliseconds(200);

grpc::ChannelArguments Arguments(bool tls) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(limits::kMessageBytesMax));
  arguments.SetMaxSendMessageSize(static_cast<int>(limits::kMessageBytesMax));
  // A peer that went away without a word is noticed after 15 s, on an idle channel too.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, limits::kMetadataBytesMax);
  // A service that is started again is found again soon.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // How long an attempt may take, and (measured) until the next after one that was refused: a TLS
  // handshake on a busy machine needs its time, plain text does not.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, tls ? 2000 : 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // A machine's http_proxy is for the web, not for the services among themselves.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           absl::string_view who,
                                                           const Transport& transport,
                                                           const std::vector<Role>& peers) {
  RETURN_IF_ERROR(CheckTransport(address, transport, absl::StrCat("connecting to the ", who)));
  return grpc::CreateCustomChannel(
      address,
      transport.tls != nullptr ? transport.tls->Channel(peers) : grpc::InsecureChannelCredentials(),
      Arguments(transport.tls != nullptr));
}

absl::Status AwaitConnected(grpc::Channel& channel, absl::string_view who,
                            absl::string_view address, absl::Duration timeout,
                            const std::function<bool()>& stopped) {
  const absl::Time deadline = RealNow() + timeout;
  while (true) {
    const absl::Time now = RealNow();
    if (channel.WaitForConnected(absl::ToChronoTime(std::min(deadline, now + kStopPoll)))) {
      return absl::OkStatus();
    }
    if (stopped && stopped()) {
      return absl::CancelledError(
          absl::StrCat("stopped while connecting to the ", who, " at ", address));
    }
    if (RealNow() >= deadline) break;
  }
  return absl::UnavailableError(absl::StrCat(
      "the ", who, " at ", address, " could not be reached in ",
      absl::FormatDuration(absl::Trunc(timeout + absl::Milliseconds(5), absl::Milliseconds(10))),
      ": is it running, and is the address right?"));
}

}  // namespace crescendo
