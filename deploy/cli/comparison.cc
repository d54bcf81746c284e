#include "deploy/cli/comparison.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "deploy/cli/live_view.h"

namespace crescendo {
namespace {

double CostOf(const CurvePoint& point, bool over_tokens) {
  return over_tokens ? point.tokens : point.seconds;
}

// pass@1 at a cost within the curve.
double PassAt(const std::vector<CurvePoint>& curve, double x, bool over_tokens) {
  for (size_t i = 1; i < curve.size(); ++i) {
    const double x0 = CostOf(curve[i - 1], over_tokens), x1 = CostOf(curve[i], over_tokens);
    if (x > x1) continue;
    const double share = x1 > x0 ? (x - x0) / (x1 - x0) : 1;
    return curve[i - 1].pass_at_1 + share * (curve[i].pass_at_1 - curve[i - 1].pass_at_1);
  }
  return curve.empty() ? 0 : curve.back().pass_at_1;
}

std::vector<const ArmRun*> RunsOf(const std::vector<ArmRun>& runs, absl::string_view arm) {
  std::vector<const ArmRun*> found;
  for (const ArmRun& run : runs) {
    if (run.arm == arm && !run.curve.empty()) found.push_back(&run);
  }
  return found;
}

Spread EndOf(const std::vector<ArmRun>& runs, absl::string_view arm) {
  std::vector<double> ends;
  for (const ArmRun* run : RunsOf(runs, arm)) ends.push_back(run->curve.back().pass_at_1);
  return SpreadOf(ends);
}

ArmLevel LevelOfArm(const std::vector<ArmRun>& runs, const std::string& arm, double level) {
  ArmLevel out;
  out.arm = arm;
  std::vector<double> tokens, seconds;
  for (const ArmRun* run : RunsOf(runs, arm)) {
    ++out.runs;
    out.costs.push_back(CostToReach(run->curve, level));
    if (!out.costs.back()) continue;
    tokens.push_back(out.costs.back()->tokens);
    seconds.push_back(out.costs.back()->seconds);
  }
  out.tokens = SpreadOf(tokens);
  out.seconds = SpreadOf(seconds);
  return out;
}

void AddRatios(const std::vector<ArmRun>& runs, absl::string_view over, absl::string_view under,
               LevelRow& row) {
  std::vector<double> tokens, seconds;
  for (const ArmRun* a : RunsOf(runs, over)) {
    for (const ArmRun* b : RunsOf(runs, under)) {
      if (a->seed != b->seed) continue;
      const auto cost_a = CostToReach(a->curve, row.level),
                 cost_b = CostToReach(b->curve, row.level);
      if (!cost_a || !cost_b) continue;
      if (cost_b->tokens > 0) tokens.push_back(cost_a->tokens / cost_b->tokens);
      if (cost_b->seconds > 0) seconds.push_back(cost_a->seconds / cost_b->seconds);
    }
  }
  row.token_ratio = SpreadOf(tokens);
  row.second_ratio = SpreadOf(seconds);
}

std::string LevelSentence(const LevelRow& row, const std::string& over, const std::string& under) {
  if (row.token_ratio.count == 0) {
    return absl::StrFormat(
        "To reach %.2f there is nothing to compare: no seed got there in both arms. ", row.level);
  }
  const char* verdict = row.token_ratio.min > 1   ? ""
                        : row.token_ratio.max < 1 ? " - it was the cheaper one"
                                                  : " - the seeds do not agree on who was cheaper";
  const std::string seeds =
      row.token_ratio.count == 1
          ? std::string("one seed")
          : absl::StrCat("mean and range of ", row.token_ratio.count, " seeds");
  return absl::StrFormat(
      "To reach %.2f, %s took %s times the tokens and %s times the seconds of %s (%s)%s. ",
      row.level, over, SpreadText(row.token_ratio, 2), SpreadText(row.second_ratio, 2), under,
      seeds, verdict);
}

}  // namespace

std::optional<Cost> CostToReach(const std::vector<CurvePoint>& curve, double level) {
  for (size_t i = 0; i < curve.size(); ++i) {
    if (curve[i].pass_at_1 < level) continue;
    if (i == 0) return Cost{curve[0].tokens, curve[0].seconds};
    const CurvePoint &a = curve[i - 1], &b = curve[i];
    const double share = (level - a.pass_at_1) / (b.pass_at_1 - a.pass_at_1);
    return Cost{a.tokens + share * (b.tokens - a.tokens),
                a.seconds + share * (b.seconds - a.seconds)};
  }
  return std::nullopt;
}

Spread SpreadOf(const std::vector<double>& values) {
  Spread spread;
  for (const double value : values) {
    spread.min = spread.count == 0 ? value : std::min(spread.min, value);
    spread.max = spread.count == 0 ? value : std::max(spread.max, value);
    spread.mean += value / static_cast<double>(values.size());
    ++spread.count;
  }
  return spread;
}

std::vector<LevelRow> CompareLevels(const std::vector<ArmRun>& runs,
                                    const std::vector<std::string>& arms,
                                    const std::vector<double>& levels, absl::string_view over,
                                    absl::string_view under) {
  std::vector<LevelRow> rows;
  for (const double level : levels) {
    LevelRow row;
    row.level = level;
    for (const std::string& arm : arms) row.arms.push_back(LevelOfArm(runs, arm, level));
    AddRatios(runs, over, under, row);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<BandPoint> MeanCurve(const std::vector<ArmRun>& runs, absl::string_view arm,
                                 bool over_tokens, int points) {
  const std::vector<const ArmRun*> chosen = RunsOf(runs, arm);
  std::vector<BandPoint> curve;
  if (chosen.empty()) return curve;
  double end = CostOf(chosen[0]->curve.back(), over_tokens);
  for (const ArmRun* run : chosen) end = std::min(end, CostOf(run->curve.back(), over_tokens));
  for (int i = 0; i < points; ++i) {
    BandPoint point;
    point.x = end * i / std::max(1, points - 1);
    std::vector<double> values;
    values.reserve(chosen.size());
    for (const ArmRun* run : chosen) values.push_back(PassAt(run->curve, point.x, over_tokens));
    point.pass_at_1 = SpreadOf(values);
    curve.push_back(point);
  }
  return curve;
}

std::string SpreadText(const Spread& spread, int digits) {
  if (spread.count == 0) return "-";
  if (digits == 0) {
    if (spread.count == 1) return FormatCount(spread.mean);
    return absl::StrCat(FormatCount(spread.mean), " (", FormatCount(spread.min), " to ",
                        FormatCount(spread.max), ")");
  }
  if (spread.count == 1) return absl::StrFormat("%.*f", digits, spread.mean);
  return absl::StrFormat("%.*f (%.*f to %.*f)", digits, spread.mean, digits, spread.min, digits,
                         spread.max);
}

std::string OutcomeWords(const std::vector<ArmRun>& runs, const std::vector<std::string>& arms,
                         const std::vector<LevelRow>& rows) {
  if (arms.size() < 2) return "";
  std::string words;
  for (const LevelRow& row : rows) words += LevelSentence(row, arms[1], arms[0]);
  for (const std::string& arm : arms) {
    const Spread end = EndOf(runs, arm);
    absl::StrAppendFormat(&words, "%s ended at %s. ", arm, SpreadText(end, 3));
  }
  const Spread first = EndOf(runs, arms[0]), second = EndOf(runs, arms[1]);
  if (first.count > 0 && second.count > 0) {
    const bool apart = first.min > second.max || second.min > first.max;
    const std::string& higher = first.mean > second.mean ? arms[0] : arms[1];
    if (first.count + second.count == 2) {
      absl::StrAppend(&words, higher, " ended higher, with one seed, which shows little.");
    } else if (apart) {
      absl::StrAppend(&words, higher, " ended higher with every seed.");
    } else {
      absl::StrAppend(&words, "Their ends overlap: which of ", arms[0], " and ", arms[1],
                      " ends higher, these runs do not show.");
    }
  }
  return words;
}

}  // namespace crescendo
