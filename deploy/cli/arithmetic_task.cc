#include "deploy/cli/arithmetic_task.h"

#include <algorithm>
#include <array>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr absl::string_view kBoxed = "\\boxed{";
constexpr int kStepTokens = 5;     // letter, operator, operand, '=', value
constexpr int kClosingTokens = 5;  // \boxed{, two digits, }, end

struct PhaseRow {
  absl::string_view name;
  PhaseRecipe recipe;
  uint64_t stream;  // keeps the phases' draws apart
};
constexpr std::array<PhaseRow, 4> kPhases = {
    {{"A", {350, 128}, 1}, {"B", {450, 96}, 2}, {"V", {480, 64}, 3}, {"C", {50, 64}, 4}}};

int Apply(char operation, int value, int operand) {
  switch (operation) {
    case '+':
      return (value + operand) % 10;
    case '-':
      return (value - operand + 10) % 10;
    default:
      return (value * operand) % 10;
  }
}

// v(0) .. v(k).
std::vector<int> Values(const ArithmeticProblem& problem) {
  std::vector<int> values = {problem.start};
  for (size_t i = 0; i < problem.operations.size(); ++i) {
    values.push_back(Apply(problem.operations[i], values.back(), problem.operands[i]));
  }
  return values;
}

char Letter(size_t index) { return static_cast<char>('a' + index); }

std::string TwoDigits(int before_last, int last) { return absl::StrCat(before_last, last); }

// Writes step `i` from `value`; returns the value written.
int AppendStep(const ArithmeticProblem& problem, size_t i, int value, double slip, CounterRng& rng,
               std::string& out) {
  int result = Apply(problem.operations[i], value, problem.operands[i]);
  if (slip > 0 && rng.Uniform() < slip) {
    result = (result + 1 + static_cast<int>(rng.Below(9))) % 10;
  }
  absl::StrAppend(&out, std::string(1, Letter(i + 1)), std::string(1, problem.operations[i]),
                  problem.operands[i], "=", result);
  return result;
}

int DrawMixedOperations(CounterRng& rng) {
  if (rng.Below(2) == 0) {
    return kOperationsMin + static_cast<int>(rng.Below(kOperationsMax - kOperationsMin + 1));
  }
  return DrawOperations(rng);
}

int UniformUpTo(CounterRng& rng, int most) {
  return kOperationsMin + static_cast<int>(rng.Below(most - kOperationsMin + 1));
}

CorpusRow CleanRow(const ArithmeticProblem& problem) {
  return {ProblemText(problem), CleanResponse(problem), true};
}

}  // namespace

int DrawOperations(CounterRng& rng) {
  const int first = static_cast<int>(rng.Below(11));
  const int second = static_cast<int>(rng.Below(11));
  return kOperationsMin + std::min(first, second);
}

ArithmeticProblem DrawProblem(CounterRng& rng, int operations) {
  CRESCENDO_CHECK(operations >= 1 && operations <= 25);
  ArithmeticProblem problem;
  problem.start = static_cast<int>(rng.Below(10));
  for (int i = 0; i < operations; ++i) {
    problem.operations.push_back("+-*"[rng.Below(3)]);
    problem.operands.push_back(static_cast<int>(rng.Below(10)));
  }
  return problem;
}

std::string ProblemText(const ArithmeticProblem& problem) {
  std::string text = absl::StrCat("a", problem.start);
  for (size_t i = 0; i < problem.operations.size(); ++i) {
    absl::StrAppend(&text, std::string(1, Letter(i + 1)), std::string(1, problem.operations[i]),
                    problem.operands[i]);
  }
  return text + "=";
}

std::string AnswerText(const ArithmeticProblem& problem) {
  const std::vector<int> values = Values(problem);
  return TwoDigits(values[values.size() - 2], values.back());
}

std::string CleanResponse(const ArithmeticProblem& problem) {
  CounterRng unused(0);
  return RamblingResponse(problem, Ramble{}, unused).response;
}

