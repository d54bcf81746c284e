#include "services/reward/math_equal.h"

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace crescendo {
namespace {

constexpr int kCompareDepthMax = 32;

// One word for each group of phrases that mean the same.
absl::string_view Canonical(absl::string_view words) {
  static constexpr struct {
    absl::string_view phrase, canonical;
  } kPhrases[] = {{"no solution", "none"},
                  {"no solutions", "none"},
                  {"none", "none"},
                  {"no real solution", "none"},
                  {"no real solutions", "none"},
                  {"empty set", "none"},
                  {"empty", "none"},
                  {"no such number", "none"},
                  {"there is no solution", "none"},
                  {"there are no solutions", "none"},
                  {"infinitely many solutions", "infinitely many"},
                  {"infinite", "infinitely many"},
                  {"infinite solutions", "infinitely many"},
                  {"does not exist", "dne"},
                  {"undefined", "dne"},
                  {"dne", "dne"},
                  {"all real numbers", "reals"},
                  {"all reals", "reals"},
                  {"real numbers", "reals"},
                  {"yes", "yes"},
                  {"true", "yes"},
                  {"no", "no"},
                  {"false", "no"}};
  for (const auto& entry : kPhrases) {
    if (entry.phrase == words) return entry.canonical;
  }
  return words;
}

bool ContainsWords(absl::string_view all, absl::string_view some) {
  return absl::StrContains(absl::StrCat(" ", all, " "), absl::StrCat(" ", some, " "));
}

}  // namespace

bool MathComparer::IsName(NodeId id) const {
  switch (ex_.op(id)) {
    case Op::kSymbol:
    case Op::kText:
      return true;
    case Op::kTuple: {
      const auto children = ex_.children(id);
      return std::all_of(children.begin(), children.end(),
                         [&](NodeId child) { return ex_.op(child) == Op::kSymbol; });
    }
    default:
      return false;
  }
}

bool MathComparer::IsEquation(NodeId id) const {
  return ex_.op(id) == Op::kRelation && ex_.text(id).find_first_not_of("=~") == std::string::npos;
}

bool MathComparer::IsRealSet(NodeId id) const {
  switch (ex_.op(id)) {
    case Op::kUnion:
    case Op::kIntersection:
    case Op::kDifference:
    case Op::kReals:
      return true;
    case Op::kRelation:
      return ex_.text(id).find_first_of("<>lgni") != std::string::npos;
    default:
      return false;
  }
}

NodeId MathComparer::WithoutName(NodeId id) const {
  if (!IsEquation(id)) return id;
  const auto sides = ex_.children(id);
  const bool constant = std::none_of(sides.begin(), sides.end(), [&](NodeId side) {
    return ex_.node(side).traits.symbols || ex_.node(side).traits.structure;
  });
  return IsName(sides.front()) || constant ? sides.back() : id;
}

Comparison MathComparer::CompareTexts(NodeId gold, NodeId answer) {
  const std::string &a = ex_.text(gold), &b = ex_.text(answer);
  if (Canonical(a) == Canonical(b)) return {Verdict::kCorrect, ReasonCode::kTextMatch};
  if (ContainsWords(a, b) || ContainsWords(b, a))
    return {Verdict::kUndecided, ReasonCode::kAmbiguous};
  const std::vector<std::string> words_a = absl::StrSplit(a, ' '), words_b = absl::StrSplit(b, ' ');
  std::vector<std::string> sorted_a = words_a, sorted_b = words_b;
  std::sort(sorted_a.begin(), sorted_a.end());
  std::sort(sorted_b.begin(), sorted_b.end());
  if (sorted_a == sorted_b) return {Verdict::kUndecided, ReasonCode::kAmbiguous};
  return {Verdict::kIncorrect, ReasonCode::kTextDiffers};
}

// When one of the two is words; nullopt when neither is.
std::optional<Comparison> MathComparer::CompareAsText(NodeId gold, NodeId answer) {
  const bool gold_text = ex_.op(gold) == Op::kText, answer_text = ex_.op(answer) == Op::kText;
  if (!gold_text && !answer_text) return std::nullopt;
  if (gold_text && answer_text) return CompareTexts(gold, answer);
  const std::string words(Canonical(ex_.text(gold_text ? gold : answer)));  // nodes may be added
  const NodeId other = gold_text ? answer : gold;
  const bool empty = ex_.op(other) == Op::kEmptySet;
  const bool reals =
      ex_.op(other) == Op::kReals || (ex_.op(other) == Op::kSymbol && ex_.text(other) == "R");
  if ((empty && words == "none") || (reals && words == "reals"))
    return Comparison{Verdict::kCorrect, ReasonCode::kTextMatch};
  if (words == "reals") {
    if (auto sets = CompareRealSets(ex_.MakeConstant(Op::kReals), other)) return sets;
  }
  if (!gold_text) return Comparison{Verdict::kUndecided, ReasonCode::kAnswerUnparsable};
  const bool digits =
      std::any_of(words.begin(), words.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (ex_.op(other) == Op::kNumber && !digits)
    return Comparison{Verdict::kIncorrect, ReasonCode::kTypeDiffers};
  return Comparison{Verdict::kUndecided, ReasonCode::kGoldUnparsable};
}

Comparison MathComparer::Compare(NodeId gold, NodeId answer, int depth) {
  budget_.Charge(4);
  if (gold == kNoNode || answer == kNoNode || depth > kCompareDepthMax || budget_.spent()) {
    return {Verdict::kUndecided, ReasonCode::kBudget};
  }
  if (gold == answer) {
    return {Verdict::kCorrect,
            ex_.op(gold) == Op::kText ? ReasonCode::kTextMatch : ReasonCode::kExactEqual};
  }
  if (ex_.node(gold).traits.plus_minus || ex_.node(answer).traits.plus_minus) {
    return ComparePlusMinus(gold, answer, depth + 1);
  }
  if (auto relations = CompareRelations(gold, answer, depth + 1)) return *relations;
  if (auto text = CompareAsText(gold, answer)) return *text;
  const auto is_line = [&](NodeId id) { return ex_.op(id) == Op::kSymbol && ex_.text(id) == "R"; };
  const bool line = (is_line(gold) && ex_.op(answer) == Op::kTuple) ||
                    (is_line(answer) && ex_.op(gold) == Op::kTuple);
  if (IsRealSet(gold) || IsRealSet(answer) || line) {
    if (auto sets = CompareRealSets(gold, answer)) return *sets;
  }
  switch (ex_.op(gold)) {
    case Op::kList:
      return CompareList(gold, answer, depth + 1);
    case Op::kSet:
    case Op::kEmptySet:
      return CompareSet(gold, answer, depth + 1);
    case Op::kTuple:
      return CompareTuple(gold, answer, depth + 1);
    case Op::kMatrix:
      return CompareMatrix(gold, answer, depth + 1);
    case Op::kRatio:
      return CompareRatio(gold, answer, depth + 1);
    case Op::kRelation:
    case Op::kUnion:
    case Op::kIntersection:
    case Op::kDifference:
    case Op::kReals:
      // A set or a condition is not answered by a number.
      if (!ex_.node(answer).traits.structure)
        return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
      return {Verdict::kUndecided, ReasonCode::kUnproven};
    default:
      break;
  }
  switch (ex_.op(answer)) {
    case Op::kSet:
      if (ex_.children(answer).size() == 1) return Compare(gold, ex_.child(answer, 0), depth + 1);
      return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
    case Op::kList:
      return {Verdict::kIncorrect, ReasonCode::kCountDiffers};
    case Op::kRatio:
      return CompareRatio(gold, answer, depth + 1);
    case Op::kTuple:
    case Op::kMatrix:
    case Op::kEmptySet:
    case Op::kUnion:
    case Op::kIntersection:
    case Op::kDifference:
    case Op::kReals:
      return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
    case Op::kRelation:
      return {Verdict::kUndecided, ReasonCode::kAmbiguous};
    default:
      return CompareScalars(gold, answer);
  }
}

}  // namespace crescendo
