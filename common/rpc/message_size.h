// The bound on the messages that a server takes (limits::kMessageBytesMax), kept by us and not by
// gRPC: 1.51 ends a call whose message is above its own limit without telling anybody here, and
// holds that limit against a message only when it has all of it, so it bounds no memory either
// (RpcServer's quota does). Here a message that is too large, or none of its method, is refused
// before it is parsed, with a status that says so and that CallGuard counts.
//
// Requests of one message are checked by CheckRequests, for every service that RpcServer starts.
// A stream's handler reads CheckedMessages and ends with the status of one that is not ok.
#ifndef CRESCENDO_COMMON_RPC_MESSAGE_SIZE_H_
#define CRESCENDO_COMMON_RPC_MESSAGE_SIZE_H_

#include <cstddef>

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/serialization_traits.h>
#include <grpcpp/impl/service_type.h>

#include "common/base/limits.h"

namespace crescendo {

// OK, or RESOURCE_EXHAUSTED that names what was expected and found. Pure.
grpc::Status CheckMessageSize(size_t bytes);
// Whether a status is CheckMessageSize's.
bool IsTooLarge(const grpc::Status& status);

// From now on the service's methods that take one message refuse what CheckMessageSize does,
// without a call of their handlers. Before the service is registered; a second time does nothing.
void CheckRequests(grpc::Service& service);

// A message of a stream: CheckMessageSize's status, INTERNAL without words for bytes that are no
// M, or OK; then `message` is it.
template <typename M>
struct CheckedMessage {
  M message;
  grpc::Status status;
};

}  // namespace crescendo

namespace grpc {

template <typename M>
class SerializationTraits<crescendo::CheckedMessage<M>, void> {
 public:
  // The read itself succeeds whatever came: else a stream would only seem to have ended.
  static Status Deserialize(ByteBuffer* buffer, crescendo::CheckedMessage<M>* checked) {
    checked->status = crescendo::CheckMessageSize(buffer->Length());
    if (checked->status.ok()) {
      checked->status = SerializationTraits<M>::Deserialize(buffer, &checked->message);
    } else {
      buffer->Clear();
    }
    return Status::OK;
  }
};

}  // namespace grpc

#endif  // CRESCENDO_COMMON_RPC_MESSAGE_SIZE_H_
