// Any bytes as a gold answer and a response: a grade that keeps its promises, and the same one
// twice.
//
// The input is the gold answer, a newline, the response; a response without a box is put into one,
// so that most inputs reach the parser.
#include <cstdint>
#include <string>

#include "common/base/status_macros.h"
#include "services/reward/gold_check.h"
#include "services/reward/grader.h"
#include "services/reward/work_budget.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace crescendo;
  static Grader& grader = *new Grader({});
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t split = input.find('\n');
  const std::string gold = input.substr(0, split);
  std::string response = split == std::string::npos ? "" : input.substr(split + 1);
  if (response.find("box") == std::string::npos) response = "\\boxed{" + response + "}";
  GradeQuery query;
  query.gold = {gold};
  query.response = response;
  query.problem = response;
  const Grade first = grader.Evaluate(query), second = grader.Evaluate(query);
  CRESCENDO_CHECK(first.verdict == second.verdict && first.reason == second.reason);
  CRESCENDO_CHECK(first.operations == second.operations);
  CRESCENDO_CHECK(first.operations <= kAnswerOperationsMax * 5 / 4);
  CRESCENDO_CHECK(first.extracted.size() <= kExtractedBytesMax);
  if (gold.find_first_not_of(" \t\r\n\f\v") == std::string::npos)
    CRESCENDO_CHECK(first.verdict != Verdict::kCorrect);
  CheckGold(gold);
  return 0;
}
