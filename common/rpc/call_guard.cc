#include "common/rpc/call_guard.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "common/os/posix_env.h"
#include "common/rpc/message_size.h"

namespace crescendo {
namespace {

using grpc::experimental::InterceptionHookPoints;

constexpr int64_t kNoWrite = 0;

int64_t NowNanos() { return absl::ToUnixNanos(RealNow()); }

}  // namespace

// One call. gRPC owns it and destroys it with the call's context.
class GuardedCall : public grpc::experimental::Interceptor {
 public:
  GuardedCall(CallGuard* guard, grpc::experimental::ServerRpcInfo* info)
      : guard_(guard), info_(info) {}
  ~GuardedCall() override {
    if (added_) guard_->Remove(this);
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE)) {
      if (!added_) guard_->Add(this);
      added_ = true;
      write_began_ = NowNanos();
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_SEND_MESSAGE)) {
      write_began_ = kNoWrite;
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE)) {
      unreadable_ = OneRequest() && methods->GetRecvMessage() == nullptr;
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      CountStatus(*methods);
    }
    methods->Proceed();
  }

  // Under the guard's mutex: the call lives.
  void EndWhenStalled(int64_t before_nanos) {
    const int64_t began = write_began_;
    if (began == kNoWrite || began > before_nanos || ended_) return;
    ended_ = true;
    guard_->Refused(Refusal::kSlowReader);
    info_->server_context()->TryCancel();
  }

 private:
  bool OneRequest() const {
    return info_->type() == grpc::experimental::ServerRpcInfo::Type::UNARY ||
           info_->type() == grpc::experimental::ServerRpcInfo::Type::SERVER_STREAMING;
  }

  // gRPC says INTERNAL without words when the bytes are not the method's message, and, of methods
  // with callbacks, UNIMPLEMENTED; no handler leaves the words out.
  void CountStatus(grpc::experimental::InterceptorBatchMethods& methods) const {
    grpc::Status status = methods.GetSendStatus();
    if (IsTooLarge(status)) return guard_->Refused(Refusal::kOversized);
    if (!status.error_message().empty()) return;
    if (unreadable_ && status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
      status = grpc::Status(grpc::StatusCode::INTERNAL, "");
      methods.ModifySendStatus(status);
    }
    if (status.error_code() == grpc::StatusCode::INTERNAL) guard_->Refused(Refusal::kMalformed);
  }

  CallGuard* const guard_;
  grpc::experimental::ServerRpcInfo* const info_;
  bool added_ = false;  // of the thread that writes
  bool ended_ = false;  // of the watcher
  bool unreadable_ = false;
  std::atomic<int64_t> write_began_{kNoWrite};
};

namespace {

class GuardFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit GuardFactory(CallGuard* guard) : guard_(guard) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new GuardedCall(guard_, info);  // gRPC takes it over
  }

 private:
  CallGuard* const guard_;
};

}  // namespace

CallGuard::CallGuard(absl::Duration stalled_max, OnRefusal on_refusal)
    : stalled_max_(stalled_max),
      on_refusal_(std::move(on_refusal)),
      watcher_([this] { Watch(); }) {}

CallGuard::~CallGuard() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  watcher_.join();
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CallGuard::Interceptors() {
  return std::make_unique<GuardFactory>(this);
}

void CallGuard::Add(GuardedCall* call) {
  absl::MutexLock lock(&mutex_);
  writing_.insert(call);
}

void CallGuard::Remove(GuardedCall* call) {
  absl::MutexLock lock(&mutex_);
  writing_.erase(call);
}

void CallGuard::Watch() {
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&stopping_), stalled_max_ / 4)) {
    const int64_t before = NowNanos() - absl::ToInt64Nanoseconds(stalled_max_);
    for (GuardedCall* call : writing_) call->EndWhenStalled(before);
  }
}

}  // namespace crescendo
