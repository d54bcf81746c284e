// The mathematics of evaluation rounds against values worked out by hand.
#include "services/coordinator/evaluation.h"

#include <cmath>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"

namespace crescendo {
namespace {

EvaluationOutcomeRow Outcome(int samples, int correct) {
  EvaluationOutcomeRow row;
  row.samples = samples;
  row.correct = correct;
  return row;
}

TEST_CASE("pass@1 is the mean over samples, then over problems") {
  const PassAtOne pass = EvaluatePassAtOne({Outcome(4, 1), Outcome(4, 4), Outcome(4, 0)}, 1);
  REQUIRE(pass.mean == Approx((0.25 + 1 + 0) / 3));
  REQUIRE(pass.ci95_low >= 0);
  REQUIRE(pass.ci95_high <= 1);
  REQUIRE(EvaluatePassAtOne({}, 1).mean == 0);
}

TEST_CASE("the interval is that of the normal approximation, and the same for the same seed") {
  std::vector<EvaluationOutcomeRow> outcomes;
  for (int i = 0; i < 512; ++i) outcomes.push_back(Outcome(1, i % 4 == 0 ? 0 : 1));
  const PassAtOne pass = EvaluatePassAtOne(outcomes, 3);
  const double error = std::sqrt(0.75 * 0.25 / 512);
  REQUIRE(pass.ci95_low == Approx(0.75 - 1.96 * error).margin(0.004));
  REQUIRE(pass.ci95_high == Approx(0.75 + 1.96 * error).margin(0.004));
  const PassAtOne again = EvaluatePassAtOne(outcomes, 3);
  REQUIRE(again.ci95_low == pass.ci95_low);
  REQUIRE(again.ci95_high == pass.ci95_high);
}

// 400 data sets of a known rate: the interval holds it in 95% of them, within chance.
TEST_CASE("the interval covers the truth as often as it says") {
  int covered = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    CounterRng rng(seed);
    std::vector<EvaluationOutcomeRow> outcomes;
    for (int i = 0; i < 200; ++i) outcomes.push_back(Outcome(1, rng.Uniform() < 0.4 ? 1 : 0));
    const PassAtOne pass = EvaluatePassAtOne(outcomes, seed);
    covered += pass.ci95_low <= 0.4 && 0.4 <= pass.ci95_high ? 1 : 0;
  }
  REQUIRE(covered >= 366);
  REQUIRE(covered <= 394);
}

TEST_CASE("pass@k without bias") {
  REQUIRE(EvaluatePassAtK({Outcome(4, 2)}, 1) == Approx(0.5));
  REQUIRE(EvaluatePassAtK({Outcome(4, 2)}, 2) == Approx(1 - 1.0 / 6));  // C(2,2) / C(4,2)
  REQUIRE(EvaluatePassAtK({Outcome(4, 2)}, 3) == Approx(1));
  REQUIRE(EvaluatePassAtK({Outcome(4, 0), Outcome(4, 4)}, 2) == Approx(0.5));
  REQUIRE(EvaluatePassAtK({Outcome(16, 5)}, 8) == Approx(1 - 165.0 / 12870));  // C(11,8) / C(16,8)
  REQUIRE(std::isnan(EvaluatePassAtK({Outcome(4, 2)}, 5)));
}

TEST_CASE("a round adds up") {
  EvaluationOutcomeRow a = Outcome(2, 1);
  a.tokens = 30;
  a.truncated = 1;
  EvaluationOutcomeRow b = Outcome(2, 2);
  b.tokens = 10;
  const EvaluationRow row = SummarizeRound({a, b}, 1);
  REQUIRE(row.problems == 2);
  REQUIRE(row.samples == 2);
  REQUIRE(row.pass_at_1 == Approx(0.75));
  REQUIRE(row.mean_tokens == 10);
  REQUIRE(row.truncation_ratio == 0.25);
  REQUIRE(row.generated_tokens == 40);
}

TEST_CASE("results must be one for each sample; undecided is not solved") {
  const auto result = [](uint32_t sample, Verdict verdict) {
    return SampleResult{sample, verdict, 0, 7, sample == 1, ""};
  };
  const auto row = ToOutcome(GroupId(1), 9, 3,
                             {result(2, Verdict::kCorrect), result(0, Verdict::kUndecided),
                              result(1, Verdict::kIncorrect)});
  REQUIRE(row.ok());
  REQUIRE(row->correct == 1);
  REQUIRE(row->undecided == 1);
  REQUIRE(row->truncated == 1);
  REQUIRE(row->tokens == 21);
  REQUIRE_FALSE(ToOutcome(GroupId(1), 9, 2, {result(0, Verdict::kCorrect)}).ok());
  REQUIRE_FALSE(
      ToOutcome(GroupId(1), 9, 2, {result(0, Verdict::kCorrect), result(0, Verdict::kCorrect)})
          .ok());
  REQUIRE_FALSE(
      ToOutcome(GroupId(1), 9, 2, {result(0, Verdict::kCorrect), result(2, Verdict::kCorrect)})
          .ok());
  REQUIRE_FALSE(ToOutcome(GroupId(1), 9, 1, {result(0, Verdict::kUnspecified)}).ok());
}

}  // namespace
}  // namespace crescendo
