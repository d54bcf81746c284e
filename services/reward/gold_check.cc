#include "services/reward/gold_check.h"

#include "absl/strings/ascii.h"
#include "services/reward/expression_parser.h"
#include "services/reward/fold.h"
#include "services/reward/multiple_choice.h"

namespace crescendo {
namespace {

absl::string_view ScalarType(Expressions& ex, NodeId id, WorkBudget* budget) {
  const Traits traits = ex.node(id).traits;
  if (ex.op(id) == Op::kQuantity) return "quantity";
  if (ex.op(id) == Op::kPercent) return "percent";
  if (ex.op(id) == Op::kNumber && ex.number(id).decimals >= 0) return "decimal";
  if (traits.plus_minus) return "list";
  if (traits.symbols) return "expression";
  Folder folder(&ex, budget, nullptr);
  const NodeId folded = folder.Fold(id);
  if (folded != kNoNode && ex.op(folded) == Op::kNumber) {
    return ex.number(folded).value.is_integer() ? "integer" : "rational";
  }
  return "constant";
}

absl::string_view TypeOf(Expressions& ex, NodeId id, WorkBudget* budget) {
  switch (ex.op(id)) {
    case Op::kList:
      return "list";
    case Op::kTuple:
      return ex.node(id).payload != 0 ? "interval" : "tuple";
    case Op::kSet:
    case Op::kEmptySet:
    case Op::kReals:
    case Op::kDifference:
      return "set";
    case Op::kUnion:
    case Op::kIntersection:
      return "interval";
    case Op::kRelation:
      return ex.text(id).find_first_not_of("=~") == std::string::npos ? "equation" : "inequality";
    case Op::kMatrix:
      return "matrix";
    case Op::kRatio:
      return "ratio";
    case Op::kText:
      return "text";
    default:
      return ScalarType(ex, id, budget);
  }
}

}  // namespace

GoldCheck CheckGold(absl::string_view gold) {
  gold = absl::StripAsciiWhitespace(gold);
  if (gold.empty()) return {false, "empty"};
  if (const auto choice = ParseChoice(gold); choice && choice->rest.empty())
    return {true, "choice"};
  Expressions expressions;
  WorkBudget budget;
  const ParsedAnswer parsed = ParseAnswer(gold, {}, &budget, &expressions);
  if (parsed.failure == ParseFailure::kEmpty) return {false, "empty"};
  if (parsed.root == kNoNode) return {false, "unparsable"};
  return {true, TypeOf(expressions, parsed.root, &budget)};
}

}  // namespace crescendo
