// What counts as the answer of a text.
#include "services/reward/answer_extractor.h"

#include <chrono>
#include <string>
#include <vector>

#include "catch2/catch.hpp"

namespace crescendo {
namespace {

std::string Answer(absl::string_view response, const ExtractorOptions& options = {}) {
  const ExtractedAnswer answer = ExtractAnswer(response, options);
  switch (answer.source) {
    case AnswerSource::kBox:
    case AnswerSource::kPlain:
      return answer.text;
    case AnswerSource::kNone:
      return "<none>";
    case AnswerSource::kUnterminatedBox:
      return "<unterminated>";
    case AnswerSource::kTooLong:
      return "<too long>";
  }
  return "";
}

TEST_CASE("The last box counts, whatever stands before it") {
  CHECK(Answer("So \\boxed{1}. No: \\boxed{2}") == "2");
  CHECK(Answer("b*9=4c-5=9\\boxed{99}") == "99");
  CHECK(Answer("\\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}");
  CHECK(Answer("\\fbox{7} and so on") == "7");
  CHECK(Answer("\\boxed{5}, so I sell a sandbox{6}") == "5");
  CHECK(Answer("\\boxed { 5 }") == "5");
  CHECK(Answer("$\\boxed 5$") == "5");
  CHECK(Answer("\\boxed{\\boxed{3}}") == "3");
}

TEST_CASE("Escaped braces are text") {
  CHECK(Answer("\\boxed{\\{1,2\\}}") == "\\{1,2\\}");
  CHECK(Answer("\\boxed{\\left\\{1, \\frac{1}{2}\\right\\}}") ==
        "\\left\\{1, \\frac{1}{2}\\right\\}");
}

TEST_CASE("An unterminated last box is no answer, even after a right one") {
  CHECK(Answer("\\boxed{42} or rather \\boxed{4") == "<unterminated>");
  CHECK(Answer("\\boxed{42} \\boxed") == "<unterminated>");
  CHECK(Answer("\\boxed{\\frac{1}{2}") == "<unterminated>");
}

TEST_CASE("Boxes joined by a comma or a word form one list") {
  CHECK(Answer("\\boxed{1}, \\boxed{2}") == "1, 2");
  CHECK(Answer("$\\boxed{1}$, $\\boxed{2}$, and $\\boxed{3}$.") == "1, 2, 3");
  CHECK(Answer("\\boxed{-2} \\text{ and } \\boxed{2}") == "-2, 2");
  CHECK(Answer("\\boxed{1} then \\boxed{2}") == "2");
  CHECK(Answer("\\boxed{1}\\boxed{2}") == "2");
}

TEST_CASE("Only what follows the thinking part counts") {
  CHECK(Answer("<think>\\boxed{1}</think> It is \\boxed{2}") == "2");
  CHECK(Answer("\\boxed{1}</think> I do not know") == "<none>");
  CHECK(Answer("<think> perhaps \\boxed{1}") == "<none>");
  ExtractorOptions whole;
  whole.think_end = "";
  CHECK(Answer("\\boxed{1}</think> I do not know", whole) == "1");
}

TEST_CASE("Without a box the plain forms count, unless the recipe forbids them") {
  CHECK(Answer("the final answer is 42") == "42");
  CHECK(Answer("The answer is: **42**.") == "42");
  CHECK(Answer("The answer to the first question is 3.\nThe final answer is 3.5.") == "3.5");
  CHECK(Answer("work\n#### 1,234") == "1,234");
  CHECK(Answer("#### 3\nmore\n#### 4\n") == "4");
  CHECK(Answer("2 + 2 = 4\nA: 4") == "4");
  CHECK(Answer("**Answer:** $\\frac{1}{2}$") == "$\\frac{1}{2}$");
  CHECK(Answer("it is 42") == "<none>");
  ExtractorOptions strict;
  strict.allow_plain = false;
  CHECK(Answer("#### 42", strict) == "<none>");
}

TEST_CASE("FindLast agrees with rfind at every length and place") {
  const std::string needle = "box";
  for (size_t size = 0; size < 80; ++size) {
    for (size_t at = 0; at + 3 <= size; ++at) {
      std::string text(size, 'b');
      text.replace(at, 3, needle);
      CHECK(FindLast(text, needle) == text.rfind(needle));
    }
    CHECK(FindLast(std::string(size, 'x'), needle) == absl::string_view::npos);
  }
}

TEST_CASE("Hostile texts end as they should") {
  std::string boxes, nested;
  for (int i = 0; i < 100000; ++i) boxes += "\\boxed{1}, ", nested += "\\boxed{";
  CHECK(ExtractAnswer(boxes, {}).text.size() == 3 * kJoinedBoxesMax - 2);
  CHECK(Answer(nested) == "<unterminated>");
  CHECK(Answer("\\boxed{" + std::string(100000, '{')) == "<too long>");
  CHECK(Answer(std::string("\\boxed{\0}", 9)) == std::string("\0", 1));
  CHECK(Answer(std::string(1000000, '\\')) == "<none>");
}

}  // namespace
}  // namespace crescendo
