// The metrics of the learner, made in one place so that a name, its unit and its help stand
// together.
//
// Each member is a metric of the registry, which must outlive the struct. Thread-safe: increment,
// set and observe from anywhere.
#ifndef CRESCENDO_COMMON_METRICS_LEARNER_METRICS_H_
#define CRESCENDO_COMMON_METRICS_LEARNER_METRICS_H_

#include <cstdint>

#include "common/metrics/metric_makers.h"

namespace crescendo {

struct LearnerMetrics {
  explicit LearnerMetrics(prometheus::Registry& registry);

  // So many tokens of a step were drawn with a policy so many versions older than the step's.
  void ObserveStaleness(int64_t versions, uint64_t tokens);

  prometheus::Counter& steps_total;
  prometheus::Counter& skipped_steps_total;
  prometheus::Counter& trained_tokens_total;
  prometheus::Counter& accepted_tokens_total;
  prometheus::Counter& accepted_chunks_total;   // crescendo_learner_chunks_total{outcome=accepted}
  prometheus::Counter& duplicate_chunks_total;  // crescendo_learner_chunks_total{outcome=duplicate}
  prometheus::Counter& gap_chunks_total;        // crescendo_learner_chunks_total{outcome=gap}
  prometheus::Counter& refused_chunks_total;    // crescendo_learner_chunks_total{outcome=refused}
  prometheus::Counter& groups_total;
  prometheus::Counter& published_versions_total;
  prometheus::Counter& weight_bytes_sent_total;
  prometheus::Counter& weight_delta_bytes_sent_total;
  prometheus::Counter& checkpoints_total;
  prometheus::Counter&
      coordinator_failures_total;  // crescendo_learner_rpc_failures_total{peer=coordinator}
  prometheus::Gauge& policy_version;
  prometheus::Gauge& weight_delta_ratio;
  prometheus::Gauge& buffered_groups;
  prometheus::Gauge& buffered_tokens;
  prometheus::Gauge& reward_mean;
  prometheus::Gauge& pass_ratio;
  prometheus::Gauge& truncation_ratio;
  prometheus::Gauge& response_tokens_mean;
  prometheus::Gauge& loss;
  prometheus::Gauge& kl_nats;
  prometheus::Gauge& entropy_nats;
  prometheus::Gauge& grad_norm;
  prometheus::Gauge& clip_ratio;
  prometheus::Gauge& learning_rate;
  prometheus::Gauge& mismatch_max_nats;
  prometheus::Gauge& mismatch_mean_nats;
  prometheus::Gauge& mismatch_p99_nats;
  prometheus::Gauge& mismatch_kl_nats;
  prometheus::Gauge& kl_coefficient;
  prometheus::Gauge& staleness_max_versions;
  prometheus::Gauge& zero_variance_groups;
  prometheus::Gauge& ranks;
  prometheus::Gauge& rank_imbalance_ratio;
  prometheus::Gauge& checkpoint_age_seconds;
  prometheus::Histogram& train_seconds;
  prometheus::Histogram& checkpoint_seconds;
  // crescendo_learner_step_phase_seconds{phase}
  prometheus::Histogram& generation_wait_seconds;
  prometheus::Histogram& forward_seconds;
  prometheus::Histogram& backward_seconds;
  prometheus::Histogram& optimizer_seconds;
  prometheus::Histogram& checkpoint_pause_seconds;  // phase=checkpoint
  prometheus::Histogram& publish_seconds;
  prometheus::Histogram& staleness_versions;         // ObserveStaleness
  prometheus::Histogram& stopped_response_tokens;    // crescendo_learner_response_tokens{finish}
  prometheus::Histogram& truncated_response_tokens;  // the same
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_LEARNER_METRICS_H_
