#include "common/metrics/learner_metrics.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace crescendo {
namespace {

constexpr double kStaleness[] = {0, 1, 2, 3, 4, 6, 8, 12, 16, 32};  // versions

prometheus::Histogram& MakePhase(prometheus::Registry& registry, const std::string& phase) {
  return MakeHistogram(registry, "crescendo_learner_step_phase_seconds",
                       "Time of a step by what the learner does; it does one at a time.",
                       ExponentialBuckets(0.001, 2, 22), {{"phase", phase}});
}

prometheus::Histogram& MakeLength(prometheus::Registry& registry, const std::string& finish) {
  return MakeHistogram(registry, "crescendo_learner_response_tokens",
                       "Completion lengths of the samples of trained steps, by how they ended.",
                       ExponentialBuckets(16, 2, 13), {{"finish", finish}});
}

}  // namespace

LearnerMetrics::LearnerMetrics(prometheus::Registry& registry)
    : steps_total(MakeCounter(registry, "crescendo_learner_steps_total",
                              "Optimizer steps taken, skipped ones included.")),
      skipped_steps_total(MakeCounter(registry, "crescendo_learner_skipped_steps_total",
                                      "Steps without an update because of non-finite gradients.")),
      trained_tokens_total(MakeCounter(registry, "crescendo_learner_trained_tokens_total",
                                       "Completion tokens with a non-zero weight in the loss.")),
      accepted_tokens_total(MakeCounter(registry, "crescendo_learner_accepted_tokens_total",
                                        "Tokens accepted into the experience buffer.")),
      accepted_chunks_total(MakeCounter(registry, "crescendo_learner_chunks_total",
                                        "Sample chunks received, by outcome.",
                                        {{"outcome", "accepted"}})),
      duplicate_chunks_total(MakeCounter(registry, "crescendo_learner_chunks_total",
                                         "Sample chunks received, by outcome.",
                                         {{"outcome", "duplicate"}})),
      gap_chunks_total(MakeCounter(registry, "crescendo_learner_chunks_total",
                                   "Sample chunks received, by outcome.", {{"outcome", "gap"}})),
      refused_chunks_total(MakeCounter(registry, "crescendo_learner_chunks_total",
                                       "Sample chunks received, by outcome.",
                                       {{"outcome", "refused"}})),
      groups_total(
          MakeCounter(registry, "crescendo_learner_groups_total", "Groups that became whole.")),
      published_versions_total(MakeCounter(registry, "crescendo_learner_published_versions_total",
                                           "Policy versions published.")),
      weight_bytes_sent_total(MakeCounter(registry, "crescendo_learner_weight_bytes_sent_total",
                                          "Bytes of weights served.")),
      weight_delta_bytes_sent_total(
          MakeCounter(registry, "crescendo_learner_weight_delta_bytes_sent_total",
                      "Bytes of weights served as what changed since the version before.")),
      checkpoints_total(
          MakeCounter(registry, "crescendo_learner_checkpoints_total", "Checkpoints written.")),
      coordinator_failures_total(MakeCounter(registry, "crescendo_learner_rpc_failures_total",
                                             "Calls that failed, by whom they went to.",
                                             {{"peer", "coordinator"}})),
      policy_version(MakeGauge(registry, "crescendo_learner_policy_version",
                               "Newest published version; -1 for none.")),
      weight_delta_ratio(MakeGauge(
          registry, "crescendo_learner_weight_delta_ratio",
          "Bytes of the newest version for a worker that holds the one before, over all bytes.")),
      buffered_groups(MakeGauge(registry, "crescendo_learner_buffered_groups",
                                "Groups in the experience buffer, unfinished ones included.")),
      buffered_tokens(MakeGauge(registry, "crescendo_learner_buffered_tokens",
                                "Tokens in the experience buffer.")),
      reward_mean(
          MakeGauge(registry, "crescendo_learner_reward_mean", "Mean reward of the last step.")),
      pass_ratio(MakeGauge(registry, "crescendo_learner_pass_ratio",
                           "Share of correct among decided samples of the last step.")),
      truncation_ratio(MakeGauge(registry, "crescendo_learner_truncation_ratio",
                                 "Share of truncated samples of the last step.")),
      response_tokens_mean(MakeGauge(registry, "crescendo_learner_response_tokens_mean",
                                     "Mean completion length of the last step.")),
      loss(MakeGauge(registry, "crescendo_learner_loss", "Loss of the last step.")),
      kl_nats(MakeGauge(registry, "crescendo_learner_kl_nats",
                        "KL to the reference, k3 estimate, of the last step.")),
      entropy_nats(MakeGauge(registry, "crescendo_learner_entropy_nats",
                             "Mean entropy of the policy over the last step.")),
      grad_norm(MakeGauge(registry, "crescendo_learner_grad_norm",
                          "Global gradient norm before clipping, of the last step.")),
      clip_ratio(MakeGauge(registry, "crescendo_learner_clip_ratio",
                           "Share of tokens whose ratio was clipped in the last step.")),
      learning_rate(MakeGauge(registry, "crescendo_learner_learning_rate",
                              "Learning rate of the last step.")),
      mismatch_max_nats(MakeGauge(
          registry, "crescendo_learner_mismatch_max_nats",
          "Largest |log-prob(learner) - log-prob(rollout)| of the last step, same weights.")),
      mismatch_mean_nats(
          MakeGauge(registry, "crescendo_learner_mismatch_mean_nats", "Mean of the same.")),
      mismatch_p99_nats(MakeGauge(registry, "crescendo_learner_mismatch_p99_nats",
                                  "Its 99th percentile over tokens.")),
      mismatch_kl_nats(MakeGauge(registry, "crescendo_learner_mismatch_kl_nats",
                                 "KL(rollout || learner) of the last step, k3 estimate.")),
      kl_coefficient(MakeGauge(registry, "crescendo_learner_kl_coefficient",
                               "Coefficient of the KL to the reference, as last used.")),
      staleness_max_versions(MakeGauge(registry, "crescendo_learner_staleness_max_versions",
                                       "Largest staleness of a token of the last step.")),
      zero_variance_groups(
          MakeGauge(registry, "crescendo_learner_zero_variance_groups",
                    "Groups of the last step whose samples all had the same reward.")),
      ranks(MakeGauge(registry, "crescendo_learner_ranks", "Processes that train together.")),
      rank_imbalance_ratio(MakeGauge(registry, "crescendo_learner_rank_imbalance_ratio",
                                     "Tokens of the fullest rank over the mean, last step.")),
      checkpoint_age_seconds(MakeGauge(registry, "crescendo_learner_checkpoint_age_seconds",
                                       "Time since the last checkpoint, as of the last step.")),
      train_seconds(MakeHistogram(registry, "crescendo_learner_train_seconds",
                                  "Forward, backward and optimizer of a step.",
                                  ExponentialBuckets(0.01, 2, 18))),
      checkpoint_seconds(MakeHistogram(registry, "crescendo_learner_checkpoint_seconds",
                                       "Writing a checkpoint, beside the run.",
                                       ExponentialBuckets(0.001, 2, 18))),
      generation_wait_seconds(MakePhase(registry, "generation_wait")),
      forward_seconds(MakePhase(registry, "forward")),
      backward_seconds(MakePhase(registry, "backward")),
      optimizer_seconds(MakePhase(registry, "optimizer")),
      checkpoint_pause_seconds(MakePhase(registry, "checkpoint")),
      publish_seconds(MakePhase(registry, "publish")),
      staleness_versions(MakeHistogram(
          registry, "crescendo_learner_staleness_versions",
          "Tokens of trained steps, by how many versions older than the step's policy drew them.",
          HistogramBuckets(std::begin(kStaleness), std::end(kStaleness)))),
      stopped_response_tokens(MakeLength(registry, "stop")),
      truncated_response_tokens(MakeLength(registry, "truncated")) {}

void LearnerMetrics::ObserveStaleness(int64_t versions, uint64_t tokens) {
  std::vector<double> increments(std::size(kStaleness) + 1, 0.0);
  const auto* bucket =
      std::lower_bound(std::begin(kStaleness), std::end(kStaleness), static_cast<double>(versions));
  increments[static_cast<size_t>(bucket - std::begin(kStaleness))] = static_cast<double>(tokens);
  staleness_versions.ObserveMultiple(increments,
                                     static_cast<double>(versions) * static_cast<double>(tokens));
}

}  // namespace crescendo
