// Equations, inequalities, sets, tuples, matrices, ratios, and both signs.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/reward/ball.h"
#include "services/reward/math_equal.h"

namespace crescendo {
namespace {

constexpr Comparison kEqual = {Verdict::kCorrect, ReasonCode::kStructureEqual};

}  // namespace

// Relations on either side; nullopt when the two are to be compared without them.
std::optional<Comparison> MathComparer::CompareRelations(NodeId gold, NodeId answer, int depth) {
  const bool gold_equation = IsEquation(gold), answer_equation = IsEquation(answer);
  if (gold_equation && answer_equation) return CompareEquations(gold, answer, depth);
  if (ex_.op(answer) == Op::kRelation && ex_.text(answer) == "i" && !IsRealSet(gold) &&
      ex_.op(gold) != Op::kRelation) {
    return Compare(gold, ex_.child(answer, 1), depth);
  }
  if (ex_.op(gold) == Op::kRelation && ex_.text(gold) == "i" && !IsRealSet(answer) &&
      ex_.op(answer) != Op::kRelation) {
    return Compare(ex_.child(gold, 1), answer, depth);
  }
  if (gold_equation && ex_.op(answer) != Op::kRelation) {
    const NodeId value = WithoutName(gold);
    if (value != gold) return Compare(value, answer, depth);
    return Comparison{Verdict::kIncorrect, ReasonCode::kTypeDiffers};
  }
  if (answer_equation && ex_.op(gold) != Op::kRelation) {
    const NodeId value = WithoutName(answer);
    if (value != answer) return Compare(gold, value, depth);
    return std::nullopt;
  }
  if (ex_.op(gold) == Op::kRelation && ex_.op(answer) == Op::kRelation && !gold_equation &&
      !answer_equation) {
    return CompareInequalities(gold, answer);
  }
  return std::nullopt;
}

Comparison MathComparer::CompareEquations(NodeId gold, NodeId answer, int depth) {
  const Nodes sides_g = ChildrenOf(gold), sides_a = ChildrenOf(answer);
  const bool name_g = IsName(sides_g[0]), name_a = IsName(sides_a[0]);
  if (name_g && name_a && sides_g[0] == sides_a[0])
    return Compare(sides_g.back(), sides_a.back(), depth);
  const bool scalar = !ex_.node(gold).traits.units && sides_g.size() == 2 && sides_a.size() == 2;
  const auto difference = [&](const Nodes& sides) {
    for (NodeId side : sides) {
      if (ex_.node(side).traits.structure) return kNoNode;
    }
    return ex_.MakeDifference(sides[0], sides[1]);
  };
  if (scalar) {
    const NodeId f = difference(sides_g), g = difference(sides_a);
    if (f != kNoNode && g != kNoNode && ex_.node(f).traits.symbols && ex_.node(g).traits.symbols &&
        Proportional(f, g)) {
      return kEqual;
    }
  }
  if (name_g && name_a) {
    const bool symbols = ex_.op(sides_g[0]) == Op::kSymbol && ex_.op(sides_a[0]) == Op::kSymbol;
    const bool functions = symbols && (ex_.text(sides_g[0]).find('(') != std::string::npos ||
                                       ex_.text(sides_a[0]).find('(') != std::string::npos);
    if (symbols && !functions) return {Verdict::kIncorrect, ReasonCode::kVariableDiffers};
    const Comparison values = Compare(sides_g.back(), sides_a.back(), depth);
    if (values.verdict == Verdict::kIncorrect) return values;
    return {Verdict::kUndecided, ReasonCode::kAmbiguous};
  }
  if (WithoutName(gold) != gold && WithoutName(answer) != answer) {  // both constant: 51_10 = 201_5
    return Compare(sides_g.back(), sides_a.back(), depth);
  }
  return {scalar ? Verdict::kIncorrect : Verdict::kUndecided, ReasonCode::kNotIdentical};
}

// The same node over other variables.
NodeId MathComparer::RenameVariables(NodeId id, int depth) {
  if (id == kNoNode || depth > 400 || !budget_.Charge(1)) return kNoNode;
  if (!ex_.node(id).traits.symbols) return id;
  if (ex_.op(id) == Op::kSymbol) return ex_.MakeSymbol(absl::StrCat(ex_.text(id), "#"));
  Nodes children = ChildrenOf(id);
  for (NodeId& child : children) child = RenameVariables(child, depth + 1);
  return ex_.WithChildren(id, children);
}

// f = c g for a constant c: f(x) g(y) = f(y) g(x) for all x, y, and neither is zero.
bool MathComparer::Proportional(NodeId f, NodeId g) {
  const NodeId zero = ex_.MakeInteger(0);
  if (scalars_.Compare(f, zero).verdict != Verdict::kIncorrect) return false;
  if (scalars_.Compare(g, zero).verdict != Verdict::kIncorrect) return false;
  const NodeId left = ex_.MakeMul({f, RenameVariables(g, 0)}),
               right = ex_.MakeMul({RenameVariables(f, 0), g});
  return scalars_.Compare(left, right).verdict == Verdict::kCorrect;
}

Comparison MathComparer::CompareInequalities(NodeId gold, NodeId answer) {
  if (auto sets = CompareRealSets(gold, answer)) return *sets;
  if (ex_.text(gold) == ex_.text(answer)) {
    const Comparison sides = CompareInOrder(ChildrenOf(gold), ChildrenOf(answer), 1);
    if (sides.verdict == Verdict::kCorrect) return sides;
  }
  if (ex_.text(gold).size() != 1 || ex_.text(answer).size() != 1)
    return {Verdict::kUndecided, ReasonCode::kUnproven};
  // f > 0 or f >= 0 each; equal when they differ by a positive factor.
  const auto oriented = [&](NodeId id, bool* strict) {
    const char relation = ex_.text(id)[0];
    const Nodes sides = ChildrenOf(id);
    *strict = relation == '<' || relation == '>';
    if (relation == 'n' || relation == 'i' || ex_.node(sides[0]).traits.structure ||
        ex_.node(sides[1]).traits.structure)
      return kNoNode;
    const bool less = relation == '<' || relation == 'l';
    return less ? ex_.MakeDifference(sides[1], sides[0]) : ex_.MakeDifference(sides[0], sides[1]);
  };
  bool strict_g = false, strict_a = false;
  const NodeId f = oriented(gold, &strict_g), g = oriented(answer, &strict_a);
  if (f == kNoNode || g == kNoNode || !Proportional(f, g))
    return {Verdict::kUndecided, ReasonCode::kUnproven};
  const SamplePoint point = {1, SamplePoint::Region::kUnit};
  BallEvaluator balls(ex_, 128, &budget_, &point);
  const Ball *at_f = balls.Evaluate(f), *at_g = balls.Evaluate(g);
  if (at_f == nullptr || at_g == nullptr || at_f->sign() == 0 || at_g->sign() == 0) {
    return {Verdict::kUndecided, ReasonCode::kUnproven};
  }
  const bool same = at_f->sign() == at_g->sign() && strict_g == strict_a;
  return same ? kEqual : Comparison{Verdict::kIncorrect, ReasonCode::kNotIdentical};
}

std::optional<Comparison> MathComparer::CompareRealSets(NodeId gold, NodeId answer) {
  RealSetBuilder build_gold(&ex_, &scalars_), build_answer(&ex_, &scalars_);
  const auto set_gold = build_gold.Build(gold);
  if (!set_gold) return std::nullopt;
  const auto set_answer = build_answer.Build(answer);
  if (!set_answer) return std::nullopt;
  if (build_gold.variable() != kNoNode && build_answer.variable() != kNoNode &&
      build_gold.variable() != build_answer.variable()) {
    return Comparison{Verdict::kIncorrect, ReasonCode::kVariableDiffers};
  }
  if (set_gold->empty() && set_answer->empty())
    return Comparison{Verdict::kUndecided, ReasonCode::kAmbiguous};
  if (set_gold->size() != set_answer->size())
    return Comparison{Verdict::kIncorrect, ReasonCode::kCountDiffers};
  bool unknown = false;
  for (size_t i = 0; i < set_gold->size(); ++i) {
    const Interval &a = (*set_gold)[i], &b = (*set_answer)[i];
    if (a.closed_low != b.closed_low || a.closed_high != b.closed_high) {
      return Comparison{Verdict::kIncorrect, ReasonCode::kTypeDiffers};
    }
    for (const Comparison& end : {CompareValues(a.low, b.low), CompareValues(a.high, b.high)}) {
      if (end.verdict == Verdict::kIncorrect) return end;
      unknown |= end.verdict == Verdict::kUndecided;
    }
  }
  return unknown ? Comparison{Verdict::kUndecided, ReasonCode::kUnproven} : kEqual;
}

Comparison MathComparer::CompareInOrder(const Nodes& gold, const Nodes& answer, int depth) {
  if (gold.size() != answer.size()) return {Verdict::kIncorrect, ReasonCode::kCountDiffers};
  Comparison worst = kEqual;
  for (size_t i = 0; i < gold.size(); ++i) {
    const Comparison one = Compare(gold[i], answer[i], depth);
    if (one.verdict == Verdict::kIncorrect) return one;
    if (one.verdict == Verdict::kUndecided) worst = one;
  }
  return worst;
}

// Every gold element has its own equal, and the reverse; with `sets` repetitions do not count.
Comparison MathComparer::CompareUnordered(const Nodes& gold, const Nodes& answer, bool sets,
                                          int depth) {
  if (gold.size() > kUnorderedMax || answer.size() > kUnorderedMax) {
    return gold == answer ? kEqual : Comparison{Verdict::kUndecided, ReasonCode::kBudget};
  }
  std::vector<bool> used(answer.size(), false);
  bool unknown = false;
  const auto find = [&](NodeId wanted, bool reverse, const Nodes& among, std::vector<bool>* taken) {
    bool maybe = false;
    for (size_t pass = 0; pass < 2; ++pass) {  // the same nodes first: they cost nothing
      for (size_t i = 0; i < among.size(); ++i) {
        if (taken != nullptr && (*taken)[i]) continue;
        if (pass == 0 && among[i] != wanted) continue;
        const Comparison one =
            reverse ? Compare(among[i], wanted, depth) : Compare(wanted, among[i], depth);
        if (one.verdict == Verdict::kCorrect) {
          if (taken != nullptr) (*taken)[i] = true;
          return true;
        }
        maybe |= one.verdict == Verdict::kUndecided;
      }
    }
    unknown |= maybe;
    return false;
  };
  bool all = true;
  for (NodeId element : gold) {
    if (find(element, false, answer, sets ? nullptr : &used)) continue;
    if (!unknown) return {Verdict::kIncorrect, ReasonCode::kCountDiffers};
    all = false;
  }
  if (all && (sets || gold.size() != answer.size())) {
    for (NodeId element : answer) all = all && find(element, true, gold, nullptr);
  }
  if (!all)
    return {unknown ? Verdict::kUndecided : Verdict::kIncorrect,
            unknown ? ReasonCode::kUnproven : ReasonCode::kCountDiffers};
  // A list that repeats an answer: right in content, not in number.
  if (!sets && gold.size() != answer.size())
    return {Verdict::kUndecided, ReasonCode::kCountDiffers};
  return kEqual;
}

Comparison MathComparer::CompareTuple(NodeId gold, NodeId answer, int depth) {
  const Nodes elements = ChildrenOf(gold);
  switch (ex_.op(answer)) {
    case Op::kTuple:
      // Of two elements it may be an interval: then its ends matter. Of more it is a point,
      // whatever its brackets.
      if (ex_.node(gold).payload != ex_.node(answer).payload && elements.size() == 2) {
        return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
      }
      return CompareInOrder(elements, ChildrenOf(answer), depth);
    case Op::kMatrix: {
      const uint32_t columns = ex_.node(answer).payload;
      const Nodes cells = ChildrenOf(answer);
      if (columns != 1 && columns != cells.size())
        return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
      return CompareInOrder(elements, cells, depth);
    }
    case Op::kList: {
      if (ex_.node(gold).payload != 0) return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
      return CompareInOrder(elements, ChildrenOf(answer), depth);
    }
    default:
      return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
  }
}

Comparison MathComparer::CompareList(NodeId gold, NodeId answer, int depth) {
  const Nodes elements = ChildrenOf(gold);
  switch (ex_.op(answer)) {
    case Op::kList: {
      const Nodes others = ChildrenOf(answer);
      const Comparison unordered = CompareUnordered(elements, others, false, depth);
      const bool words = ex_.op(elements[0]) == Op::kText;
      if (unordered.verdict == Verdict::kCorrect && words && elements != others) {
        return {Verdict::kUndecided,
                ReasonCode::kAmbiguous};  // the order of words may be the answer
      }
      return unordered;
    }
    case Op::kSet:
      return CompareUnordered(elements, ChildrenOf(answer), true, depth);
    case Op::kTuple: {
      const Nodes others = ChildrenOf(answer);
      const Comparison ordered = CompareInOrder(elements, others, depth);
      if (ordered.verdict != Verdict::kIncorrect) return ordered;
      const Comparison unordered = CompareUnordered(elements, others, false, depth);
      return unordered.verdict == Verdict::kIncorrect
                 ? ordered
                 : Comparison{Verdict::kUndecided, ReasonCode::kAmbiguous};
    }
    default:
      break;
  }
  if (ex_.node(answer).traits.structure) return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
  // Several ways of writing one answer ("1/2 or 0.5") may be the gold; else one element is missing.
  for (NodeId element : elements) {
    if (Compare(elements[0], element, depth).verdict != Verdict::kCorrect) {
      return {Verdict::kIncorrect, ReasonCode::kCountDiffers};
    }
  }
  return Compare(elements[0], answer, depth);
}

Comparison MathComparer::CompareSet(NodeId gold, NodeId answer, int depth) {
  const Nodes elements = ChildrenOf(gold);
  const Op op = ex_.op(answer);
  if (op == Op::kSet || op == Op::kList || op == Op::kEmptySet) {
    return CompareUnordered(elements, ChildrenOf(answer), true, depth);
  }
  if (op == Op::kTuple) return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
  if (elements.size() == 1) return Compare(elements[0], answer, depth);
  return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
}

Comparison MathComparer::CompareMatrix(NodeId gold, NodeId answer, int depth) {
  const Nodes cells = ChildrenOf(gold);
  const uint32_t columns = ex_.node(gold).payload;
  if (ex_.op(answer) == Op::kMatrix) {
    const bool vector = columns == 1 || columns == cells.size();
    const uint32_t other = ex_.node(answer).payload;
    if (other != columns && !(vector && (other == 1 || other == ex_.children(answer).size()))) {
      return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
    }
    return CompareInOrder(cells, ChildrenOf(answer), depth);
  }
  const bool vector = columns == 1 || columns == cells.size();
  if (vector && ex_.op(answer) == Op::kTuple)
    return CompareInOrder(cells, ChildrenOf(answer), depth);
  if (cells.size() == 1) return Compare(cells[0], answer, depth);
  return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
}

Comparison MathComparer::CompareRatio(NodeId gold, NodeId answer, int depth) {
  // A time of day may lack its half of the day.
  const bool wrapped_gold =
      ex_.op(gold) == Op::kQuantity && ex_.op(ex_.child(gold, 0)) == Op::kRatio;
  const bool wrapped_answer =
      ex_.op(answer) == Op::kQuantity && ex_.op(ex_.child(answer, 0)) == Op::kRatio;
  if (wrapped_gold != wrapped_answer) {
    return Compare(wrapped_gold ? ex_.child(gold, 0) : gold,
                   wrapped_answer ? ex_.child(answer, 0) : answer, depth);
  }
  for (NodeId side : {gold, answer}) {
    if (ex_.op(side) != Op::kRatio && ex_.node(side).traits.units)
      return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
  }
  const auto parts_of = [&](NodeId id) {
    return ex_.op(id) == Op::kRatio ? ChildrenOf(id) : Nodes{id, ex_.MakeInteger(1)};
  };
  if (ex_.node(gold).traits.structure && ex_.op(gold) != Op::kRatio)
    return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
  if (ex_.node(answer).traits.structure && ex_.op(answer) != Op::kRatio)
    return {Verdict::kIncorrect, ReasonCode::kTypeDiffers};
  const Nodes a = parts_of(gold), b = parts_of(answer);
  if (a.size() != b.size()) return {Verdict::kIncorrect, ReasonCode::kCountDiffers};
  const Comparison same = CompareInOrder(a, b, depth);
  if (same.verdict == Verdict::kCorrect) return same;
  for (size_t i = 1; i < a.size(); ++i) {  // a_0 b_i = a_i b_0
    if (ex_.node(a[i]).traits.units || ex_.node(b[i]).traits.units)
      return {Verdict::kUndecided, ReasonCode::kUnproven};
    const Comparison cross = scalars_.Compare(ex_.MakeMul({a[0], b[i]}), ex_.MakeMul({a[i], b[0]}));
    if (cross.verdict != Verdict::kCorrect) return cross;
  }
  // 12:40 may be a time, of which 3:10 is no other form.
  const auto may_be_time = [&](const Nodes& parts) {
    if (parts.size() != 2 || ex_.op(parts[0]) != Op::kNumber || ex_.op(parts[1]) != Op::kNumber)
      return false;
    const Rational &hours = ex_.number(parts[0]).value, &minutes = ex_.number(parts[1]).value;
    return hours.is_integer() && minutes.is_integer() && hours < Rational(25) &&
           minutes < Rational(60) && !(minutes < Rational(10));
  };
  if (may_be_time(a) && (ex_.op(answer) != Op::kRatio || may_be_time(b)))
    return {Verdict::kUndecided, ReasonCode::kAmbiguous};
  if (b[0] == ex_.MakeInteger(0) || a[0] == ex_.MakeInteger(0))
    return {Verdict::kUndecided, ReasonCode::kAmbiguous};
  return kEqual;
}

void MathComparer::CollectPlusMinus(NodeId id, std::vector<NodeId>* found, int depth) {
  if (depth > 400 || !ex_.node(id).traits.plus_minus || !budget_.Charge(1)) return;
  if (ex_.op(id) == Op::kPlusMinus && std::find(found->begin(), found->end(), id) == found->end())
    found->push_back(id);
  for (NodeId child : ChildrenOf(id)) CollectPlusMinus(child, found, depth + 1);
}

// The node with a sign for each kPlusMinus of `signs`: bit i of `choice` set takes the lower one.
NodeId MathComparer::Choose(NodeId id, const std::vector<NodeId>& signs, uint32_t choice,
                            int depth) {
  if (id == kNoNode || depth > 400 || !budget_.Charge(1)) return kNoNode;
  if (!ex_.node(id).traits.plus_minus) return id;
  Nodes children = ChildrenOf(id);
  for (NodeId& child : children) child = Choose(child, signs, choice, depth + 1);
  if (ex_.op(id) != Op::kPlusMinus) return ex_.WithChildren(id, children);
  const auto index =
      static_cast<uint32_t>(std::find(signs.begin(), signs.end(), id) - signs.begin());
  const bool lower = (choice >> index & 1) != 0;
  const bool minus = lower != (ex_.node(id).payload == 1);
  return minus ? ex_.MakeNegation(children[0]) : children[0];
}

// All that a node with both signs stands for: the upper and the lower reading when linked, else
// every combination.
MathComparer::Nodes MathComparer::Expand(NodeId id, bool linked) {
  const Op op = ex_.op(id);
  if (op == Op::kList || op == Op::kSet) {
    Nodes all;
    for (NodeId child : ChildrenOf(id)) {
      const Nodes some = Expand(child, linked);
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
  std::vector<NodeId> signs;
  CollectPlusMinus(id, &signs, 0);
  if (signs.empty()) return {id};
  if (signs.size() > 4) return {kNoNode};
  Nodes all;
  const uint32_t choices = 1u << signs.size();
  for (uint32_t choice = 0; choice < choices; choice += linked ? choices - 1 : 1)
    all.push_back(Choose(id, signs, choice, 0));
  return all;
}

Comparison MathComparer::ComparePlusMinus(NodeId gold, NodeId answer, int depth) {
  Comparison result = {Verdict::kUndecided, ReasonCode::kAmbiguous};
  for (bool linked : {true, false}) {
    const Nodes a = Expand(gold, linked), b = Expand(answer, linked);
    const Comparison one = CompareUnordered(a, b, true, depth);
    if (one.verdict == Verdict::kCorrect) return one;
    if (linked) result = one;
    if (!linked && one.verdict != result.verdict)
      result = {Verdict::kUndecided, ReasonCode::kAmbiguous};
  }
  return result;
}

}  // namespace crescendo
