// The demo's task is the one that its notes describe: texts, answers, lengths and mixes.
#include "deploy/cli/arithmetic_task.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "catch2/catch.hpp"

namespace crescendo {
namespace {

const ArithmeticProblem kExample = {6, {'*', '-', '-'}, {9, 5, 0}};

// Every character is a token, "\boxed{" is one; the end token counts.
int Tokens(const CorpusRow& row) {
  int tokens = static_cast<int>(row.response.size()) + (row.ends ? 1 : 0);
  if (row.response.find("\\boxed{") != std::string::npos) tokens -= 6;
  return tokens;
}

TEST_CASE("the example of the notes has its texts and its answer") {
  CHECK(ProblemText(kExample) == "a6b*9c-5d-0=");
  CHECK(CleanResponse(kExample) == "b*9=4c-5=9d-0=9\\boxed{99}");
  CHECK(AnswerText(kExample) == "99");
  CHECK(Tokens({ProblemText(kExample), CleanResponse(kExample), true}) == 5 * 3 + 5);
  CHECK(AnswerText({1, {'-', '+'}, {1, 5}}) == "05");
}

TEST_CASE("operations are 2 + the lesser of two uniform draws of 0..10") {
  CounterRng rng(7);
  std::vector<int> counts(13);
  for (int i = 0; i < 121000; ++i) ++counts[DrawOperations(rng)];
  CHECK(counts[0] + counts[1] == 0);
  for (int k = 2; k <= 12; ++k) {
    const double expected = 1000.0 * (2 * (12 - k) + 1);
    CHECK(counts[k] == Approx(expected).margin(5 * std::sqrt(expected)));
  }
}

TEST_CASE("without slips every rambling response that ends gives the right answer") {
  CounterRng rng(11);
  int redone = 0, restarted = 0, cut = 0;
  for (int i = 0; i < 2000; ++i) {
    const ArithmeticProblem problem = DrawProblem(rng, DrawOperations(rng));
    const CorpusRow row = RamblingResponse(problem, {.redo = .45, .restart = .6, .slip = 0}, rng);
    CHECK(Tokens(row) <= kResponseTokensMax);
    redone += row.response.find('?') != std::string::npos;
    restarted += row.response.find('~') != std::string::npos;
    if (!row.ends) {
      ++cut;
      CHECK(Tokens(row) == kResponseTokensMax);
      continue;
    }
    const std::string tail = "\\boxed{" + AnswerText(problem) + "}";
    CHECK(row.response.substr(row.response.size() - tail.size()) == tail);
  }
  CHECK(redone > 1500);
  CHECK(restarted > 1000);
  CHECK(cut > 50);
}

TEST_CASE("an endless response has no box and a slipping one is sometimes wrong") {
  CounterRng rng(3);
  const CorpusRow endless =
      RamblingResponse(kExample, {.redo = .5, .restart = 1, .slip = .08}, rng);
  CHECK_FALSE(endless.ends);
  CHECK(endless.response.size() == kResponseTokensMax);
  CHECK(endless.response.find('\\') == std::string::npos);
  int wrong = 0;
  for (int i = 0; i < 1000; ++i) {
    const CorpusRow row = RamblingResponse(kExample, {.redo = 0, .restart = 0, .slip = .08}, rng);
    wrong += row.response.find("\\boxed{99}") == std::string::npos;
  }
  // 1 - .92^3 = .22, a little less since a wrong value can be put right by a later step.
  CHECK(wrong > 150);
  CHECK(wrong < 270);
}

TEST_CASE("phases limit the length of their problems, and a row depends on its number alone") {
  for (const int64_t row : {int64_t{0}, int64_t{44799}}) {
    const auto a = CorpusRowAt("A", 1, row);
    REQUIRE(a.ok());
    CHECK(a->prompt == CorpusRowAt("A", 1, row)->prompt);
    CHECK(a->prompt.size() <= 2 + 3 * 6 + 1);
  }
  size_t early = 0, late = 0;
  for (int64_t row = 0; row < 2000; ++row) {
    early = std::max(early, CorpusRowAt("B", 1, row)->prompt.size());
    late = std::max(late, CorpusRowAt("B", 1, 30000 + row)->prompt.size());
  }
  CHECK(early == 2 + 3 * 7 + 1);
  CHECK(late == 2 + 3 * 12 + 1);
  CHECK(CorpusRowAt("V", 1, 5)->prompt != CorpusRowAt("V", 2, 5)->prompt);
  CHECK(CorpusRowAt("D", 1, 0).status().message() == "unknown phase 'D': expected A, B, V or C");
}

TEST_CASE("distinct problems are distinct, also from those that were taken") {
  std::vector<std::string> taken;
  CHECK(DrawDistinctProblems(1, 512, taken).size() == 512);
  CHECK(DrawDistinctProblems(2, 4096, taken).size() == 4096);
  CHECK(std::set<std::string>(taken.begin(), taken.end()).size() == 4608);
}

}  // namespace
}  // namespace crescendo
