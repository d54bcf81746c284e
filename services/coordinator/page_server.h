// The run's page over HTTP: its files (services/coordinator/page, built into the program) and the
// JSON behind it. Reads only; whoever can open the page sees the run, nothing can be changed there.
//
//   GET /                                   the page
//   GET /api/status                         the run now
//   GET /api/steps?from=K&max=N             steps from K on, with evaluations and stages
//   GET /api/samples?verdict=&purpose=&truncated=1&problem=&below=ID&max=N    newest first
//
// A sample's text is whatever a policy wrote: it travels as JSON and is shown as text, and the
// page's policy (CSP) runs no script but its own. On the loopback only requests that name this
// machine are answered, so that no page of another site can read along through a name of its own.
// Thread-safe.
#ifndef CRESCENDO_SERVICES_COORDINATOR_PAGE_SERVER_H_
#define CRESCENDO_SERVICES_COORDINATOR_PAGE_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/rpc/http_server.h"
#include "services/coordinator/coordinator_host.h"
#include "services/coordinator/shown_samples.h"

namespace crescendo {

struct PageOptions {
  std::string address;    // host:port
  bool insecure = false;  // off the loopback
};

class PageServer {
 public:
  // Host and samples outlive it. Errors as of HttpServer::Start.
  static absl::StatusOr<std::unique_ptr<PageServer>> Start(const PageOptions& options,
                                                           CoordinatorHost* host,
                                                           const ShownSamples* samples);
  std::string url() const;

 private:
  PageServer() = default;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_PAGE_SERVER_H_