CorpusRow RamblingResponse(const ArithmeticProblem& problem, const Ramble& ramble,
                           CounterRng& rng) {
  CorpusRow row;
  row.prompt = ProblemText(problem);
  int tokens = 0;
  int before_last = problem.start;
  int last = problem.start;
  while (tokens < kResponseTokensMax) {
    last = problem.start;
    for (size_t i = 0; i < problem.operations.size(); ++i) {
      before_last = last;
      last = AppendStep(problem, i, before_last, ramble.slip, rng, row.response);
      tokens += kStepTokens;
      if (ramble.redo > 0 && rng.Uniform() < ramble.redo) {
        row.response += '?';
        last = AppendStep(problem, i, before_last, ramble.slip, rng, row.response);
        tokens += 1 + kStepTokens;
      }
    }
    if (ramble.restart <= 0 || rng.Uniform() >= ramble.restart) break;
    row.response += '~';
    ++tokens;
  }
  row.ends = tokens + kClosingTokens <= kResponseTokensMax;
  if (row.ends) {
    absl::StrAppend(&row.response, kBoxed, TwoDigits(before_last, last), "}");
    return row;
  }
  // Cut: up to here every character is a token, and "\boxed{" is the one exception.
  if (tokens < kResponseTokensMax && ramble.restart < 1) {
    const std::string digits = TwoDigits(before_last, last);
    absl::StrAppend(&row.response, kBoxed);
    row.response += digits.substr(0, kResponseTokensMax - tokens - 1);
    if (kResponseTokensMax - tokens - 1 >= 3) row.response += '}';
  } else {
    row.response.resize(kResponseTokensMax);
  }
  return row;
}

absl::StatusOr<PhaseRecipe> FindPhase(absl::string_view phase) {
  for (const PhaseRow& row : kPhases) {
    if (row.name == phase) return row.recipe;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown phase '", phase, "': expected A, B, V or C"));
}

absl::StatusOr<CorpusRow> CorpusRowAt(absl::string_view phase, uint64_t seed, int64_t row) {
  ASSIGN_OR_RETURN(const PhaseRecipe recipe, FindPhase(phase));
  const auto* found = std::find_if(kPhases.begin(), kPhases.end(),
                                   [&](const PhaseRow& item) { return item.name == phase; });
  CounterRng rng(MixSeed(seed, found->stream), static_cast<uint64_t>(row));
  if (phase == "A") return CleanRow(DrawProblem(rng, UniformUpTo(rng, 6)));
  if (phase == "B") {
    const int64_t whole_batches = row / recipe.batch;
    const double step = static_cast<double>(whole_batches);
    const int most = std::min(kOperationsMax, 7 + static_cast<int>(5.0 * step / 148.5));
    return CleanRow(DrawProblem(rng, UniformUpTo(rng, most)));
  }
  const ArithmeticProblem problem = DrawProblem(rng, DrawMixedOperations(rng));
  const bool fifteen_percent = rng.Uniform() < 0.15;
  if (phase == "V") {
    if (fifteen_percent) return CleanRow(problem);
    return RamblingResponse(problem, {.redo = .45, .restart = .6, .slip = 0}, rng);
  }
  if (fifteen_percent)
    return RamblingResponse(problem, {.redo = .5, .restart = 1, .slip = .08}, rng);
  return RamblingResponse(problem, {.redo = .5, .restart = .72, .slip = .08}, rng);
}

std::vector<ArithmeticProblem> DrawDistinctProblems(uint64_t seed, int count,
                                                    std::vector<std::string>& taken) {
  CRESCENDO_CHECK(count <= 100000);
  absl::flat_hash_set<std::string> seen(taken.begin(), taken.end());
  std::vector<ArithmeticProblem> problems;
  CounterRng rng(seed);
  while (static_cast<int>(problems.size()) < count) {
    ArithmeticProblem problem = DrawProblem(rng, DrawOperations(rng));
    std::string text = ProblemText(problem);
    if (!seen.insert(text).second) continue;
    taken.push_back(std::move(text));
    problems.push_back(std::move(problem));
  }
  return problems;
}

}  // namespace crescendo
