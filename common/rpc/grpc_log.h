// gRPC's own log lines, which it would write to standard error in a form of its own, through our
// logger; and the TLS handshakes that fail, which it tells nobody in another way.
#ifndef CRESCENDO_COMMON_RPC_GRPC_LOG_H_
#define CRESCENDO_COMMON_RPC_GRPC_LOG_H_

#include "common/os/log.h"
#include "common/rpc/refusal.h"

namespace crescendo {

// From now on gRPC's errors go to a copy of `log`, a bounded number of them a second. gRPC has one
// log for the whole process, so the last call counts. Thread-safe.
void SendGrpcLogTo(const Logger& log);

// As long as this lives, `on_refusal` is called for every TLS handshake of the process that fails.
// Thread-safe.
class HandshakeWatch {
 public:
  explicit HandshakeWatch(OnRefusal on_refusal);
  ~HandshakeWatch();
  HandshakeWatch(const HandshakeWatch&) = delete;
  HandshakeWatch& operator=(const HandshakeWatch&) = delete;

 private:
  friend class GrpcLog;
  const OnRefusal on_refusal_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_GRPC_LOG_H_
