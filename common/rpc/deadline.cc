#include "common/rpc/deadline.h"

#include "absl/strings/str_cat.h"
#include "common/os/posix_env.h"
#include "common/rpc/rpc_status.h"

namespace crescendo {

absl::Status DescribeFailure(const grpc::Status& status, absl::string_view awaited,
                             absl::Duration waited) {
  if (status.ok()) return absl::OkStatus();
  const absl::Status plain = FromGrpc(status);
  const std::string time = absl::FormatDuration(waited < absl::Seconds(1)
                                                    ? absl::Trunc(waited, absl::Milliseconds(1))
                                                    : absl::Trunc(waited, absl::Milliseconds(100)));
  if (plain.code() == absl::StatusCode::kDeadlineExceeded) {
    return absl::DeadlineExceededError(
        absl::StrCat("waited ", time, " for ", awaited, ": no answer in that time"));
  }
  return absl::Status(plain.code(),
                      absl::StrCat("waited ", time, " for ", awaited, ": ", plain.message()));
}

absl::Status Call(grpc::ClientContext* context, absl::Duration timeout, absl::string_view awaited,
                  const std::function<grpc::Status(grpc::ClientContext*)>& call) {
  const absl::Time start = RealNow();
  context->set_deadline(absl::ToChronoTime(start + timeout));
  const grpc::Status status = call(context);
  if (status.ok()) return absl::OkStatus();
  return DescribeFailure(status, awaited, RealNow() - start);
}

absl::Status Call(absl::Duration timeout, absl::string_view awaited,
                  const std::function<grpc::Status(grpc::ClientContext*)>& call) {
  grpc::ClientContext context;
  return Call(&context, timeout, awaited, call);
}

}  // namespace crescendo
