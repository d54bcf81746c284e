// Hostile answers: a verdict within the budget, never a wrong "correct", memory that stays small.
#include <algorithm>
#include <ctime>
#include <string>

#include "catch2/catch.hpp"
#include "common/os/process.h"
#include "services/reward/grader.h"
#include "services/reward/work_budget.h"
#include "tests/unit/reward/hostile_inputs.h"

namespace crescendo {
namespace {

// Of this thread: other processes do not count.
double CpuMillis() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

TEST_CASE("Every hostile answer gets a verdict within its budget") {
  const auto inputs = HostileInputs();
  Grader grader({});
  const int64_t before = ResidentBytes();
  for (const HostileInput& input : inputs) {
    GradeQuery query;
    query.gold = {input.gold};
    query.response = input.response;
    double best = 1e9;
    Grade grade;
    for (int i = 0; i < 3; ++i) {
      const double start = CpuMillis();
      grade = grader.Evaluate(query);
      best = std::min(best, CpuMillis() - start);
    }
    INFO(input.name << ": " << std::string(VerdictName(grade.verdict)) << " "
                    << std::string(ReasonName(grade.reason)) << ", " << grade.operations
                    << " operations, " << best << " ms");
    // The last charge may go over the budget by one step.
    CHECK(grade.operations <= kAnswerOperationsMax * 5 / 4);
    CHECK(best <= 20);
  }
  CHECK(ResidentBytes() - before <= 64 << 20);
}

TEST_CASE("Near misses are told apart") {
  Grader grader({});
  const auto verdict = [&](const char* gold, const std::string& answer) {
    const std::string response = Boxed(answer);
    GradeQuery query;
    query.gold = {gold};
    query.response = response;
    return grader.Evaluate(query).verdict;
  };
  CHECK(verdict("\\sqrt{10^{40}+1}", "10^{20}+\\frac{1}{2\\cdot 10^{20}}") == Verdict::kIncorrect);
  CHECK(verdict("\\pi", "\\pi+10^{-300}") != Verdict::kCorrect);
  CHECK(verdict("e^{\\pi\\sqrt{163}}", "262537412640768744") == Verdict::kIncorrect);
  CHECK(verdict("\\sqrt{2}+\\sqrt{3}", "\\sqrt{5+2\\sqrt{6}}") == Verdict::kCorrect);
}

}  // namespace
}  // namespace crescendo
