#include "common/metrics/process_metrics.h"

#include <prometheus/metric_family.h>
#include <sys/resource.h>

#include "absl/time/time.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"

namespace crescendo {
namespace {

prometheus::MetricFamily Family(const char* name, const char* help, prometheus::MetricType type,
                                double value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(metric);
  return family;
}

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

}  // namespace

ProcessMetrics::ProcessMetrics()
    : start_seconds_(absl::ToDoubleSeconds(RealNow() - absl::UnixEpoch())) {}

std::vector<prometheus::MetricFamily> ProcessMetrics::Collect() const {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return {
      Family("process_resident_memory_bytes", "Physical memory that the process holds.",
             prometheus::MetricType::Gauge, static_cast<double>(ResidentBytes())),
      Family("process_cpu_seconds_total", "User and system CPU time.",
             prometheus::MetricType::Counter, Seconds(usage.ru_utime) + Seconds(usage.ru_stime)),
      Family("process_start_time_seconds", "Unix time at which the process began.",
             prometheus::MetricType::Gauge, start_seconds_)};
}

}  // namespace crescendo
