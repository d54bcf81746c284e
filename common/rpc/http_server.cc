#include "common/rpc/http_server.h"

#include <httplib.h>
#include <sys/socket.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/base/bounded_queue.h"
#include "common/base/status_macros.h"
#include "common/rpc/address.h"

namespace crescendo {
namespace {

// Threads over a bounded queue: a full one holds back the thread that accepts.
class BoundedTasks : public httplib::TaskQueue {
 public:
  BoundedTasks(int threads, size_t waiting_max) : tasks_(waiting_max) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
  }
  void enqueue(std::function<void()> task) override {
    (void)tasks_.Push(std::move(task), absl::InfiniteDuration());
  }
  // What waits is still served: each task closes its own connection.
  void shutdown() override {
    tasks_.Close();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void Work() {
    while (auto task = tasks_.Pop(absl::InfiniteDuration())) (*task)();
  }

  BoundedQueue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

void SetBounds(const HttpServerOptions& options, httplib::Server& server) {
  const auto seconds = static_cast<time_t>(absl::ToInt64Seconds(options.timeout));
  server.set_read_timeout(seconds);
  server.set_write_timeout(seconds);
  server.set_keep_alive_timeout(seconds);
  server.set_keep_alive_max_count(options.requests_per_connection);
  server.set_payload_max_length(options.body_bytes_max);
  server.set_tcp_nodelay(true);
  // The library's own also share a port among processes.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
}

}  // namespace

HttpServer::HttpServer() : server_(std::make_unique<httplib::Server>()) {}

HttpServer::~HttpServer() { Stop(); }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const HttpServerOptions& options, const std::function<void(httplib::Server&)>& add_routes) {
  RETURN_IF_ERROR(CheckPlainText(options.address, options.insecure, options.who));
  RETURN_IF_ERROR(CheckCanListen(options.address, options.who));
  ASSIGN_OR_RETURN(Address address, ParseAddress(options.address));
  std::unique_ptr<HttpServer> server(new HttpServer());
  httplib::Server& http = *server->server_;
  SetBounds(options, http);
  add_routes(http);
  const bool bound = address.port == 0 ? (address.port = http.bind_to_any_port(address.host)) > 0
                                       : http.bind_to_port(address.host, address.port);
  if (!bound) {
    return absl::UnavailableError(
        absl::StrCat(options.who, ": cannot listen on ", options.address));
  }
  server->address_ = FormatAddress(address.host, address.port);
  // The library makes its threads once it may be stopped again.
  absl::Notification running;
  http.new_task_queue = [&options, &running] {
    auto* tasks = new BoundedTasks(options.threads, options.connections_max);
    running.Notify();
    return tasks;
  };
  server->thread_ = std::thread([&http] { http.listen_after_bind(); });
  running.WaitForNotification();
  return server;
}

void HttpServer::Stop() {
  if (!thread_.joinable()) return;
  server_->stop();
  thread_.join();
}

}  // namespace crescendo
