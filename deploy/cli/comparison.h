// What arms of a comparison cost to reach levels of accuracy. Pure: curves in, figures and words
// out.
#ifndef CRESCENDO_DEPLOY_CLI_COMPARISON_H_
#define CRESCENDO_DEPLOY_CLI_COMPARISON_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace crescendo {

// One evaluation on the way. Costs are those of training so far, evaluations left out.
struct CurvePoint {
  double tokens = 0;
  double seconds = 0;
  double pass_at_1 = 0;
};

// The run of one arm with one seed; points by rising cost.
struct ArmRun {
  std::string arm;
  uint64_t seed = 0;
  std::vector<CurvePoint> curve;
};

struct Cost {
  double tokens = 0;
  double seconds = 0;
};

// What it took until the curve first reached `level`, on the line between the two evaluations
// around it; nullopt when it never did.
std::optional<Cost> CostToReach(const std::vector<CurvePoint>& curve, double level);

struct Spread {
  int count = 0;  // of values; 0: the others mean nothing
  double mean = 0;
  double min = 0;
  double max = 0;
};
Spread SpreadOf(const std::vector<double>& values);

// One level: each arm's cost over the seeds that reached it, and what the second arm cost over the
// first, seed by seed, where both reached it.
struct ArmLevel {
  std::string arm;
  int runs = 0;
  std::vector<std::optional<Cost>> costs;  // in the order of the arm's runs
  Spread tokens;
  Spread seconds;
};
struct LevelRow {
  double level = 0;
  std::vector<ArmLevel> arms;
  Spread token_ratio;
  Spread second_ratio;
};

// Rows for `levels`; the ratios are `over` to `under` of the same seed.
std::vector<LevelRow> CompareLevels(const std::vector<ArmRun>& runs,
                                    const std::vector<std::string>& arms,
                                    const std::vector<double>& levels, absl::string_view over,
                                    absl::string_view under);

// The mean curve of an arm with its least and greatest value, at `points` costs from 0 to the least
// of its runs' last costs. x is tokens or seconds.
struct BandPoint {
  double x = 0;
  Spread pass_at_1;
};
std::vector<BandPoint> MeanCurve(const std::vector<ArmRun>& runs, absl::string_view arm,
                                 bool over_tokens, int points);

// The outcome in sentences, for and against: what was saved, how sure that is, who ended higher.
std::string OutcomeWords(const std::vector<ArmRun>& runs, const std::vector<std::string>& arms,
                         const std::vector<LevelRow>& rows);

// "1.83 (1.59 to 2.10)", "-" for nothing.
std::string SpreadText(const Spread& spread, int digits);

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_COMPARISON_H_
