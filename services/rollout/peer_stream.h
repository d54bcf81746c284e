// A bidirectional stream to a peer: one thread writes, a thread of its own reads. It ends once: it
// breaks, which is told once whoever notices first, or it is closed.
#ifndef CRESCENDO_SERVICES_ROLLOUT_PEER_STREAM_H_
#define CRESCENDO_SERVICES_ROLLOUT_PEER_STREAM_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/time/time.h"
#include "common/os/posix_env.h"
#include "services/rollout/peer_watch.h"

namespace crescendo {

// The way to a peer. All pointers outlive what is made from it.
struct PeerLine {
  grpc::Channel* channel = nullptr;
  std::string who;      // "learner"
  std::string address;  // of it
  std::string purpose;  // "to take samples"
  PeerWatch* watch = nullptr;
  const StopFlag* stop = nullptr;
};

// Blocks until the peer is connected. False when the worker stops or `superseded` says that nobody
// needs it any more.
bool AwaitPeer(const PeerLine& line, const std::function<bool()>& superseded);
// Says how a stream broke and pauses: not to open streams without end to a peer that ends each.
void ReportBreak(const PeerLine& line, const grpc::Status& status);

template <typename Out, typename In>
class PeerStream {
 public:
  using Calls = grpc::ClientReaderWriter<Out, In>;
  struct Events {
    std::function<bool(In&)> on_message;  // false: it cannot be read, and the stream breaks
    std::function<void()> on_break;       // not when the worker stops
  };

  // The events come from the reading thread; on_break may come from Write.
  PeerStream(const PeerLine& line,
             const std::function<std::unique_ptr<Calls>(grpc::ClientContext*)>& call, Events events)
      : line_(line), events_(std::move(events)) {
    // One that lives long is opened anew: every call has a deadline.
    context_.set_deadline(absl::ToChronoTime(RealNow() + absl::Hours(1)));
    calls_ = call(&context_);
    reader_ = std::thread([this] { Read(); });
  }
  ~PeerStream() { Close(); }
  PeerStream(const PeerStream&) = delete;
  PeerStream& operator=(const PeerStream&) = delete;

  bool ended() const { return ended_.load(); }
  // False when it has broken.
  bool Write(const Out& message) {
    if (ended_.load()) return false;
    if (calls_->Write(message)) return true;
    Break();
    return false;
  }
  // Blocks until nothing of it runs; after a break also for the pause of ReportBreak. Of the
  // writing thread; more than once does nothing.
  void Close() {
    if (!reader_.joinable()) return;
    const bool broke = ended_.exchange(true);
    if (!broke) context_.TryCancel();
    reader_.join();
    const grpc::Status status = calls_->Finish();
    if (broke && !line_.stop->IsSet()) ReportBreak(line_, status);
  }

 private:
  void Read() {
    In message;
    while (calls_->Read(&message)) {
      line_.watch->Ok();
      if (events_.on_message(message)) continue;
      context_.TryCancel();
      break;
    }
    Break();
  }
  void Break() {
    if (!ended_.exchange(true) && !line_.stop->IsSet()) events_.on_break();
  }

  const PeerLine line_;
  const Events events_;
  grpc::ClientContext context_;
  std::unique_ptr<Calls> calls_;
  std::atomic<bool> ended_{false};
  std::thread reader_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_PEER_STREAM_H_
