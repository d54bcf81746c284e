// How the tokens of a mini-batch weigh, for each aggregation, whatever the packing.
#include <vector>

#include "catch2/catch.hpp"
#include "services/learner/batch_packer.h"

namespace crescendo {
namespace {

// Two groups of two samples; `undecided` masks the last one.
struct Batch {
  std::vector<GroupExperience> groups;
  std::vector<GroupAdvantages> advantages;
};
Batch MakeBatch(const std::vector<size_t>& lengths, bool undecided) {
  Batch batch;
  for (size_t g = 0; g < 2; ++g) {
    GroupExperience group;
    group.group = GroupId(g);
    group.header.prompt_tokens = {1, 5};
    group.header.samples = 2;
    group.header.context_tokens = 50;
    GroupAdvantages advantages;
    for (size_t s = 0; s < 2; ++s) {
      SampleExperience sample;
      sample.tokens.assign(lengths[2 * g + s], 4);
      sample.log_probs.assign(lengths[2 * g + s], -1.0f);
      sample.closed = true;
      group.samples.push_back(sample);
      advantages.masked.push_back(undecided && g == 1 && s == 1);
      advantages.advantages.push_back(advantages.masked.back() ? 0 : s == 0 ? 1 : -1);
    }
    batch.groups.push_back(group);
    batch.advantages.push_back(advantages);
  }
  return batch;
}

// Token weights by (group, sample).
std::vector<double> Weights(const Batch& batch, LossAggregation aggregation, int budget) {
  PackOptions options;
  options.aggregation = aggregation;
  options.microbatch_tokens = budget;
  options.drop_zero_advantage = false;
  const auto packed = PackBatch(options, batch.groups, batch.advantages);
  REQUIRE(packed.ok());
  std::vector<double> weights(4, -1);
  for (const PackedMicroBatch& micro : (*packed)[0].micro_batches) {
    for (const PackedSample& sample : micro.samples) {
      weights[2 * sample.group.value() + sample.sample] = sample.token_weight;
    }
  }
  return weights;
}

TEST_CASE("Each aggregation weighs tokens by its formula") {
  const int budget = GENERATE(6, 1000);
  const Batch batch = MakeBatch({2, 4, 8, 16}, /*undecided=*/false);
  CHECK(Weights(batch, LossAggregation::kTokenMean, budget) == std::vector<double>(4, 1.0 / 30));
  CHECK(Weights(batch, LossAggregation::kSequenceMean, budget) ==
        std::vector<double>{1.0 / 8, 1.0 / 16, 1.0 / 32, 1.0 / 64});
  CHECK(Weights(batch, LossAggregation::kFixedLength, budget) == std::vector<double>(4, 1.0 / 200));
}

TEST_CASE("An undecided sample weighs nothing and is no divisor") {
  const Batch batch = MakeBatch({2, 4, 8, 16}, /*undecided=*/true);
  CHECK(Weights(batch, LossAggregation::kTokenMean, 1000) ==
        std::vector<double>{1.0 / 14, 1.0 / 14, 1.0 / 14, 0});
  CHECK(Weights(batch, LossAggregation::kSequenceMean, 1000) ==
        std::vector<double>{1.0 / 6, 1.0 / 12, 1.0 / 24, 0});
  CHECK(Weights(batch, LossAggregation::kFixedLength, 1000) ==
        std::vector<double>{1.0 / 150, 1.0 / 150, 1.0 / 150, 0});
}

TEST_CASE("The names of [objective] are those of the formulas, and no others") {
  CHECK(*ParseLossAggregation("token_mean") == LossAggregation::kTokenMean);
  CHECK(*ParseLossAggregation("sequence_mean") == LossAggregation::kSequenceMean);
  CHECK(*ParseLossAggregation("fixed_length") == LossAggregation::kFixedLength);
  CHECK(ParseLossAggregation("mean").status().message() ==
        "objective.aggregation: expected token_mean, sequence_mean or fixed_length, found "
        "\"mean\"");
}

TEST_CASE("Truncated samples are scored, or masked where that is asked for") {
  GroupExperience group;
  const std::vector<double> rewards = {1, 0, 0, 0};
  for (size_t s = 0; s < rewards.size(); ++s) {
    SampleExperience sample;
    sample.reward = rewards[s];
    sample.verdict = rewards[s] > 0 ? Verdict::kCorrect : Verdict::kIncorrect;
    sample.finish = s >= 2 ? FinishReason::kTruncated : FinishReason::kStop;
    group.samples.push_back(sample);
  }
  RewardOptions options;
  options.kind = AdvantageKind::kDrGrpo;
  CHECK(ComputeAdvantages(options, group).advantages ==
        std::vector<double>{0.75, -0.25, -0.25, -0.25});
  options.overlong = Overlong::kMask;
  const GroupAdvantages masked = ComputeAdvantages(options, group);
  CHECK(masked.advantages == std::vector<double>{0.5, -0.5, 0, 0});
  CHECK(masked.masked == std::vector<bool>{false, false, true, true});
}

}  // namespace
}  // namespace crescendo
