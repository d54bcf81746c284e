#include "services/rollout/peer_stream.h"

#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"

namespace crescendo {
namespace {

constexpr absl::Duration kConnectTry = absl::Seconds(1);

}  // namespace

bool AwaitPeer(const PeerLine& line, const std::function<bool()>& superseded) {
  while (true) {
    const absl::Status connected = AwaitConnected(
        *line.channel, line.who, line.address, kConnectTry, [&line] { return line.stop->IsSet(); });
    if (connected.ok()) return true;
    if (line.stop->IsSet() || superseded()) return false;
    line.watch->Failed(line.purpose, connected);
  }
}

void ReportBreak(const PeerLine& line, const grpc::Status& status) {
  line.stop->WaitFor(line.watch->Failed(
      line.purpose, DescribeFailure(status, line.watch->who(), absl::ZeroDuration())));
}

}  // namespace crescendo
