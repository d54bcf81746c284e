// Packing: what is trained is exactly the groups' tokens, and the weights do not depend on how they
// are packed.
#include "services/learner/batch_packer.h"

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "tests/unit/learner/experience_builder.h"

namespace crescendo {
namespace {

std::vector<GroupAdvantages> AdvantagesOf(const std::vector<GroupExperience>& groups) {
  std::vector<GroupAdvantages> out;
  for (const GroupExperience& group : groups)
    out.push_back(ComputeAdvantages(RewardOptions{}, group));
  return out;
}

std::vector<MiniBatch> Pack(const std::vector<GroupExperience>& groups, PackOptions options) {
  absl::StatusOr<std::vector<MiniBatch>> batches = PackBatch(options, groups, AdvantagesOf(groups));
  REQUIRE(batches.ok());
  return *std::move(batches);
}

std::vector<GroupExperience> RandomGroups(uint64_t seed, int groups, int samples) {
  CounterRng rng(seed);
  std::vector<GroupExperience> out;
  for (int g = 0; g < groups; ++g) {
    std::vector<uint32_t> lengths;
    for (int s = 0; s < samples; ++s) lengths.push_back(1 + static_cast<uint32_t>(rng.Below(60)));
    out.push_back(TestGroup(static_cast<uint64_t>(g), lengths));
  }
  return out;
}

TEST_CASE("One sample, by hand: inputs, targets and the rows between them") {
  GroupExperience group = TestGroup(4, {3, 1});
  PackOptions options;
  options.drop_zero_advantage = false;
  const std::vector<MiniBatch> batches = Pack({group}, options);
  REQUIRE(batches.size() == 1);
  REQUIRE(batches[0].micro_batches.size() == 1);
  CHECK(batches[0].loss_tokens == 4);
  const PackedMicroBatch& micro = batches[0].micro_batches[0];
  const std::vector<int32_t>& a = group.samples[0].tokens;
  CHECK(micro.tokens == std::vector<int32_t>{1, 2, 3, a[0], a[1], 1, 2, 3});
  CHECK(micro.positions == std::vector<int32_t>{0, 1, 2, 3, 4, 0, 1, 2});
  CHECK(micro.cu_seqlens == std::vector<int32_t>{0, 5, 8});
  CHECK(micro.longest == 5);
  CHECK(micro.loss_rows == std::vector<int32_t>{2, 3, 4, 7});
  CHECK(micro.targets == std::vector<int32_t>{a[0], a[1], a[2], group.samples[1].tokens[0]});
  CHECK(micro.old_log_probs == std::vector<float>{-0.25f, -0.5f, -0.75f, -0.25f});
  REQUIRE(micro.samples.size() == 2);
  CHECK(micro.samples[0].sample == 0);
  CHECK(micro.samples[0].loss_begin == 0);
  CHECK(micro.samples[0].loss_end == 3);
  CHECK(micro.samples[1].sequence_begin == 5);
  CHECK(micro.samples[1].sequence_end == 8);
  CHECK(micro.samples[0].token_weight == 0.25);
  CHECK(micro.samples[0].advantage > 0);
  CHECK(micro.samples[1].advantage < 0);
}

TEST_CASE("Every token of every sample is trained once, with the same weight for any budget") {
  const uint64_t seed = GENERATE(1, 2, 3, 4);
  INFO("seed " << seed);
  const std::vector<GroupExperience> groups = RandomGroups(seed, 13, 6);
  std::map<std::pair<uint64_t, uint32_t>, double> expected_weight;
  for (const int budget : {1, 64, 100, 1000, 1 << 20}) {
    PackOptions options;
    options.microbatch_tokens = budget;
    options.minibatches = 4;
    const std::vector<MiniBatch> batches = Pack(groups, options);
    REQUIRE(batches.size() == 4);
    std::set<std::pair<uint64_t, uint32_t>> seen;
    size_t group_begin = 0;
    for (size_t b = 0; b < batches.size(); ++b) {
      const size_t group_end = groups.size() * (b + 1) / 4;
      int64_t tokens = 0;
      for (const PackedMicroBatch& micro : batches[b].micro_batches) {
        CHECK((static_cast<int>(micro.tokens.size()) <= budget || micro.samples.size() == 1));
        REQUIRE(micro.cu_seqlens.size() == micro.samples.size() + 1);
        int32_t loss_end = 0;
        for (const PackedSample& sample : micro.samples) {
          CHECK(sample.group.value() >= group_begin);
          CHECK(sample.group.value() < group_end);
          CHECK(seen.emplace(sample.group.value(), sample.sample).second);
          CHECK(sample.loss_begin == loss_end);
          loss_end = sample.loss_end;
          const SampleExperience& original = groups[sample.group.value()].samples[sample.sample];
          REQUIRE(sample.loss_end - sample.loss_begin ==
                  static_cast<int32_t>(original.tokens.size()));
          for (int32_t i = sample.loss_begin; i < sample.loss_end; ++i) {
            CHECK(micro.targets[i] == original.tokens[i - sample.loss_begin]);
            const int32_t row = micro.loss_rows[i];
            // What the row's input is must be the token before the target.
            CHECK(micro.tokens[row] ==
                  (i == sample.loss_begin ? 3 : original.tokens[i - sample.loss_begin - 1]));
            CHECK(micro.positions[row] == 2 + i - sample.loss_begin);
          }
          tokens += sample.loss_end - sample.loss_begin;
          const auto key = std::make_pair(sample.group.value(), sample.sample);
          const auto known = expected_weight.emplace(key, sample.token_weight).first;
          CHECK(known->second == sample.token_weight);
          CHECK(sample.token_weight == 1.0 / static_cast<double>(batches[b].loss_tokens));
        }
        CHECK(loss_end == static_cast<int32_t>(micro.targets.size()));
      }
      CHECK(tokens == batches[b].loss_tokens);
      group_begin = group_end;
    }
    CHECK(seen.size() == 13 * 6);
  }
}

TEST_CASE("Samples without an advantage are left out but count in the normaliser") {
  GroupExperience learns = TestGroup(0, {5, 7});
  GroupExperience equal = TestGroup(1, {4, 4});
  equal.samples[1].reward = 1;
  PackOptions options;
  const std::vector<MiniBatch> dropped = Pack({learns, equal}, options);
  REQUIRE(dropped[0].micro_batches.size() == 1);
  CHECK(dropped[0].micro_batches[0].samples.size() == 2);
  CHECK(dropped[0].loss_tokens == 20);
  CHECK(dropped[0].micro_batches[0].samples[0].token_weight == 1.0 / 20);
  options.drop_zero_advantage = false;
  CHECK(Pack({learns, equal}, options)[0].micro_batches[0].samples.size() == 4);
  // A mini-batch in which nothing learns has no micro-batches.
  options.drop_zero_advantage = true;
  CHECK(Pack({equal}, options)[0].micro_batches.empty());
}

TEST_CASE("An undecided sample has no weight and counts nowhere") {
  GroupExperience group = TestGroup(0, {5, 7, 9});
  group.samples[2].verdict = Verdict::kUndecided;
  PackOptions options;
  options.drop_zero_advantage = false;
  const std::vector<MiniBatch> batches = Pack({group}, options);
  CHECK(batches[0].loss_tokens == 12);
  for (const PackedSample& sample : batches[0].micro_batches[0].samples) {
    CHECK(sample.token_weight == (sample.sample == 2 ? 0 : 1.0 / 12));
  }
}

TEST_CASE("Tokens that the trained version drew itself are told from older ones") {
  GroupExperience group = TestGroup(0, {6, 5}, 2);
  group.samples[0].versions = {{PolicyVersion(1), 4}, {PolicyVersion(2), 2}};
  PackOptions options;
  options.version = 2;
  const PackedMicroBatch micro = Pack({group}, options)[0].micro_batches[0];
  CHECK(micro.samples[0].fresh_begin == 4);
  CHECK(micro.samples[1].fresh_begin == micro.samples[1].loss_begin);
  options.version = 3;
  const PackedMicroBatch stale = Pack({group}, options)[0].micro_batches[0];
  CHECK(stale.samples[1].fresh_begin == stale.samples[1].loss_end);
  options.version = -1;
  CHECK(Pack({group}, options)[0].micro_batches[0].samples[0].fresh_begin == 0);
}

TEST_CASE("First-fit decreasing fills micro-batches well") {
  const std::vector<GroupExperience> groups = RandomGroups(9, 32, 8);
  PackOptions options;
  options.microbatch_tokens = 256;
  options.drop_zero_advantage = false;
  const std::vector<MiniBatch> batches = Pack(groups, options);
  size_t tokens = 0;
  for (const PackedMicroBatch& micro : batches[0].micro_batches) tokens += micro.tokens.size();
  const double bound = static_cast<double>(tokens) / 256;
  CHECK(static_cast<double>(batches[0].micro_batches.size()) <= bound * 11 / 9 + 1);
}

TEST_CASE("Two temperatures in one step are refused, naming the group") {
  GroupExperience a = TestGroup(0, {3, 3});
  GroupExperience b = TestGroup(1, {3, 3});
  b.header.temperature = 0.5f;
  const std::vector<GroupExperience> groups = {a, b};
  const absl::Status status = PackBatch(PackOptions{}, groups, AdvantagesOf(groups)).status();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(status.message()).find("group 1") != std::string::npos);
}

TEST_CASE("What a step reports of its batch") {
  GroupExperience a = TestGroup(0, {4, 6}, 3);
  GroupExperience b = TestGroup(1, {10, 20}, 5);
  b.samples[1].finish = FinishReason::kTruncated;
  b.samples[0].verdict = Verdict::kUndecided;
  b.samples[0].reward = 0;
  const std::vector<GroupExperience> groups = {a, b};
  const BatchSummary summary = SummarizeBatch(StepId(5), groups, AdvantagesOf(groups));
  const StepMetrics& m = summary.metrics;
  CHECK(m.reward_mean == 0.25);
  CHECK(m.pass_rate == Approx(1.0 / 3));
  CHECK(m.truncation_ratio == 0.25);
  CHECK(m.response_tokens_mean == 10);
  CHECK(m.generated_tokens == 40);
  CHECK(m.trained_tokens == 10);
  CHECK(m.zero_variance_groups == 1);
  CHECK(m.staleness_max == 2);
  CHECK(m.staleness_mean == Approx(2.0 * 10 / 40));
  CHECK(summary.tokens_by_staleness == std::map<int64_t, uint64_t>{{0, 30}, {2, 10}});
  CHECK(summary.stopped_lengths == std::vector<uint32_t>{4, 6, 10});
  CHECK(summary.truncated_lengths == std::vector<uint32_t>{20});
  REQUIRE(summary.outcomes.size() == 2);
  CHECK(summary.outcomes[1].group == GroupId(1));
  CHECK(summary.outcomes[1].undecided == 1);
  CHECK(summary.outcomes[1].incorrect == 1);
  CHECK(summary.outcomes[1].truncated == 1);
  CHECK(summary.outcomes[1].tokens == 30);
}

}  // namespace
}  // namespace crescendo
