#include "services/reward/real_set.h"

#include <algorithm>

namespace crescendo {

NodeId RealSetBuilder::Infinity(bool negative) {
  const NodeId infinity = ex_.MakeConstant(Op::kInfinity);
  return negative ? ex_.MakeNegation(infinity) : infinity;
}

std::optional<RealSet> RealSetBuilder::Build(NodeId id) {
  if (id == kNoNode) return std::nullopt;
  const auto both = [&](auto combine) -> std::optional<RealSet> {
    const std::vector<NodeId> parts(ex_.children(id).begin(), ex_.children(id).end());
    std::optional<RealSet> total = Build(parts[0]);
    for (size_t i = 1; i < parts.size() && total; ++i) {
      const auto next = Build(parts[i]);
      if (!next) return std::nullopt;
      total = combine(*total, *next);
    }
    return total;
  };
  switch (ex_.op(id)) {
    case Op::kEmptySet:
      return RealSet{};
    case Op::kReals:
      return RealSet{{Infinity(true), Infinity(false), false, false}};
    case Op::kSymbol:
      if (ex_.text(id) != "R") return std::nullopt;
      return RealSet{{Infinity(true), Infinity(false), false, false}};
    case Op::kTuple: {
      if (ex_.children(id).size() != 2) return std::nullopt;
      const uint32_t closed = ex_.node(id).payload;
      if (scalars_.Order(ex_.child(id, 0), ex_.child(id, 1)) > 0) return std::nullopt;  // a point
      return Normalised(
          {{ex_.child(id, 0), ex_.child(id, 1), (closed & 1) != 0, (closed & 2) != 0}});
    }
    case Op::kSet: {
      RealSet points;
      for (NodeId point : ex_.children(id)) points.push_back({point, point, true, true});
      return Normalised(std::move(points));
    }
    case Op::kUnion:
      return both([&](RealSet a, const RealSet& b) {
        a.insert(a.end(), b.begin(), b.end());
        return Normalised(std::move(a));
      });
    case Op::kIntersection:
      return both([&](const RealSet& a, const RealSet& b) { return Intersect(a, b); });
    case Op::kDifference:
      return both([&](const RealSet& a, const RealSet& b) { return Intersect(a, Complement(b)); });
    case Op::kRelation:
      return FromRelation(id);
    default:
      return std::nullopt;
  }
}

std::optional<RealSet> RealSetBuilder::FromRelation(NodeId id) {
  const std::vector<NodeId> sides(ex_.children(id).begin(), ex_.children(id).end());
  const std::string relations = ex_.text(id);
  std::optional<RealSet> total;
  for (size_t i = 0; i < relations.size(); ++i) {
    const auto part = FromPair(sides[i], relations[i], sides[i + 1]);
    if (!part) return std::nullopt;
    total = total ? Intersect(*total, *part) : part;
    if (!total) return std::nullopt;
  }
  return total;
}

std::optional<RealSet> RealSetBuilder::FromPair(NodeId left, char relation, NodeId right) {
  if (relation == 'i') {
    if (ex_.op(left) != Op::kSymbol) return std::nullopt;
    variable_ = left;
    return Build(right);
  }
  if (ex_.op(left) != Op::kSymbol) {  // 3 < x is x > 3
    std::swap(left, right);
    relation = relation == '<'   ? '>'
               : relation == '>' ? '<'
               : relation == 'l' ? 'g'
               : relation == 'g' ? 'l'
                                 : relation;
  }
  if (ex_.op(left) != Op::kSymbol || ex_.node(right).traits.symbols) return std::nullopt;
  if (variable_ != kNoNode && variable_ != left) return std::nullopt;
  variable_ = left;
  switch (relation) {
    case '<':
    case 'l':
      return RealSet{{Infinity(true), right, false, relation == 'l'}};
    case '>':
    case 'g':
      return RealSet{{right, Infinity(false), relation == 'g', false}};
    case '=':
      return RealSet{{right, right, true, true}};
    case 'n':
      return Complement({{right, right, true, true}});
    default:
      return std::nullopt;
  }
}

// Without empty intervals, in order, touching ones merged.
std::optional<RealSet> RealSetBuilder::Normalised(RealSet intervals) {
  if (intervals.size() > kIntervalsMax) return std::nullopt;
  RealSet kept;
  for (Interval interval : intervals) {
    if (ex_.node(interval.low).traits.infinite) interval.closed_low = false;
    if (ex_.node(interval.high).traits.infinite) interval.closed_high = false;
    const int order = scalars_.Order(interval.low, interval.high);
    if (order == 2) return std::nullopt;
    if (order < 0 || (order == 0 && interval.closed_low && interval.closed_high))
      kept.push_back(interval);
  }
  // Insertion sort: the order is costly and may be unknown.
  for (size_t i = 1; i < kept.size(); ++i) {
    for (size_t j = i; j > 0; --j) {
      const int order = scalars_.Order(kept[j].low, kept[j - 1].low);
      if (order == 2) return std::nullopt;
      if (order > 0 || (order == 0 && !(kept[j].closed_low && !kept[j - 1].closed_low))) break;
      std::swap(kept[j], kept[j - 1]);
    }
  }
  RealSet merged;
  for (const Interval& next : kept) {
    if (!merged.empty()) {
      Interval& last = merged.back();
      const int gap = scalars_.Order(next.low, last.high);
      if (gap == 2) return std::nullopt;
      if (gap < 0 || (gap == 0 && (next.closed_low || last.closed_high))) {
        const int further = scalars_.Order(next.high, last.high);
        if (further == 2) return std::nullopt;
        if (further > 0) {
          last.high = next.high;
          last.closed_high = next.closed_high;
        } else if (further == 0) {
          last.closed_high |= next.closed_high;
        }
        continue;
      }
    }
    merged.push_back(next);
  }
  return merged;
}

std::optional<RealSet> RealSetBuilder::Intersect(const RealSet& a, const RealSet& b) {
  RealSet parts;
  for (const Interval& x : a) {
    for (const Interval& y : b) {
      const int low = scalars_.Order(x.low, y.low), high = scalars_.Order(x.high, y.high);
      if (low == 2 || high == 2 || parts.size() > kIntervalsMax) return std::nullopt;
      Interval part;
      part.low = low >= 0 ? x.low : y.low;
      part.closed_low = low > 0   ? x.closed_low
                        : low < 0 ? y.closed_low
                                  : x.closed_low && y.closed_low;
      part.high = high <= 0 ? x.high : y.high;
      part.closed_high = high < 0   ? x.closed_high
                         : high > 0 ? y.closed_high
                                    : x.closed_high && y.closed_high;
      parts.push_back(part);
    }
  }
  return Normalised(std::move(parts));
}

RealSet RealSetBuilder::Complement(const RealSet& set) {
  RealSet gaps;
  NodeId low = Infinity(true);
  bool closed = false;
  for (const Interval& interval : set) {
    if (interval.low != low) gaps.push_back({low, interval.low, closed, !interval.closed_low});
    low = interval.high;
    closed = !interval.closed_high;
  }
  if (low != Infinity(false)) gaps.push_back({low, Infinity(false), closed, false});
  return gaps;
}

}  // namespace crescendo
