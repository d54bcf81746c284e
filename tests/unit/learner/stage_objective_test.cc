// [objective], [optimizer] and the stages' own keys become the learner's options; what does not fit
// together is refused by its key.
#include "services/learner/stage_objective.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "tests/unit/config/temp_recipe.h"

namespace crescendo {
namespace {

constexpr char kRecipe[] = R"([policy]
path = "base"
[data]
train = "train.jsonl"
[reward]
incorrect_reward = -0.5
[objective]
off_policy = "decoupled"
importance_cap = 5.0
entropy_coefficient = 0.001
kl_coefficient = 0.02
kl_in = "reward"
kl_target = 0.1
overlong = "zero"
zero_variance = "drop"
[[stage]]
context_tokens = 48
[[stage]]
context_tokens = 96
overlong = "soft"
overlong_buffer = 16
kl_coefficient = 0
kl_target = 0
entropy_coefficient = 0
)";

TEST_CASE("Each stage's objective reaches rewards, packing and loss") {
  TempRecipe recipe(kRecipe);
  const auto config = recipe.Load({});
  INFO(std::string(config.status().message()));
  REQUIRE(config.ok());
  const auto first = MakeStageObjective(*config, config->stages[0].objective);
  REQUIRE(first.ok());
  CHECK(first->loss.off_policy == OffPolicy::kDecoupled);
  CHECK(first->loss.importance_cap == 5);
  CHECK(first->loss.entropy_coefficient == 0.001);
  CHECK(first->loss.kl_coefficient == 0.02);
  CHECK(first->loss.kl_in_reward);
  CHECK(first->loss.kl_target == 0.1);
  CHECK(first->reward.overlong == Overlong::kZero);
  CHECK(first->reward.incorrect_reward == -0.5);
  CHECK(first->pack.drop_zero_variance);
  CHECK_FALSE(first->pack.drop_zero_advantage);  // their entropy counts
  const auto second = MakeStageObjective(*config, config->stages[1].objective);
  REQUIRE(second.ok());
  CHECK(second->reward.overlong == Overlong::kSoft);
  CHECK(second->reward.overlong_buffer == 16);
  CHECK(second->loss.kl_coefficient == 0);
  CHECK(second->pack.drop_zero_advantage);
}

TEST_CASE("Keys of the objective that do not fit together are refused by name") {
  const auto error = [](const std::vector<std::string>& overrides) {
    TempRecipe recipe(kRecipe);
    return std::string(recipe.Load(overrides).status().message());
  };
  CHECK(absl::StrContains(error({"objective.off_policy=none"}), "importance_cap"));
  CHECK(absl::StrContains(error({"objective.off_policy=truncated", "objective.importance_cap=0"}),
                          "importance_cap"));
  CHECK(absl::StrContains(error({"objective.kl_coefficient=0"}), "kl_target"));
  CHECK(absl::StrContains(error({"objective.overlong_buffer=3"}), "overlong_buffer"));
  CHECK(absl::StrContains(error({"stage.1.overlong_buffer=97"}), "stage.1.overlong_buffer"));
  CHECK(absl::StrContains(error({"objective.off_policy=both"}), "off_policy"));
  CHECK(absl::StrContains(error({"objective.dual_clip=0.5"}), "dual_clip"));
}

TEST_CASE("The schedule of [optimizer] decays to the end of the run, or where it is told") {
  TempRecipe recipe(kRecipe);
  const auto with = [&](std::vector<std::string> overrides) {
    overrides.push_back("run.steps=100");
    overrides.push_back("optimizer.warmup_steps=10");
    const auto config = recipe.Load(overrides);
    REQUIRE(config.ok());
    LrSchedule schedule = *MakeSchedule(*config);
    schedule.peak = 1;
    return schedule;
  };
  CHECK(LearningRateAt(with({}), 99) == 1);
  CHECK(LearningRateAt(with({}), 4) == 0.5);
  const LrSchedule cosine = with({"optimizer.schedule=cosine", "optimizer.final_fraction=0.1"});
  CHECK(LearningRateAt(cosine, 10) == 1);
  CHECK(LearningRateAt(cosine, 55) == Approx(0.55));
  CHECK(LearningRateAt(cosine, 100) == Approx(0.1));
  const LrSchedule linear = with({"optimizer.schedule=linear", "optimizer.decay_steps=50"});
  CHECK(LearningRateAt(linear, 30) == Approx(0.5));
  CHECK(LearningRateAt(linear, 70) == 0);
}

}  // namespace
}  // namespace crescendo
