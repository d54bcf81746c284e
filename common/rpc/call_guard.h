// Watches over every call of a server, whichever method it is of: counts messages that are no
// messages or too large, and ends calls whose reader takes nothing, so
// that a slow reader holds neither a thread nor a buffer for longer than limits::kStalledWriteMax.
//
// Thread-safe. Outlives the server that it is given to.
#ifndef CRESCENDO_COMMON_RPC_CALL_GUARD_H_
#define CRESCENDO_COMMON_RPC_CALL_GUARD_H_

#include <memory>
#include <thread>
#include <unordered_set>

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_interceptor.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/rpc/refusal.h"

namespace crescendo {

class GuardedCall;

class CallGuard {
 public:
  // A write that is under way for longer than `stalled_max` ends its call.
  CallGuard(absl::Duration stalled_max, OnRefusal on_refusal);
  ~CallGuard();
  CallGuard(const CallGuard&) = delete;
  CallGuard& operator=(const CallGuard&) = delete;

  // For ServerBuilder::experimental().SetInterceptorCreators.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> Interceptors();

 private:
  friend class GuardedCall;
  void Add(GuardedCall* call);
  void Remove(GuardedCall* call);
  void Refused(Refusal refusal) const {
    if (on_refusal_) on_refusal_(refusal);
  }
  void Watch();

  const absl::Duration stalled_max_;
  const OnRefusal on_refusal_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::unordered_set<GuardedCall*> writing_ ABSL_GUARDED_BY(mutex_);  // wrote at least once
  std::thread watcher_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_CALL_GUARD_H_
