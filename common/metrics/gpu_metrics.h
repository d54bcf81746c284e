// Memory and utilisation of the GPUs that a process can see, as NVIDIA's management library says.
// The library is opened at run time: where there is none, nothing is shown and nothing fails.
#ifndef CRESCENDO_COMMON_METRICS_GPU_METRICS_H_
#define CRESCENDO_COMMON_METRICS_GPU_METRICS_H_

#include <prometheus/collectable.h>

#include <memory>
#include <string>
#include <vector>

namespace crescendo {

// Reads crescendo_<who>_gpu_{memory_used_bytes,memory_size_bytes,utilization_ratio}{gpu} at each
// scrape. Thread-safe: NVML is.
class GpuMetrics : public prometheus::Collectable {
 public:
  // nullptr where the library or a GPU is missing. `who` is the service, "learner".
  static std::shared_ptr<GpuMetrics> Open(const std::string& who);
  ~GpuMetrics() override;

  std::vector<prometheus::MetricFamily> Collect() const override;
  // The families of Collect with one GPU that is all 0: for the table of metrics.
  static std::vector<prometheus::MetricFamily> Names(const std::string& who);

 private:
  struct Library;
  GpuMetrics(std::string who, std::unique_ptr<Library> library);

  const std::string who_;
  const std::unique_ptr<Library> library_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_GPU_METRICS_H_
