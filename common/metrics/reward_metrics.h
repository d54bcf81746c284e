// The metrics of the reward service, made in one place so that a name, its unit and its help stand
// together.
//
// Each member is a metric of the registry, which must outlive the struct. Thread-safe: increment,
// set and observe from anywhere.
#ifndef CRESCENDO_COMMON_METRICS_REWARD_METRICS_H_
#define CRESCENDO_COMMON_METRICS_REWARD_METRICS_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/metrics/metric_makers.h"

namespace crescendo {

struct RewardMetrics {
  // `reasons`: what answers are decided by (services/reward/grade.h).
  explicit RewardMetrics(prometheus::Registry& registry,
                         const std::vector<std::string>& reasons = {});

  // An answer decided for this reason; one that is none of them counts as "other".
  void CountReason(absl::string_view reason);

  prometheus::Counter& correct_total;    // crescendo_reward_verdicts_total{verdict=correct}
  prometheus::Counter& incorrect_total;  // crescendo_reward_verdicts_total{verdict=incorrect}
  prometheus::Counter& undecided_total;  // crescendo_reward_verdicts_total{verdict=undecided}
  prometheus::Counter& refused_total;    // crescendo_reward_refused_requests_total
  prometheus::Counter& response_bytes_total;
  prometheus::Gauge& streams;
  prometheus::Gauge& queued_answers;
  prometheus::Histogram& grading_seconds;
  prometheus::Histogram& queue_seconds;

 private:
  // crescendo_reward_reasons_total{reason}
  std::map<std::string, prometheus::Counter*, std::less<>> reasons_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_METRICS_REWARD_METRICS_H_
