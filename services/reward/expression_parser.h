// From the text of an answer to its expression.
//
// A recursive-descent parser over the tokens of LaTeX or plain text; the whole text must be
// consumed. What a text can be: numbers in all their forms, expressions, equations, inequalities,
// intervals, sets and unions, tuples, matrices, lists, ratios, quantities with units, percentages,
// words. Never fails hard: a text that is no expression keeps its canonical form, so that it can
// still be compared as text. Bounds: kTokensMax tokens, kNestingMax levels, kNodesMax nodes. Pure,
// thread-safe.
#ifndef CRESCENDO_SERVICES_REWARD_EXPRESSION_PARSER_H_
#define CRESCENDO_SERVICES_REWARD_EXPRESSION_PARSER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "services/reward/expression.h"
#include "services/reward/work_budget.h"

namespace crescendo {

inline constexpr int kNestingMax = 64;

enum class ParseFailure : uint8_t { kNone, kEmpty, kTooLong, kTooDeep, kTooManyNodes, kSyntax };

struct ParseOptions {
  // "121,242" at the top level: two numbers instead of one with a thousands separator.
  bool commas_separate = false;
};

struct ParsedAnswer {
  NodeId root = kNoNode;
  ParseFailure failure = ParseFailure::kNone;
  std::string canonical;        // the same for texts that differ in styling only
  bool grouped_commas = false;  // commas were taken as thousands separators
};

ParsedAnswer ParseAnswer(absl::string_view text, const ParseOptions& options, WorkBudget* budget,
                         Expressions* expressions);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_REWARD_EXPRESSION_PARSER_H_
