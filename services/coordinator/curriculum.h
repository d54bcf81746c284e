// When a stage ends: pure rules over the trace of the stage's trained steps.
//
//  - length: the mean response length has stopped falling. Holds when the mean of the last window
//    exceeds ratio x the mean of the window before. (The rule that worked best for the demo.)
//  - truncation: the truncation ratio has bottomed out and risen again, the sign that DeepScaleR
//    switched on (4.2% -> 6.5%). At the widths window, 2 window, 4 window, ... the mean of the last
//    width steps is compared with the lowest mean of as many earlier steps; holds when the rise is
//    at least the margin and above what noise makes in a trace of this length:
//        rise > 2 s sqrt(2 ln(n / 0.01)) / sqrt(width),   s^2 = mean((x[i+1] - x[i])^2) / 2
//    (the range of n Gaussian means, by the union bound; s from successive differences, which a
//    slow trend does not inflate).
//  - plateau: the pass rate is flat. Holds when the upper 95% bound (Student's t) of the least
//    squares slope over the window is not above min_slope.
//  - cap: so many steps of the stage were planned.
//
// A rule ends the stage when it holds at as many steps in a row as its confirm says. No rule but
// the cap is asked before min_steps steps of the stage. The last stage never ends. What a rule
// looks for is not noise to it: a flat length is the length rule's signal, a flat pass rate the
// plateau rule's (tests/unit/coordinator/curriculum_test.cc measures the false alarms of each).
//
// Thread-safe: no state.
#ifndef CRESCENDO_SERVICES_COORDINATOR_CURRICULUM_H_
#define CRESCENDO_SERVICES_COORDINATOR_CURRICULUM_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace crescendo {

struct CurriculumOptions {
  int min_steps = 6;
  std::vector<int> stage_min_steps;  // a stage; missing or 0: min_steps
  std::vector<int> max_steps;        // a stage; missing or 0: no cap
  bool length_rule = true;
  int length_window = 3;  // >= 1
  double length_ratio = 0.97;
  int length_confirm = 1;  // >= 1
  bool truncation_rule = true;
  int truncation_window = 3;  // >= 1
  double truncation_margin = 0.02;
  int truncation_confirm = 2;
  bool plateau_rule = false;
  int plateau_window = 20;  // >= 3
  double plateau_min_slope = 0.0005;
  int plateau_confirm = 2;
};

enum class CurriculumRule : uint8_t { kCap, kLength, kTruncation, kPlateau };
// "cap", "length", "truncation", "plateau".
const char* CurriculumRuleName(CurriculumRule rule);

// One trained step of the stage.
struct StageStep {
  double response_tokens_mean = 0;
  double truncation_ratio = 0;
  double pass_rate = 0;
};

struct StageDecision {
  CurriculumRule rule = CurriculumRule::kCap;
  std::string reason;  // the rule with its inputs, for people
};

// A rule over the trace so far.
struct RuleReading {
  CurriculumRule rule = CurriculumRule::kCap;
  bool enabled = false;
  // What it looks at: steps planned; ratio of the lengths; rise of the truncation ratio; upper
  // bound of the slope. NaN: too few steps.
  double value = 0;
  double threshold = 0;  // it holds above (plateau: at most at) this
  int held = 0;          // steps in a row, up to `confirm`
  int confirm = 1;
  std::string inputs;  // in words; empty: too few steps
};

// All rules, in the order in which they are asked.
std::vector<RuleReading> ReadRules(const CurriculumOptions& options, int stage, int64_t planned,
                                   absl::Span<const StageStep> trace);

// Whether stage `stage` of `stages` ends now: `trace` holds its trained steps in order, `planned`
// counts its planned ones (>= trace.size()). nullopt: it goes on.
std::optional<StageDecision> DecideStageEnd(const CurriculumOptions& options, int stage, int stages,
                                            int64_t planned, absl::Span<const StageStep> trace);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_CURRICULUM_H_
