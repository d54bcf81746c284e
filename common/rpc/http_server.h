// An HTTP/1.1 server on cpp-httplib, with its bounds set: so many threads, so many connections that
// wait for one (more are left to the kernel's backlog), small heads and bodies, deadlines for
// reading and writing. Plain text, so on the loopback unless asked for by name.
//
//   ASSIGN_OR_RETURN(auto server, HttpServer::Start({.address = "127.0.0.1:0", .who = "page"},
//                                                   [](httplib::Server& routes) {
//     routes.Get("/", [](const httplib::Request&, httplib::Response& response) { ... });
//   }));
//
// Handlers run on the server's threads, several at once. Thread-safe.
#ifndef CRESCENDO_COMMON_RPC_HTTP_SERVER_H_
#define CRESCENDO_COMMON_RPC_HTTP_SERVER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace httplib {
class Server;
}

namespace crescendo {

struct HttpServerOptions {
  std::string address;           // host:port; port 0 takes any free one
  std::string who;               // "coordinator page", for messages
  bool insecure = false;         // off the loopback
  int threads = 4;               // requests that are served at once
  size_t connections_max = 64;   // that wait for a thread
  size_t body_bytes_max = 4096;  // of a request
  // Requests of one connection; a connection holds its thread while it is kept. 1: none is kept.
  size_t requests_per_connection = 1;
  absl::Duration timeout = absl::Seconds(5);  // without progress on a connection
};

class HttpServer {
 public:
  // `add_routes` sets the handlers before the server listens. Errors as of CheckPlainText and
  // CheckCanListen. Blocks briefly.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const HttpServerOptions& options, const std::function<void(httplib::Server&)>& add_routes);
  ~HttpServer();  // Stop
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // host:port with the port that was bound.
  const std::string& address() const { return address_; }
  // Takes no more connections and waits for the handlers that run. Idempotent; from one thread.
  void Stop();

 private:
  HttpServer();

  std::unique_ptr<httplib::Server> server_;
  std::string address_;
  std::thread thread_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_HTTP_SERVER_H_
