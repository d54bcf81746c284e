// Advantages of a group: the formulas' values, masks, exact zeros, and the control that cannot
// learn.
#include "services/learner/advantage.h"

#include <cmath>
#include <vector>

#include "catch2/catch.hpp"

namespace crescendo {
namespace {

GroupAdvantages Of(AdvantageKind kind, std::vector<double> rewards, std::vector<bool> masked = {}) {
  masked.resize(rewards.size(), false);
  return ComputeAdvantages(kind, rewards, masked);
}

TEST_CASE("GRPO: distance from the mean in unbiased deviations") {
  const GroupAdvantages out = Of(AdvantageKind::kGrpo, {1, 0, 0, 0});
  // mean 1/4, variance (9/16 + 3/16) / 3 = 1/4
  CHECK(out.advantages[0] == Approx(0.75 / (0.5 + 1e-6)).epsilon(1e-12));
  CHECK(out.advantages[1] == Approx(-0.25 / (0.5 + 1e-6)).epsilon(1e-12));
  CHECK_FALSE(out.zero_variance);
}

TEST_CASE("Dr. GRPO leaves out the deviation, RLOO compares with the others") {
  const GroupAdvantages dr = Of(AdvantageKind::kDrGrpo, {1, 0, 0, 0});
  CHECK(dr.advantages[0] == 0.75);
  CHECK(dr.advantages[3] == -0.25);
  const GroupAdvantages rloo = Of(AdvantageKind::kRloo, {1, 0, 0.5, 0});
  CHECK(rloo.advantages[0] == Approx(1 - 0.5 / 3));
  CHECK(rloo.advantages[1] == Approx(0 - 1.5 / 3));
  CHECK(rloo.advantages[2] == Approx(0.5 - 1.0 / 3));
}

TEST_CASE("An undecided sample changes nothing for the others") {
  const GroupAdvantages with = Of(AdvantageKind::kGrpo, {1, 1, 0, 0}, {false, true, false, false});
  const GroupAdvantages without = Of(AdvantageKind::kGrpo, {1, 0, 0});
  CHECK(with.advantages[0] == without.advantages[0]);
  CHECK(with.advantages[1] == 0);
  CHECK(with.advantages[2] == without.advantages[1]);
}

TEST_CASE("Equal rewards have advantages of exactly zero, whatever their rounding") {
  for (AdvantageKind kind : {AdvantageKind::kGrpo, AdvantageKind::kDrGrpo, AdvantageKind::kRloo}) {
    const GroupAdvantages out = Of(kind, {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1});
    CHECK(out.zero_variance);
    for (double advantage : out.advantages) CHECK(advantage == 0);
  }
  CHECK(Of(AdvantageKind::kGrpo, {1, 0}, {false, true}).zero_variance);
  CHECK(Of(AdvantageKind::kGrpo, {1, 0}, {true, true}).zero_variance);
}

TEST_CASE("Random rewards are coins of seed, group and sample that ignore the verdict") {
  GroupExperience group;
  group.samples.resize(8);
  RewardOptions options;
  options.random_reward = true;
  options.seed = 7;
  int heads = 0;
  for (uint64_t id = 0; id < 500; ++id) {
    group.group = GroupId(id);
    for (SampleExperience& sample : group.samples) {
      sample.verdict = Verdict::kIncorrect;
      sample.reward = 0;
    }
    const GroupAdvantages wrong = ComputeAdvantages(options, group);
    for (SampleExperience& sample : group.samples) {
      sample.verdict = Verdict::kCorrect;
      sample.reward = 1;
    }
    const GroupAdvantages right = ComputeAdvantages(options, group);
    CHECK(wrong.advantages == right.advantages);
    for (double advantage : right.advantages) heads += advantage > 0;
  }
  CHECK(heads > 1800);
  CHECK(heads < 2200);
}

TEST_CASE("Names of advantage kinds") {
  CHECK(ParseAdvantageKind("rloo").value() == AdvantageKind::kRloo);
  CHECK(ParseAdvantageKind("gae").status().code() == absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace crescendo
