// From a whole text to a verdict.
#include "services/reward/grader.h"

#include <string>

#include "catch2/catch.hpp"

namespace crescendo {
namespace {

Grade Ask(absl::string_view gold, absl::string_view response) {
  Grader grader({});
  GradeQuery query;
  query.gold = {gold};
  query.response = response;
  return grader.Evaluate(query);
}

TEST_CASE("The demo's answers") {
  const Grade right = Ask("99", "b*9=4c-5=9d-0=9\\boxed{99}");
  CHECK(right.verdict == Verdict::kCorrect);
  CHECK(right.reward == 1);
  CHECK(right.extracted == "99");
  CHECK(Ask("99", "\\boxed{98}").verdict == Verdict::kIncorrect);
  CHECK(Ask("99", "b*9=4c-5").reason == ReasonCode::kNoAnswer);
  CHECK(Ask("9", "\\boxed{09}").verdict == Verdict::kCorrect);
}

TEST_CASE("Numbers are compared exactly, however they are written") {
  CHECK(Ask("1234", "\\boxed{1,234}").verdict == Verdict::kCorrect);
  CHECK(Ask("\\frac{1}{2}", "\\boxed{0.5}").verdict == Verdict::kCorrect);
  CHECK(Ask("-3/4", "\\boxed{-\\dfrac{3}{4}}").verdict == Verdict::kCorrect);
  CHECK(Ask("12345", "\\boxed{12346}").verdict == Verdict::kIncorrect);
  CHECK(Ask("50", "\\boxed{0.5}").verdict == Verdict::kIncorrect);
  // More digits than 64 bits hold; the last two are 2^64 / 10^17 apart.
  const std::string large = "9900000000.00000000000048700";
  CHECK(Ask(large, "\\boxed{" + large + "}").verdict == Verdict::kCorrect);
  CHECK(Ask(large, "\\boxed{9900000000.00000000000048701}").verdict == Verdict::kIncorrect);
  CHECK(Ask("1000000000.00000000000000000", "\\boxed{1000000184.46744073709551616}").verdict ==
        Verdict::kIncorrect);
}

TEST_CASE("Several gold answers: one of them suffices") {
  Grader grader({});
  GradeQuery query;
  query.gold = {"1", "2"};
  query.response = "\\boxed{2}";
  CHECK(grader.Evaluate(query).verdict == Verdict::kCorrect);
}

TEST_CASE("Text is matched as words; an empty gold is never answered correctly") {
  CHECK(Ask("Blue whale", "The answer is blue whale.").verdict == Verdict::kCorrect);
  CHECK(Ask("", "\\boxed{}").verdict != Verdict::kCorrect);
  CHECK(Ask(" ", "\\boxed{ }").verdict != Verdict::kCorrect);
}

TEST_CASE("Rewards of the verdicts are the recipe's") {
  GraderOptions options;
  options.reward_incorrect = -1;
  Grader grader(options);
  GradeQuery query;
  query.gold = {"1"};
  query.response = "\\boxed{2}";
  CHECK(grader.Evaluate(query).reward == -1);
}

}  // namespace
}  // namespace crescendo
