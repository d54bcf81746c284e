// Channels to other services: bounded messages, keepalive, quick reconnects, no proxy, mutual TLS
// or plain text (on the loopback only, unless asked for by name). Every channel is made here.
#ifndef CRESCENDO_COMMON_RPC_CHANNEL_H_
#define CRESCENDO_COMMON_RPC_CHANNEL_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/rpc/transport.h"

namespace crescendo {

// Does not block and does not connect yet. InvalidArgument for what is no address,
// FailedPrecondition for plain text off the loopback. `who` is the peer: "reward service". Under
// TLS only a peer whose certificate is of one of `peers` is spoken to.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           absl::string_view who,
                                                           const Transport& transport,
                                                           const std::vector<Role>& peers = {});

// Blocks until the channel is connected. Unavailable after `timeout`, saying who, where and how
// long it was tried; Cancelled soon after `stopped` (if given) says true.
absl::Status AwaitConnected(grpc::Channel& channel, absl::string_view who,
                            absl::string_view address, absl::Duration timeout,
                            const std::function<bool()>& stopped = nullptr);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_CHANNEL_H_
