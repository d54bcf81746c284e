// The metrics of the coordinator, made in one place so that a name, its unit and its help stand
// together.
//
// Each member is a metric of the registry, which must outlive the struct. Thread-safe: increment,
// set and observe from anywhere.
#ifndef CRESCENDO_COMMON_METRICS_COORDINATOR_METRICS_H_
#define CRESCENDO_COMMON_METRICS_COORDINATOR_METRICS_H_

#include "common/metrics/labelled_gauges.h"
#include "common/metrics/metric_makers.h"

namespace crescendo {

struct CoordinatorMetrics {
  explicit CoordinatorMetrics(prometheus::Registry& registry);

  prometheus::Counter& leases_granted_total;
  prometheus::Counter& leases_expired_total;
  prometheus::Counter& leases_abandoned_total;
  prometheus::Counter& groups_completed_total;
  prometheus::Counter& late_completions_total;
  prometheus::Counter& heartbeats_total;
  prometheus::Counter& steps_total;
  prometheus::Counter& steps_rolled_back_total;
  prometheus::Counter& stage_changes_total;
  prometheus::Counter& second_leases_total;
  prometheus::Counter& quarantines_total;
  prometheus::Counter& evaluations_total;
  // crescendo_coordinator_refused_calls_total{reason=request}: another protocol version, an unknown
  // caller, a field out of bounds. The other reasons: refused_calls.h.
  prometheus::Counter& refused_calls_total;
  prometheus::Counter& generated_tokens_total;
  prometheus::Counter& trained_tokens_total;
  prometheus::Gauge& healthy_workers;      // crescendo_coordinator_workers{state=healthy}
  prometheus::Gauge& slow_workers;         // crescendo_coordinator_workers{state=slow}
  prometheus::Gauge& lost_workers;         // crescendo_coordinator_workers{state=lost}
  prometheus::Gauge& draining_workers;     // crescendo_coordinator_workers{state=draining}
  prometheus::Gauge& quarantined_workers;  // crescendo_coordinator_workers{state=quarantined}
  prometheus::Gauge& pending_groups;
  prometheus::Gauge& leased_groups;
  prometheus::Gauge& buffered_groups;
  prometheus::Gauge& step;
  prometheus::Gauge& stage;
  prometheus::Gauge& context_tokens;
  prometheus::Gauge& pass_at_1_ratio;
  prometheus::Gauge& tokens_per_second;
  prometheus::Gauge& awaiting_seconds;
  // What has been used so far, by service and gpu_type.
  prometheus::Family<prometheus::Gauge>& gpu_seconds;
  prometheus::Family<prometheus::Gauge>& core_seconds;
  prometheus::Family<prometheus::Gauge>& cost_money;
  prometheus::Gauge& projected_gpu_seconds;
  prometheus::Gauge& projected_cost_money;
  LabelledGauges awaited_seconds;             // {from}: worker ids, "learner", "anyone"
  LabelledGauges quarantined_worker_seconds;  // {worker, reason}: for another so long
  LabelledGauges rule_value;                  // {rule} of the curriculum, over the stage so far
  LabelledGauges rule_threshold;              // {rule}
  LabelledGauges stage_ends;                  // {rule}: stages that it ended
  LabelledGauges evaluation_pass_at_1_ratio;  // {set}: the newest
  prometheus::Histogram& journal_commit_seconds;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_COORDINATOR_METRICS_H_
