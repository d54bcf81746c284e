// The /metrics port of a process: a registry and the HTTP server that shows it to Prometheus.
//
//   ASSIGN_OR_RETURN(auto metrics, MetricsServer::Start({.address = config.network.metrics,
//                                                        .who = "learner",
//                                                        .insecure = config.network.insecure}));
//   LearnerMetrics learner_metrics(metrics->registry());
//   learner_metrics.steps_total.Increment();
//
// The registry also shows the process's own figures under Prometheus's standard names
// (process_resident_memory_bytes, process_cpu_seconds_total, ...). Thread-safe. Metrics made from
// the registry live as long as the server.
#ifndef CRESCENDO_COMMON_METRICS_METRICS_SERVER_H_
#define CRESCENDO_COMMON_METRICS_METRICS_SERVER_H_

#include <prometheus/registry.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace prometheus {
class Exposer;
}

namespace crescendo {

struct MetricsServerOptions {
  std::string address;    // host:port; port 0 takes any free one
  std::string who;        // "learner", for messages
  bool insecure = false;  // off the loopback
  // The run's: the room on its disk is shown too. Empty: it is not. (With an initializer, so that
  // it may be left out.)
  std::string folder = {};
};

class MetricsServer {
 public:
  // Errors as of CheckPlainText and CheckCanListen. Blocks briefly.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const MetricsServerOptions& options);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  prometheus::Registry& registry() { return *registry_; }
  // host:port with the port that was bound.
  const std::string& address() const { return address_; }
  // What a scrape would get now.
  std::string Text() const;

 private:
  MetricsServer();

  std::shared_ptr<prometheus::Registry> registry_;
  std::shared_ptr<prometheus::Collectable> process_;
  std::shared_ptr<prometheus::Collectable> gpus_;  // null where there is none
  std::shared_ptr<prometheus::Collectable> disk_;  // null without a folder
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::string address_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_METRICS_SERVER_H_
