// The room of the disk that a process writes to, for an alert before it is full.
#ifndef CRESCENDO_COMMON_METRICS_DISK_METRICS_H_
#define CRESCENDO_COMMON_METRICS_DISK_METRICS_H_

#include <prometheus/collectable.h>

#include <string>
#include <vector>

namespace crescendo {

// Reads crescendo_<who>_disk_{free,size}_bytes at each scrape; nothing while `folder` is not there.
// Thread-safe: it holds no state but its two names.
class DiskMetrics : public prometheus::Collectable {
 public:
  // `who` is the service, "learner".
  DiskMetrics(std::string who, std::string folder);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::string who_;
  const std::string folder_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_DISK_METRICS_H_
