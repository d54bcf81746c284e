// The metrics of the reward service, made in one place so that a name, its unit and its help stand
// together.
//
// Each member is a metric of the registry, which must outlive the struct. Thread-safe: increment,
// set and observe from anywhere.
#ifndef CRESCENDO_COMMON_METRICS_REWARD_METRICS_H_
#define CRESCENDO_COMMON_METRICS_REWARD_METRICS_H_

#include "common/metrics/metric_makers.h"

namespace crescendo {

struct RewardMetrics {
  explicit RewardMetrics(prometheus::Registry& registry);

  prometheus::Counter& correct_total;    // crescendo_reward_verdicts_total{verdict=correct}
  prometheus::Counter& incorrect_total;  // crescendo_reward_verdicts_total{verdict=incorrect}
  prometheus::Counter& undecided_total;  // crescendo_reward_verdicts_total{verdict=undecided}
  prometheus::Counter& refused_total;    // crescendo_reward_refused_requests_total
  prometheus::Counter& response_bytes_total;
  prometheus::Gauge& streams;
  prometheus::Gauge& queued_answers;
  prometheus::Histogram& grading_seconds;
  prometheus::Histogram& queue_seconds;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_REWARD_METRICS_H_
