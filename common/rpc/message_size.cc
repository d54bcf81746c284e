#include "common/rpc/message_size.h"

#include <grpc/byte_buffer.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace crescendo {
namespace {

using grpc::internal::MethodHandler;
using grpc::internal::RpcMethod;
using grpc::internal::RpcServiceMethod;

constexpr absl::string_view kTooLarge = "message: expected at most ";

// grpc::Service keeps its methods to itself and gRPC has no other place between the bytes of a
// request and its handler. An explicit instantiation may name a private member
// ([temp.spec.general], paragraph 6), so this needs no change of gRPC, and does not compile where
// it does not fit.
using Methods = std::vector<std::unique_ptr<RpcServiceMethod>>;
Methods& MethodsOf(grpc::Service& service);
template <Methods grpc::Service::*kMember>
struct MethodsDoor {
  friend Methods& MethodsOf(grpc::Service& service) { return service.*kMember; }
};
template struct MethodsDoor<&grpc::Service::methods_>;

// In front of a method's own handler.
class CheckedHandler : public MethodHandler {
 public:
  explicit CheckedHandler(std::unique_ptr<RpcServiceMethod> method) : method_(std::move(method)) {}

  // `request` is null when the call ended before all of it had come.
  void* Deserialize(grpc_call* call, grpc_byte_buffer* request, grpc::Status* status,
                    void** handler_data) override {
    if (request != nullptr) *status = CheckMessageSize(grpc_byte_buffer_length(request));
    if (!status->ok()) {
      grpc_byte_buffer_destroy(request);
      return nullptr;
    }
    return method_->handler()->Deserialize(call, request, status, handler_data);
  }

  void RunHandler(const HandlerParameter& call) override {
    if (IsTooLarge(call.status) && method_->api_type() == RpcServiceMethod::ApiType::CALL_BACK) {
      Refuse(call);  // its own handler would say UNIMPLEMENTED
    } else {
      method_->handler()->RunHandler(call);  // does not call the service when the status is not ok
    }
  }

 private:
  static void Refuse(const HandlerParameter& call) {
    using Handler = grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>;
    Handler handler([&call](grpc::CallbackServerContext* context, const grpc::ByteBuffer*,
                            grpc::ByteBuffer*) -> grpc::ServerUnaryReactor* {
      grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
      reactor->Finish(call.status);
      return reactor;
    });
    grpc::Status status;
    void* data = nullptr;
    void* request = handler.Deserialize(call.call->call(), nullptr, &status, &data);
    handler.RunHandler(HandlerParameter(call.call, call.server_context, request, status, data,
                                        call.call_requester));
  }

  const std::unique_ptr<RpcServiceMethod> method_;
};

}  // namespace

grpc::Status CheckMessageSize(size_t bytes) {
  if (bytes <= limits::kMessageBytesMax) return grpc::Status::OK;
  return {grpc::StatusCode::RESOURCE_EXHAUSTED,
          absl::StrCat(kTooLarge, limits::kMessageBytesMax, " bytes, found ", bytes)};
}

bool IsTooLarge(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
         absl::StartsWith(status.error_message(), kTooLarge);
}

void CheckRequests(grpc::Service& service) {
  for (std::unique_ptr<RpcServiceMethod>& method : MethodsOf(service)) {
    if (method == nullptr || method->handler() == nullptr) continue;
    const bool one_message = method->method_type() == RpcMethod::NORMAL_RPC ||
                             method->method_type() == RpcMethod::SERVER_STREAMING;
    if (!one_message || dynamic_cast<CheckedHandler*>(method->handler()) != nullptr) continue;
    const char* const name = method->name();
    const RpcMethod::RpcType type = method->method_type();
    const RpcServiceMethod::ApiType api = method->api_type();
    method = std::make_unique<RpcServiceMethod>(name, type, new CheckedHandler(std::move(method)));
    method->SetServerApiType(api);
  }
}

}  // namespace crescendo
