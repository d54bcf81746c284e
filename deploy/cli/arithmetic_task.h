// The demo's task: left-to-right arithmetic mod 10, with problems, clean and rambling responses.
//
// A digit, then k operations with an operand each; v(0) is the digit, v(i) the value after
// operation i. The answer is 10 * v(k-1) + v(k), as two digits: a one-digit answer can be guessed.
// Steps are labelled with letters, so that to look up an operand is to copy:
//   prompt          a6b*9c-5d-0=
//   clean response  b*9=4c-5=9d-0=9\boxed{99}     5k + 5 tokens with the end token
// In a rambling response a step may be redone behind '?', and the whole chain restarted behind '~'.
// A slip writes a wrong value and goes on from it. Every character is a token, and "\boxed{" is
// one.
//
// Pure functions of a generator: the same seed gives the same bytes everywhere.
#ifndef CRESCENDO_DEPLOY_CLI_ARITHMETIC_TASK_H_
#define CRESCENDO_DEPLOY_CLI_ARITHMETIC_TASK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/rng.h"

namespace crescendo {

inline constexpr int kOperationsMin = 2;
inline constexpr int kOperationsMax = 12;
inline constexpr int kResponseTokensMax =
    192;  // a longer corpus response is cut there, without end

struct ArithmeticProblem {
  int start = 0;                 // 0..9
  std::vector<char> operations;  // each of + - *
  std::vector<int> operands;     // 0..9, one an operation
};

// k = 2 + min(u1, u2), u uniform in 0..10: 2 to 12 operations, few are long.
int DrawOperations(CounterRng& rng);
// A problem of `operations` operations, operators and operands uniform. Requires 1 <= operations
// <= 25.
ArithmeticProblem DrawProblem(CounterRng& rng, int operations);

std::string ProblemText(const ArithmeticProblem& problem);  // "a6b*9c-5d-0="
std::string AnswerText(const ArithmeticProblem& problem);   // two digits, "05" too
std::string CleanResponse(const ArithmeticProblem& problem);

// How a response rambles.
struct Ramble {
  double redo = 0;     // a step is written again, once, with this probability
  double restart = 0;  // after a whole chain, with this probability, another one; 1 never ends
  double slip = 0;     // a step's value is wrong
};

struct CorpusRow {
  std::string prompt;
  std::string response;
  bool ends = true;  // false: cut at kResponseTokensMax, no end token follows
};

// The response of a policy that rambles so, cut at kResponseTokensMax tokens.
CorpusRow RamblingResponse(const ArithmeticProblem& problem, const Ramble& ramble, CounterRng& rng);

// Row `row` of a warm-start corpus (phases "A", "B", "V", "C" of the demo's recipe). A row depends
// on (phase, seed, row) alone. In phase B the longest problem grows with row / batch, the step that
// trains the row. InvalidArgument for another phase.
struct PhaseRecipe {
  int steps = 0;
  int batch = 0;
};
absl::StatusOr<PhaseRecipe> FindPhase(absl::string_view phase);
absl::StatusOr<CorpusRow> CorpusRowAt(absl::string_view phase, uint64_t seed, int64_t row);

// `count` problems of the task's distribution, no two alike, none of which is in `taken`; adds them
// to `taken`. Requires a count that the task has room for (at most 100,000).
std::vector<ArithmeticProblem> DrawDistinctProblems(uint64_t seed, int count,
                                                    std::vector<std::string>& taken);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_ARITHMETIC_TASK_H_
