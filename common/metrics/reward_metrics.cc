#include "common/metrics/reward_metrics.h"

namespace crescendo {

RewardMetrics::RewardMetrics(prometheus::Registry& registry,
                             const std::vector<std::string>& reasons)
    : correct_total(MakeCounter(registry, "crescendo_reward_verdicts_total",
                                "Answers graded, by verdict.", {{"verdict", "correct"}})),
      incorrect_total(MakeCounter(registry, "crescendo_reward_verdicts_total",
                                  "Answers graded, by verdict.", {{"verdict", "incorrect"}})),
      undecided_total(MakeCounter(registry, "crescendo_reward_verdicts_total",
                                  "Answers graded, by verdict.", {{"verdict", "undecided"}})),
      refused_total(MakeCounter(registry, "crescendo_reward_refused_requests_total",
                                "Requests that were malformed or over a bound.")),
      response_bytes_total(MakeCounter(registry, "crescendo_reward_response_bytes_total",
                                       "Bytes of answers received.")),
      streams(MakeGauge(registry, "crescendo_reward_streams", "Grading streams that are open.")),
      queued_answers(MakeGauge(registry, "crescendo_reward_queued_answers",
                               "Answers that wait for a grader thread.")),
      grading_seconds(MakeHistogram(registry, "crescendo_reward_grading_seconds",
                                    "Duration of grading one answer, queues left out.",
                                    ExponentialBuckets(0.000005, 2, 20))),
      queue_seconds(MakeHistogram(registry, "crescendo_reward_queue_seconds",
                                  "From the arrival of an answer to its grading.",
                                  ExponentialBuckets(0.00001, 2, 20))) {
  const auto add = [&](const std::string& reason) {
    reasons_[reason] = &MakeCounter(registry, "crescendo_reward_reasons_total",
                                    "Answers graded, by what decided.", {{"reason", reason}});
  };
  add("other");
  for (const std::string& reason : reasons) add(reason);
}

void RewardMetrics::CountReason(absl::string_view reason) {
  auto found = reasons_.find(std::string(reason));
  if (found == reasons_.end()) found = reasons_.find("other");
  found->second->Increment();
}

}  // namespace crescendo
