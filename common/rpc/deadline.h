// Calls with a deadline, whose failures name who was awaited, for what and for how long.
#ifndef CRESCENDO_COMMON_RPC_DEADLINE_H_
#define CRESCENDO_COMMON_RPC_DEADLINE_H_

#include <functional>

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace crescendo {

// Makes one call with a deadline of `timeout` from now:
//
//   RETURN_IF_ERROR(Call(rpc_timeout, "coordinator 127.0.0.1:7070 for the run's status",
//                        [&](grpc::ClientContext* context) {
//                          return stub->GetStatus(context, request, &response);
//                        }));
//
// Blocks. The error keeps the call's code; its message says whom the caller awaited, for what, and
// how long it took. DeadlineExceeded: no answer in time.
absl::Status Call(absl::Duration timeout, absl::string_view awaited,
                  const std::function<grpc::Status(grpc::ClientContext*)>& call);
// The same with a context of the caller's (to cancel it from another thread); sets its deadline.
absl::Status Call(grpc::ClientContext* context, absl::Duration timeout, absl::string_view awaited,
                  const std::function<grpc::Status(grpc::ClientContext*)>& call);

// The words of Call for a status that came in another way (a stream's Finish, a callback).
absl::Status DescribeFailure(const grpc::Status& status, absl::string_view awaited,
                             absl::Duration waited);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_DEADLINE_H_
