#include "common/metrics/metrics_table.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/clock.h"
#include "common/metrics/coordinator_metrics.h"
#include "common/metrics/disk_metrics.h"
#include "common/metrics/gpu_metrics.h"
#include "common/metrics/learner_metrics.h"
#include "common/metrics/process_metrics.h"
#include "common/metrics/refused_calls.h"
#include "common/metrics/reward_metrics.h"
#include "common/metrics/rollout_metrics.h"

namespace crescendo {
namespace {

// Values of a label are listed up to so many.
constexpr size_t kValuesShown = 12;

class NoClock : public Clock {
 public:
  absl::Time Now() override { return absl::UnixEpoch(); }
  void SleepFor(absl::Duration) override {}
};

std::string TypeName(prometheus::MetricType type) {
  switch (type) {
    case prometheus::MetricType::Counter:
      return "counter";
    case prometheus::MetricType::Gauge:
      return "gauge";
    case prometheus::MetricType::Histogram:
      return "histogram";
    default:
      return "other";
  }
}

std::string LabelsOf(const prometheus::MetricFamily& family) {
  std::map<std::string, std::set<std::string>> values;
  for (const prometheus::ClientMetric& metric : family.metric) {
    for (const auto& label : metric.label) values[label.name].insert(label.value);
  }
  std::vector<std::string> words;
  for (const auto& [name, of] : values) {
    const bool shown = of.size() <= kValuesShown && of.count("") == 0;
    words.push_back(shown ? absl::StrCat(name, ": ", absl::StrJoin(of, ", ")) : name);
  }
  return absl::StrJoin(words, "; ");
}

using Families = std::vector<prometheus::MetricFamily>;

void AddRows(const std::string& service, const std::vector<prometheus::MetricFamily>& families,
             std::vector<MetricRow>* rows) {
  const size_t first = rows->size();
  for (const prometheus::MetricFamily& family : families) {
    rows->push_back({service, family.name, TypeName(family.type), LabelsOf(family), family.help});
  }
  std::sort(rows->begin() + static_cast<int64_t>(first), rows->end(),
            [](const MetricRow& a, const MetricRow& b) { return a.name < b.name; });
}

// Those of a service: its own struct, made by `make`, and what all have.
Families FamiliesOf(const std::string& service,
                    const std::function<void(prometheus::Registry&)>& make) {
  NoClock clock;
  prometheus::Registry registry;
  make(registry);
  const RefusedCalls refused(registry, service);
  const LifeTrace trace(&clock, registry, service, LifeStagesOf(service));
  Families families = registry.Collect();
  const auto add = [&families](const Families& more) {
    families.insert(families.end(), more.begin(), more.end());
  };
  if (service == "coordinator" || service == "learner") add(DiskMetrics(service, "/").Collect());
  if (service == "rollout" || service == "learner") add(GpuMetrics::Names(service));
  return families;
}

std::vector<std::pair<std::string, Families>> AllFamilies() {
  std::vector<std::pair<std::string, Families>> all;
  const auto add = [&](const std::string& service,
                       const std::function<void(prometheus::Registry&)>& make) {
    all.emplace_back(service, FamiliesOf(service, make));
  };
  add("coordinator", [](prometheus::Registry& r) {
    // What has labels that come and go: named here.
    CoordinatorMetrics metrics(r);
    for (auto* family : {&metrics.gpu_seconds, &metrics.core_seconds, &metrics.cost_money}) {
      family->Add({{"service", ""}, {"gpu_type", ""}});
    }
    metrics.awaited_seconds.Set({{{{"from", ""}}, 0}});
    metrics.quarantined_worker_seconds.Set({{{{"worker", ""}, {"reason", ""}}, 0}});
    for (auto* of_rules : {&metrics.rule_value, &metrics.rule_threshold, &metrics.stage_ends}) {
      of_rules->Set({{{{"rule", ""}}, 0}});
    }
    metrics.evaluation_pass_at_1_ratio.Set({{{{"set", ""}}, 0}});
  });
  add("learner", [](prometheus::Registry& r) { const LearnerMetrics metrics(r); });
  add("rollout", [](prometheus::Registry& r) { const RolloutMetrics metrics(r); });
  add("reward", [](prometheus::Registry& r) { const RewardMetrics metrics(r, {""}); });
  all.emplace_back("", ProcessMetrics().Collect());
  return all;
}

}  // namespace

std::vector<LifeStage> LifeStagesOf(const std::string& service) {
  using Event = LifeEvent;
  if (service == "coordinator") {
    return {{Event::kLeased, Event::kCompleted}, {Event::kCompleted, Event::kTrained}};
  }
  if (service == "learner") return {{Event::kAccepted, Event::kTrained}};
  if (service == "rollout") {
    return {{Event::kLeased, Event::kFirstToken},
            {Event::kLeased, Event::kCompleted},
            {Event::kFirstToken, Event::kFinished},
            {Event::kFinished, Event::kGraded}};
  }
  return {};
}

std::vector<MetricRow> MetricRows() {
  std::vector<MetricRow> rows;
  for (const auto& [service, families] : AllFamilies()) AddRows(service, families, &rows);
  return rows;
}

std::string AllMetricsText() {
  Families all;
  for (auto& [service, families] : AllFamilies()) {
    all.insert(all.end(), families.begin(), families.end());
  }
  return prometheus::TextSerializer().Serialize(all);
}

std::string MetricsTable() {
  std::string table;
  std::string section = "none";
  for (const MetricRow& row : MetricRows()) {
    if (row.service != section) {
      section = row.service;
      absl::StrAppend(&table, table.empty() ? "" : "\n", "## ",
                      section.empty() ? "Every process" : section,
                      "\n\n| metric | type | labels | what |\n|---|---|---|---|\n");
    }
    absl::StrAppend(&table, "| `", row.name, "` | ", row.type, " | ", row.labels, " | ", row.help,
                    " |\n");
  }
  return table;
}

}  // namespace crescendo
