#include "common/metrics/disk_metrics.h"

#include <prometheus/metric_family.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/os/process.h"

namespace crescendo {
namespace {

prometheus::MetricFamily Gauge(std::string name, std::string help, int64_t value) {
  prometheus::MetricFamily family;
  family.name = std::move(name);
  family.help = std::move(help);
  family.type = prometheus::MetricType::Gauge;
  prometheus::ClientMetric metric;
  metric.gauge.value = static_cast<double>(value);
  family.metric.push_back(metric);
  return family;
}

}  // namespace

DiskMetrics::DiskMetrics(std::string who, std::string folder)
    : who_(std::move(who)), folder_(std::move(folder)) {}

std::vector<prometheus::MetricFamily> DiskMetrics::Collect() const {
  const std::optional<DiskSpace> space = DiskSpaceOf(folder_);
  if (!space.has_value()) return {};
  return {Gauge(absl::StrCat("crescendo_", who_, "_disk_free_bytes"),
                "Room left for this process on the disk that holds the run's folder.",
                space->free_bytes),
          Gauge(absl::StrCat("crescendo_", who_, "_disk_size_bytes"),
                "Size of the disk that holds the run's folder.", space->size_bytes)};
}

}  // namespace crescendo
