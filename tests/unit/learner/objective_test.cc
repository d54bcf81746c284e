// What makes a reward and a loss beside the surrogate: overlong answers, KL in the reward and its
// adaptive coefficient, entropy, groups without variance, the mismatch of a step without any.
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "services/learner/kl_control.h"
#include "services/learner/mismatch.h"
#include "services/learner/train_step.h"

namespace crescendo {
namespace {

SampleExperience MakeSample(size_t tokens, double reward,
                            FinishReason finish = FinishReason::kStop) {
  SampleExperience sample;
  sample.tokens.assign(tokens, 4);
  sample.log_probs.assign(tokens, -1.0f);
  sample.versions = {{PolicyVersion(3), static_cast<uint32_t>(tokens)}};
  sample.closed = true;
  sample.finish = finish;
  sample.reward = reward;
  sample.verdict = reward > 0 ? Verdict::kCorrect : Verdict::kIncorrect;
  return sample;
}

GroupExperience MakeGroup(uint64_t id, std::vector<SampleExperience> samples, int limit = 20) {
  GroupExperience group;
  group.group = GroupId(id);
  group.header.prompt_tokens = {1, 5};
  group.header.samples = static_cast<int>(samples.size());
  group.header.context_tokens = limit;
  group.samples = std::move(samples);
  return group;
}

TEST_CASE("A truncated answer scores as graded, as an incorrect one, or not at all") {
  GroupExperience group =
      MakeGroup(0, {MakeSample(3, 1), MakeSample(3, 0), MakeSample(20, 1, FinishReason::kTruncated),
                    MakeSample(20, 0, FinishReason::kTruncated)});
  group.samples[3].verdict = Verdict::kUndecided;
  RewardOptions options;
  options.kind = AdvantageKind::kDrGrpo;
  options.incorrect_reward = -1;
  CHECK(ComputeAdvantages(options, group).advantages[2] == Approx(1.0 / 3));
  CHECK(ComputeAdvantages(options, group).masked == std::vector<bool>{false, false, false, true});
  options.overlong = Overlong::kZero;
  const GroupAdvantages zero = ComputeAdvantages(options, group);
  CHECK(zero.masked == std::vector<bool>(4, false));
  CHECK(zero.advantages == std::vector<double>{1.25, 0.25, -0.75, -0.75});
  options.overlong = Overlong::kMask;
  CHECK(ComputeAdvantages(options, group).advantages == std::vector<double>{0.5, -0.5, 0, 0});
  CHECK_FALSE(ParseOverlong("drop").ok());
}

TEST_CASE("The soft punishment falls from 0 to -1 over the buffer (DAPO, eq. 13)") {
  const GroupExperience group =
      MakeGroup(0, {MakeSample(10, 1), MakeSample(12, 1), MakeSample(16, 1),
                    MakeSample(20, 1, FinishReason::kTruncated)});
  RewardOptions options;
  options.kind = AdvantageKind::kDrGrpo;
  options.overlong = Overlong::kSoft;
  options.overlong_buffer = 8;  // of 20: from 12 tokens on
  const std::vector<double> found = ComputeAdvantages(options, group).advantages;
  const std::vector<double> rewards = {1, 1, 0.5, 0};
  for (size_t i = 0; i < 4; ++i) CHECK(found[i] == Approx(rewards[i] - 0.625));
}

TEST_CASE("The KL coefficient follows its target by at most a fifth of 1 / horizon a step") {
  CHECK(NextKlScale(2, 0.5, 0, 10) == 2);
  CHECK(NextKlScale(2, 0.05, 0.05, 10) == 2);
  CHECK(NextKlScale(2, 0.055, 0.05, 10) == Approx(2 * (1 + 0.1 / 10)));
  CHECK(NextKlScale(2, 5, 0.05, 10) == Approx(2 * 1.02));
  CHECK(NextKlScale(2, 0, 0.05, 10) == Approx(2 * 0.98));
  CHECK(NextKlScale(2, std::numeric_limits<double>::quiet_NaN(), 0.05, 10) == 2);
  double scale = 1;
  for (int i = 0; i < 10'000; ++i) scale = NextKlScale(scale, 1, 0.1, 1);
  CHECK(scale == kKlScaleMax);
}

TEST_CASE("Mismatch: mean, largest, KL and the 99th percentile; nothing measured is no number") {
  MismatchStats none;
  CHECK(std::isnan(none.mean()));
  CHECK(std::isnan(none.largest()));
  CHECK(std::isnan(none.p99()));
  MismatchStats zero;
  for (int i = 0; i < 5; ++i) zero.AddToken(-1.5f, -1.5f);
  CHECK(zero.mean() == 0);
  CHECK(zero.largest() == 0);
  CHECK(zero.p99() == 0);
  MismatchStats first, second;
  for (int i = 1; i <= 1000; ++i) {
    (i % 3 == 0 ? first : second)
        .AddToken(-1.0f, static_cast<float>(-1.0 + (i % 2 ? 1 : -1) * 1e-3 * i));
  }
  first.Add(second);
  CHECK(first.tokens == 1000);
  CHECK(first.mean() == Approx(0.5005).epsilon(1e-5));
  CHECK(first.largest() == Approx(1).epsilon(1e-6));
  CHECK(first.p99() >= 0.989);
  CHECK(first.p99() <= 0.99 * 1.04);
  MismatchStats one;
  one.AddToken(-1.0f, -1.5f);
  CHECK(one.kl() == Approx(std::exp(0.5) - 1.5));
}

// Keeps what it is asked to train; the KL of a sample is 0.1 a token of its length.
class RecordingTrainer : public Trainer {
 public:
  absl::StatusOr<StepResult> Train(const TrainRequest& request,
                                   const std::function<bool()>&) override {
    requests.push_back(request);
    return StepResult{};
  }
  absl::StatusOr<std::vector<double>> SampleKl(const PackedMicroBatch& micro,
                                               KlEstimator) override {
    std::vector<double> out;
    for (const PackedSample& s : micro.samples) out.push_back(0.1 * (s.loss_end - s.loss_begin));
    return out;
  }
  double kl_scale() const override { return 2; }
  absl::StatusOr<std::vector<TensorData>> ExportWeights() override {
    return std::vector<TensorData>{};
  }
  absl::StatusOr<TrainerState> ExportState() override { return TrainerState{}; }
  absl::Status ImportState(const TrainerState&) override { return absl::OkStatus(); }
  absl::Status SavePolicy(const std::string&) override { return absl::OkStatus(); }
  int vocabulary_size() const override { return 100; }

  std::vector<TrainRequest> requests;
};

std::vector<double> AdvantagesOf(const TrainRequest& request, uint64_t group) {
  std::vector<double> out;
  for (const MiniBatch& mini : request.mini_batches) {
    for (const PackedMicroBatch& micro : mini.micro_batches) {
      for (const PackedSample& s : micro.samples) {
        if (s.group.value() != group) continue;
        out.resize(std::max<size_t>(out.size(), s.sample + 1));
        out[s.sample] = s.advantage;
      }
    }
  }
  return out;
}

TEST_CASE("KL in the reward: the sum over a sample's tokens, times the scaled coefficient") {
  RecordingTrainer trainer;
  TrainStepOptions options;
  StageObjective& objective = options.stages.emplace_back();
  objective.reward.kind = AdvantageKind::kDrGrpo;
  objective.pack.microbatch_tokens = 12;
  objective.loss.kl_in_reward = true;
  objective.loss.kl_coefficient = 0.25;
  StepPlan plan;
  plan.step = StepId(3);
  const std::vector<GroupExperience> groups = {MakeGroup(7, {MakeSample(4, 1), MakeSample(6, 1)}),
                                               MakeGroup(8, {MakeSample(2, 1), MakeSample(8, 0)})};
  const auto summary = TrainStep(options, plan, groups, trainer, nullptr);
  REQUIRE(summary.ok());
  // r - 0.25 x 2 x 0.1 x tokens, less the mean.
  const std::vector<double> first = AdvantagesOf(trainer.requests[0], 7);
  const std::vector<double> second = AdvantagesOf(trainer.requests[0], 8);
  CHECK(first[0] == Approx(0.05));
  CHECK(first[1] == Approx(-0.05));
  CHECK(second[0] == Approx((0.9 - -0.4) / 2));
  CHECK(trainer.requests[0].reward_kl == Approx(0.1));
  // Group 7 has equal rewards; that a KL tells its samples apart is not what is counted.
  CHECK(summary->metrics.zero_variance_groups == 1);
}

TEST_CASE("Each stage trains with its own objective") {
  RecordingTrainer trainer;
  TrainStepOptions options;
  options.stages.resize(2);
  options.stages[1].loss.clip_high = 0.28;
  for (const int stage : {0, 1, 5}) {
    StepPlan plan;
    plan.stage = stage;
    REQUIRE(TrainStep(options, plan, {MakeGroup(0, {MakeSample(2, 1), MakeSample(2, 0)})}, trainer,
                      nullptr)
                .ok());
    CHECK(trainer.requests.back().loss->clip_high == (stage == 0 ? 0.2 : 0.28));
  }
}

TEST_CASE("Groups of equal rewards stay in the normaliser, or are dropped from it") {
  const std::vector<GroupExperience> groups = {MakeGroup(0, {MakeSample(4, 1), MakeSample(6, 1)}),
                                               MakeGroup(1, {MakeSample(2, 1), MakeSample(8, 0)})};
  std::vector<GroupAdvantages> advantages;
  for (const GroupExperience& group : groups) {
    advantages.push_back(ComputeAdvantages(RewardOptions{}, group));
  }
  CHECK(SummarizeBatch(StepId(0), groups, advantages).metrics.zero_variance_groups == 1);
  PackOptions options;
  options.drop_zero_advantage = false;
  CHECK((*PackBatch(options, groups, advantages))[0].loss_tokens == 20);
  options.drop_zero_variance = true;
  const MiniBatch dropped = (*PackBatch(options, groups, advantages))[0];
  CHECK(dropped.loss_tokens == 10);
  REQUIRE(dropped.micro_batches.size() == 1);
  for (const PackedSample& sample : dropped.micro_batches[0].samples) {
    CHECK(sample.group == GroupId(1));
    CHECK(sample.token_weight == 0.1);
  }
}

TEST_CASE("A step with nothing to train carries a probe of at most a micro-batch, without weight") {
  std::vector<GroupExperience> groups;
  std::vector<GroupAdvantages> advantages;
  for (uint64_t g = 0; g < 4; ++g) {
    groups.push_back(MakeGroup(g, {MakeSample(4, 1), MakeSample(6, 1)}));
    advantages.push_back(ComputeAdvantages(RewardOptions{}, groups.back()));
  }
  PackOptions options;
  options.version = 3;
  options.microbatch_tokens = 28;
  options.minibatches = 2;
  const std::vector<MiniBatch> packed = *PackBatch(options, groups, advantages);
  CHECK(packed[0].micro_batches.empty());
  REQUIRE(packed[0].probe.size() == 1);
  CHECK(packed[1].probe.empty());
  const PackedMicroBatch& probe = packed[0].probe[0];
  CHECK(probe.tokens.size() == 5 * 4 + 7);  // the first sample of each group, then one second
  CHECK(probe.samples.size() == 5);
  for (const PackedSample& sample : probe.samples) {
    CHECK(sample.token_weight == 0);
    CHECK(sample.fresh_begin == sample.loss_begin);
  }
  advantages[0].advantages[0] = 1;
  CHECK((*PackBatch(options, groups, advantages))[0].probe.empty());
}

TEST_CASE("The entropy bonus lowers the loss by its share of the weighted mean, and only that") {
  const std::vector<float> log_probs = {-1, -2, -3, -4};
  const std::vector<float> entropies = {0.5f, 1.5f, 2.5f, 3.5f};
  const std::vector<LossSample> samples = {{0, 2, 1.0, 0.25}, {2, 4, -1.0, 0}};
  PolicyLossInput input;
  input.log_probs = log_probs;
  input.old_log_probs = log_probs;
  input.samples = samples;
  input.entropies = entropies;
  PolicyLossOptions options;
  const PolicyLossResult plain = PolicyLoss(input, options);
  CHECK(plain.entropy_gradient.empty());
  options.entropy_coefficient = 0.1;
  const PolicyLossResult bonus = PolicyLoss(input, options);
  CHECK(bonus.stats.loss == Approx(plain.stats.loss - 0.1 * 0.25 * 2.0));
  CHECK(bonus.gradient == plain.gradient);
  CHECK(bonus.entropy_gradient == std::vector<float>{-0.025f, -0.025f, 0, 0});
}

}  // namespace
}  // namespace crescendo
