// The metrics of a rollout worker, made in one place so that a name, its unit and its help stand
// together.
//
// Each member is a metric of the registry, which must outlive the struct. Thread-safe: increment,
// set and observe from anywhere.
#ifndef CRESCENDO_COMMON_METRICS_ROLLOUT_METRICS_H_
#define CRESCENDO_COMMON_METRICS_ROLLOUT_METRICS_H_

#include "common/metrics/metric_makers.h"

namespace crescendo {

struct RolloutMetrics {
  explicit RolloutMetrics(prometheus::Registry& registry);

  prometheus::Counter& generated_tokens_total;
  prometheus::Counter& prefilled_tokens_total;
  prometheus::Counter& samples_stopped_total;  // crescendo_rollout_samples_total{finish=stop}
  prometheus::Counter&
      samples_truncated_total;                  // crescendo_rollout_samples_total{finish=truncated}
  prometheus::Counter& groups_completed_total;  // crescendo_rollout_groups_total{outcome=completed}
  prometheus::Counter& groups_abandoned_total;  // crescendo_rollout_groups_total{outcome=abandoned}
  prometheus::Counter& groups_revoked_total;    // crescendo_rollout_groups_total{outcome=revoked}
  prometheus::Counter& resumed_tokens_total;
  prometheus::Counter& chunks_sent_total;
  prometheus::Counter& weight_bytes_total;
  prometheus::Counter& weight_delta_bytes_total;
  prometheus::Counter& weight_chunks_refused_total;
  prometheus::Counter& weight_source_failures_total;
  prometheus::Counter& relayed_weight_bytes_total;
  prometheus::Counter& weight_swaps_total;
  prometheus::Counter&
      coordinator_failures_total;  // crescendo_rollout_rpc_failures_total{peer=coordinator}
  prometheus::Counter&
      learner_failures_total;                  // crescendo_rollout_rpc_failures_total{peer=learner}
  prometheus::Counter& reward_failures_total;  // crescendo_rollout_rpc_failures_total{peer=reward}
  prometheus::Gauge& leased_groups;
  prometheus::Gauge& running_samples;
  prometheus::Gauge& waiting_samples;
  prometheus::Gauge& ungraded_samples;
  prometheus::Gauge& unacknowledged_tokens;
  prometheus::Gauge& kv_blocks_used_ratio;
  prometheus::Gauge& weight_memory_bytes;  // crescendo_rollout_model_memory_bytes{part=weights}
  prometheus::Gauge& cache_memory_bytes;
  prometheus::Gauge& scratch_memory_bytes;
  prometheus::Gauge& staged_memory_bytes;
  prometheus::Gauge& policy_version;
  prometheus::Gauge& draining;
  prometheus::Histogram& response_tokens;
  prometheus::Histogram& decode_step_seconds;
  prometheus::Histogram& decode_batch_samples;
  prometheus::Histogram& verdict_wait_seconds;
  prometheus::Histogram& weight_pull_seconds;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_ROLLOUT_METRICS_H_
