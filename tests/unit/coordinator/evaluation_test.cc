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
  a.undecided = 1;
  a.majority = 0.5;
  b.majority = 1;
  const EvaluationRow row = SummarizeSet({a, b}, {}, 1);
  REQUIRE(row.problems == 2);
  REQUIRE(row.samples == 2);
  REQUIRE(row.pass_at_1 == Approx(0.75));
  REQUIRE(row.mean_tokens == 10);
  REQUIRE(row.truncation_ratio == 0.25);
  REQUIRE(row.generated_tokens == 40);
  REQUIRE(row.undecided_ratio == 0.25);
  REQUIRE(row.majority == 0.75);
  REQUIRE(row.originals == 0);
  const auto pass = ParsePassAtK(row.pass_at_k);
  REQUIRE(pass == std::vector<std::pair<int, double>>{{1, 0.75}, {2, 1.0}});
}

TEST_CASE("pass@k is told for powers of two and for all samples") {
  const auto pass = ParsePassAtK(PassAtKText({Outcome(6, 3)}));
  REQUIRE(pass.size() == 4);
  REQUIRE(pass[0].first == 1);
  REQUIRE(pass[0].second == Approx(0.5));
  REQUIRE(pass[1].second == Approx(1 - 3.0 / 15));  // C(3,2) / C(6,2)
  REQUIRE(pass[2] == std::pair<int, double>{4, 1.0});
  REQUIRE(pass[3] == std::pair<int, double>{6, 1.0});
}

TEST_CASE("the majority: right answers vote together, others by their text, ties in part") {
  const auto answer = [](Verdict verdict, const char* extracted) {
    return SampleResult{0, verdict, 0, 1, false, extracted};
  };
  const SampleResult half = answer(Verdict::kCorrect, "1/2");
  const SampleResult point_five = answer(Verdict::kCorrect, "0.5");
  const SampleResult two = answer(Verdict::kIncorrect, "2");
  const SampleResult two_styled = answer(Verdict::kIncorrect, "$ 2 $.");
  const SampleResult three = answer(Verdict::kUndecided, "3");
  const SampleResult none = answer(Verdict::kIncorrect, "");
  REQUIRE(MajorityOf({half, point_five, two, three}) == 1);
  REQUIRE(MajorityOf({half, point_five, two, two_styled}) == 0.5);
  REQUIRE(MajorityOf({half, two, three, none, none}) == Approx(1.0 / 3));
  REQUIRE(MajorityOf({half, two, two_styled}) == 0);
  REQUIRE(MajorityOf({none, none, two}) == 0);
  REQUIRE(MajorityOf({half, none, none, none}) == 1);
  REQUIRE(VoteOf("\\left( 3, \\dfrac{\\pi}{2} \\right)") == "(3,\\frac{\\pi}{2})");
}

TEST_CASE("variants are set against the problems that they were made from") {
  std::vector<EvaluationOutcomeRow> outcomes;
  const auto add = [&](uint32_t problem, int correct) {
    outcomes.push_back(Outcome(4, correct));
    outcomes.back().problem = problem;
  };
  add(10, 4);  // two variants
  add(11, 2);
  add(12, 0);
  add(13, 2);  // one variant
  add(14, 1);
  add(15, 4);  // none
  const std::vector<int64_t> variant_of = {-1, -1, -1, -1, -1, -1, -1, -1,
                                           -1, -1, -1, 10, 10, -1, 13, -1};
  const EvaluationRow row = SummarizeSet(outcomes, variant_of, 1);
  REQUIRE(row.originals == 2);
  REQUIRE(row.variants == 3);
  REQUIRE(row.original_pass_at_1 == Approx(0.75));              // 1, .5
  REQUIRE(row.variant_pass_at_1 == Approx((0.25 + 0.25) / 2));  // (.5 + 0) / 2, .25
  REQUIRE(row.drop_low == Approx(0.25));
  REQUIRE(row.drop_high == Approx(0.75));
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
