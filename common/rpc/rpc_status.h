// grpc::Status and absl::Status are the same codes under two names.
#ifndef CRESCENDO_COMMON_RPC_RPC_STATUS_H_
#define CRESCENDO_COMMON_RPC_RPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace crescendo {

absl::Status FromGrpc(const grpc::Status& status);
// Messages are cut to 4 KiB: gRPC sends them in a header, which has a bound.
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_RPC_STATUS_H_
