#include "common/metrics/metrics_server.h"

#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>

#include <exception>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/base/status_macros.h"
#include "common/metrics/disk_metrics.h"
#include "common/metrics/gpu_metrics.h"
#include "common/metrics/process_metrics.h"
#include "common/rpc/address.h"

namespace crescendo {
namespace {

constexpr int kThreads = 2;
constexpr int kRequestTimeoutMs = 5000;
constexpr int kRequestBytesMax = 8192;
constexpr absl::Duration kKnockEvery = absl::Milliseconds(5);

}  // namespace

MetricsServer::MetricsServer()
    : registry_(std::make_shared<prometheus::Registry>()),
      process_(std::make_shared<ProcessMetrics>()) {}

// civetweb sees that it shall stop when its poll returns: every 2 s, or when somebody connects.
MetricsServer::~MetricsServer() {
  const absl::StatusOr<Address> address = ParseAddress(address_);
  if (!address.ok()) return;
  absl::Notification stopped;
  std::thread stopping([&] {
    exposer_.reset();
    stopped.Notify();
  });
  while (!stopped.WaitForNotificationWithTimeout(kKnockEvery)) Knock(*address);
  stopping.join();
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const MetricsServerOptions& options) {
  const std::string who = absl::StrCat(options.who, " metrics");
  RETURN_IF_ERROR(CheckPlainText(options.address, options.insecure, who));
  RETURN_IF_ERROR(CheckCanListen(options.address, who));
  ASSIGN_OR_RETURN(const Address address, ParseAddress(options.address));
  std::unique_ptr<MetricsServer> server(new MetricsServer());
  try {
    // A scrape is one small request. Who says nothing for a while loses its connection.
    server->exposer_ = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", options.address, "num_threads", absl::StrCat(kThreads),
        "request_timeout_ms", absl::StrCat(kRequestTimeoutMs), "max_request_size",
        absl::StrCat(kRequestBytesMax), "enable_keep_alive", "no"});
    server->exposer_->RegisterCollectable(server->registry_);
    server->exposer_->RegisterCollectable(server->process_);
    if (options.who == "learner" || options.who == "rollout") {
      server->gpus_ = GpuMetrics::Open(options.who);
    }
    if (server->gpus_ != nullptr) server->exposer_->RegisterCollectable(server->gpus_);
    if (!options.folder.empty()) {
      server->disk_ = std::make_shared<DiskMetrics>(options.who, options.folder);
      server->exposer_->RegisterCollectable(server->disk_);
    }
    const std::vector<int> ports = server->exposer_->GetListeningPorts();
    server->address_ = FormatAddress(address.host, ports.empty() ? address.port : ports.front());
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat(who, ": cannot listen on ", options.address, ": ", error.what()));
  }
  return server;
}

std::string MetricsServer::Text() const {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  std::vector<prometheus::MetricFamily> own = process_->Collect();
  families.insert(families.end(), own.begin(), own.end());
  if (disk_ != nullptr) {
    const std::vector<prometheus::MetricFamily> disk = disk_->Collect();
    families.insert(families.end(), disk.begin(), disk.end());
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace crescendo
