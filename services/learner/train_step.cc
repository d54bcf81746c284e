#include "services/learner/train_step.h"

#include <algorithm>
#include <cstddef>
#include <unordered_map>
#include <utility>

#include "common/base/status_macros.h"

namespace crescendo {
namespace {

std::vector<GroupAdvantages> Advantages(const RewardOptions& options,
                                        const std::vector<GroupExperience>& groups,
                                        const std::vector<std::vector<double>>& penalties) {
  std::vector<GroupAdvantages> advantages;
  advantages.reserve(groups.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    advantages.push_back(ComputeAdvantages(
        options, groups[g],
        penalties.empty() ? absl::Span<const double>() : absl::MakeConstSpan(penalties[g])));
  }
  return advantages;
}

struct RewardKl {
  std::vector<std::vector<double>> of_samples;  // by group and sample, summed over its tokens
  double mean = 0;                              // a token, over decided samples
};

// KL(policy that sampled || reference) of every sample of the step.
absl::StatusOr<RewardKl> MeasureKl(const StageObjective& objective, PackOptions pack,
                                   const std::vector<GroupExperience>& groups,
                                   const std::vector<GroupAdvantages>& advantages,
                                   Trainer& trainer) {
  pack.minibatches = 1;
  pack.drop_zero_advantage = false;
  pack.drop_zero_variance = false;
  ASSIGN_OR_RETURN(const std::vector<MiniBatch> all, PackBatch(pack, groups, advantages));
  RewardKl out;
  std::unordered_map<uint64_t, size_t> index;
  for (size_t g = 0; g < groups.size(); ++g) {
    index.emplace(groups[g].group.value(), g);
    out.of_samples.emplace_back(groups[g].samples.size(), 0.0);
  }
  double sum = 0;
  double tokens = 0;
  for (const MiniBatch& mini : all) {
    for (const PackedMicroBatch& micro : mini.micro_batches) {
      ASSIGN_OR_RETURN(const std::vector<double> kl,
                       trainer.SampleKl(micro, objective.loss.kl_estimator));
      CRESCENDO_CHECK(kl.size() == micro.samples.size());
      for (size_t i = 0; i < kl.size(); ++i) {
        const PackedSample& sample = micro.samples[i];
        out.of_samples[index.at(sample.group.value())][sample.sample] = kl[i];
        if (sample.token_weight == 0) continue;
        sum += kl[i];
        tokens += sample.loss_end - sample.loss_begin;
      }
    }
  }
  out.mean = sum / std::max(tokens, 1.0);
  return out;
}

}  // namespace

absl::StatusOr<BatchSummary> TrainStep(const TrainStepOptions& options, const StepPlan& plan,
                                       const std::vector<GroupExperience>& groups, Trainer& trainer,
                                       const std::function<bool()>& stop) {
  StageObjective objective;
  if (!options.stages.empty()) {
    objective =
        options.stages[std::min<size_t>(std::max(plan.stage, 0), options.stages.size() - 1)];
  }
  PackOptions& pack = objective.pack;
  pack.version = plan.step.value();
  std::vector<GroupAdvantages> advantages = Advantages(objective.reward, groups, {});
  TrainRequest request;
  request.step = plan.step;
  request.learning_rate = plan.learning_rate > 0 ? plan.learning_rate : options.learning_rate;
  request.loss = objective.loss;
  if (objective.loss.kl_in_reward && objective.loss.kl_coefficient > 0) {
    ASSIGN_OR_RETURN(RewardKl kl, MeasureKl(objective, pack, groups, advantages, trainer));
    const double coefficient = objective.loss.kl_coefficient * trainer.kl_scale();
    for (std::vector<double>& group : kl.of_samples) {
      for (double& value : group) value *= coefficient;
    }
    advantages = Advantages(objective.reward, groups, kl.of_samples);
    request.reward_kl = kl.mean;
  }
  BatchSummary summary = SummarizeBatch(plan.step, groups, advantages);
  ASSIGN_OR_RETURN(request.mini_batches, PackBatch(pack, groups, advantages));
  ASSIGN_OR_RETURN(const StepResult result, trainer.Train(request, stop));
  StepMetrics& metrics = summary.metrics;
  metrics.loss = result.loss;
  metrics.kl = result.kl;
  metrics.kl_coefficient = result.kl_coefficient;
  metrics.entropy = result.entropy;
  metrics.grad_norm = result.grad_norm;
  metrics.clip_ratio = result.clip_ratio;
  metrics.learning_rate = result.learning_rate;
  metrics.mismatch_max = result.mismatch_max;
  metrics.mismatch_mean = result.mismatch_mean;
  metrics.mismatch_p99 = result.mismatch_p99;
  metrics.mismatch_kl = result.mismatch_kl;
  metrics.skipped = result.skipped;
  summary.phases = result.phases;
  return summary;
}

}  // namespace crescendo
