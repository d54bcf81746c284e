// The listening socket of a server, with a bound on the connections that it lets in.
//
// gRPC 1.51 has no such bound, and gives a listening port up for good when the process runs out of
// file descriptors: some thousand idle connections would end a service. So connections are accepted
// here, counted, and handed to gRPC; one that is too many is closed at once, and those that are in
// go on.
//
// Thread-safe.
#ifndef CRESCENDO_COMMON_RPC_LISTENER_H_
#define CRESCENDO_COMMON_RPC_LISTENER_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/rpc/address.h"
#include "common/rpc/refusal.h"

namespace crescendo {

class Listener {
 public:
  // Binds and listens now (errors as of CheckCanListen), accepts from Run on.
  static absl::StatusOr<std::unique_ptr<Listener>> Open(absl::string_view address,
                                                        absl::string_view who);
  ~Listener();  // Stop
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int port() const { return port_; }

  // Hands every accepted socket, at most `connections_max` of them at a time and as many as the
  // process has descriptors for, to `take`, which owns it from then on. Once.
  void Run(int connections_max, std::function<void(int listener, int socket)> take,
           OnRefusal on_refusal);
  // Accepts no more and gives the port back. Idempotent. Not from within `take`.
  void Stop();

 private:
  struct Connection {
    int socket;
    ino_t inode;
  };

  Listener(OwnedSocket socket, int wake, int port);
  void Loop();
  // Waits until a connection may be there; false to stop.
  bool WaitForOne() const;
  // Whether another connection fits. Looks for closed ones when none does.
  bool HasRoom();

  OwnedSocket socket_;
  const int wake_;  // an eventfd
  const int port_;
  int connections_max_ = 0;
  std::function<void(int, int)> take_;
  OnRefusal on_refusal_;
  std::vector<Connection> connections_;  // of the thread
  absl::Time looked_ = absl::InfinitePast();
  std::thread thread_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_LISTENER_H_
