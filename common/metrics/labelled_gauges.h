// A family of gauges whose labels come and go: the workers in quarantine, the sets evaluated.
#ifndef CRESCENDO_COMMON_METRICS_LABELLED_GAUGES_H_
#define CRESCENDO_COMMON_METRICS_LABELLED_GAUGES_H_

#include <map>
#include <string>

#include "common/metrics/metric_makers.h"

namespace crescendo {

// Not thread-safe; the registry outlives it.
class LabelledGauges {
 public:
  LabelledGauges(prometheus::Registry& registry, const std::string& name, const std::string& help)
      : family_(prometheus::BuildGauge().Name(name).Help(help).Register(registry)) {}

  // Exactly these are exported from now on.
  void Set(const std::map<MetricLabels, double>& values) {
    for (auto it = gauges_.begin(); it != gauges_.end();) {
      if (values.count(it->first) > 0) {
        ++it;
      } else {
        family_.Remove(it->second);
        it = gauges_.erase(it);
      }
    }
    for (const auto& [labels, value] : values) {
      prometheus::Gauge*& gauge = gauges_[labels];
      if (gauge == nullptr) gauge = &family_.Add(labels);
      gauge->Set(value);
    }
  }

 private:
  prometheus::Family<prometheus::Gauge>& family_;
  std::map<MetricLabels, prometheus::Gauge*> gauges_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_LABELLED_GAUGES_H_
