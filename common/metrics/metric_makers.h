// One metric of a name in one expression, for the structs of metrics of each service.
#ifndef CRESCENDO_COMMON_METRICS_METRIC_MAKERS_H_
#define CRESCENDO_COMMON_METRICS_METRIC_MAKERS_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <string>
#include <utility>

namespace crescendo {

using MetricLabels = prometheus::Labels;
using HistogramBuckets = prometheus::Histogram::BucketBoundaries;

// The same name with other labels gives another metric of the same family; the same name and labels
// give the same metric.
inline prometheus::Counter& MakeCounter(prometheus::Registry& registry, const std::string& name,
                                        const std::string& help, const MetricLabels& labels = {}) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
}
inline prometheus::Gauge& MakeGauge(prometheus::Registry& registry, const std::string& name,
                                    const std::string& help, const MetricLabels& labels = {}) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(labels);
}
inline prometheus::Histogram& MakeHistogram(prometheus::Registry& registry, const std::string& name,
                                            const std::string& help, HistogramBuckets buckets,
                                            const MetricLabels& labels = {}) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(
      labels, std::move(buckets));
}

// Bounds first, first * factor, ...: `count` of them.
inline HistogramBuckets ExponentialBuckets(double first, double factor, int count) {
  HistogramBuckets buckets;
  for (int i = 0; i < count; ++i) {
    buckets.push_back(first);
    first *= factor;
  }
  return buckets;
}

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_METRIC_MAKERS_H_
