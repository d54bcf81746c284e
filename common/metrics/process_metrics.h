// The process's own figures, under the names that Prometheus's client libraries share.
#ifndef CRESCENDO_COMMON_METRICS_PROCESS_METRICS_H_
#define CRESCENDO_COMMON_METRICS_PROCESS_METRICS_H_

#include <prometheus/collectable.h>

#include <vector>

namespace crescendo {

// Reads them at each scrape. Thread-safe: only its start time is kept.
class ProcessMetrics : public prometheus::Collectable {
 public:
  ProcessMetrics();
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  double start_seconds_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_PROCESS_METRICS_H_
