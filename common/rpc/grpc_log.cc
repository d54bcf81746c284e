#include "common/rpc/grpc_log.h"

#include <grpc/support/log.h>

#include <optional>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/os/posix_env.h"

namespace crescendo {

namespace {
constexpr int kLinesASecond = 5;
}  // namespace

// gRPC's log is one function for the process: so is this.
class GrpcLog {
 public:
  static GrpcLog& Instance() {
    static auto* log = new GrpcLog;  // outlives gRPC's threads
    return *log;
  }

  void SetLogger(const Logger& logger) {
    absl::MutexLock lock(&mutex_);
    logger_ = logger;
  }
  void Add(const HandshakeWatch* watch) {
    absl::MutexLock lock(&mutex_);
    watches_.insert(watch);
  }
  void Remove(const HandshakeWatch* watch) {
    absl::MutexLock lock(&mutex_);
    watches_.erase(watch);
  }

 private:
  GrpcLog() {
    gpr_set_log_function([](gpr_log_func_args* args) { Instance().Take(*args); });
  }

  void Take(const gpr_log_func_args& args) {
    const absl::string_view message = args.message;
    absl::MutexLock lock(&mutex_);
    if (absl::StrContains(message, "Handshake failed")) {
      for (const HandshakeWatch* watch : watches_) {
        if (watch->on_refusal_) watch->on_refusal_(Refusal::kHandshake);
      }
    }
    const absl::Time now = RealNow();
    if (now - second_ >= absl::Seconds(1)) {
      second_ = now;
      lines_ = 0;
    }
    if (!logger_ || lines_ >= kLinesASecond) return;
    ++lines_;
    // Its threads end a handshake of a stranger with an error: for us that is no failure.
    logger_->Warn("grpc", {{"what", message}});
  }

  absl::Mutex mutex_;
  std::optional<Logger> logger_ ABSL_GUARDED_BY(mutex_);
  std::set<const HandshakeWatch*> watches_ ABSL_GUARDED_BY(mutex_);
  absl::Time second_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int lines_ ABSL_GUARDED_BY(mutex_) = 0;
};

void SendGrpcLogTo(const Logger& log) { GrpcLog::Instance().SetLogger(log); }

HandshakeWatch::HandshakeWatch(OnRefusal on_refusal) : on_refusal_(std::move(on_refusal)) {
  GrpcLog::Instance().Add(this);
}

HandshakeWatch::~HandshakeWatch() { GrpcLog::Instance().Remove(this); }

}  // namespace crescendo
