// Every metric that the services show, as the table of README.md beside this file. A test holds the
// two against each other, and what running services show against this.
#ifndef CRESCENDO_COMMON_METRICS_METRICS_TABLE_H_
#define CRESCENDO_COMMON_METRICS_METRICS_TABLE_H_

#include <string>
#include <vector>

#include "common/metrics/life_trace.h"

namespace crescendo {

// What a service measures of a group's life ("coordinator", "learner", "rollout").
std::vector<LifeStage> LifeStagesOf(const std::string& service);

struct MetricRow {
  std::string service;  // "" for those of every process
  std::string name;
  std::string type;    // counter, gauge, histogram
  std::string labels;  // "finish: stop, truncated"; "" for none
  std::string help;
};

// In the order of services, then of names.
std::vector<MetricRow> MetricRows();
// What a scrape of all services at once would get: for tests.
std::string AllMetricsText();
// One section a service, in Markdown.
std::string MetricsTable();

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_METRICS_TABLE_H_
