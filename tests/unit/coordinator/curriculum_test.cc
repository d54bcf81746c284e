// The rules that end a stage, on traces shaped like real ones, and how often noise alone fires
// them.
#include "services/coordinator/curriculum.h"

#include <cmath>
#include <functional>

#include "absl/strings/match.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"

namespace crescendo {
namespace {

CurriculumOptions Only(CurriculumRule rule) {
  CurriculumOptions options;
  options.length_rule = rule == CurriculumRule::kLength;
  options.truncation_rule = rule == CurriculumRule::kTruncation;
  options.plateau_rule = rule == CurriculumRule::kPlateau;
  return options;
}

// The number of steps after which the stage ends; -1 when it does not.
int FiresAt(const CurriculumOptions& options, const std::vector<StageStep>& trace,
            std::string* reason = nullptr) {
  for (size_t n = 0; n <= trace.size(); ++n) {
    const auto decision =
        DecideStageEnd(options, 0, 3, static_cast<int64_t>(n), absl::MakeConstSpan(trace).first(n));
    if (!decision) continue;
    if (reason != nullptr) *reason = decision->reason;
    return static_cast<int>(n);
  }
  return -1;
}

std::vector<StageStep> Trace(int steps, const std::function<StageStep(int)>& at) {
  std::vector<StageStep> trace;
  for (int i = 0; i < steps; ++i) trace.push_back(at(i));
  return trace;
}

// How many of 1,000 seeds fire within `steps`.
int Alarms(const CurriculumOptions& options, int steps,
           const std::function<StageStep(int, CounterRng&)>& at) {
  int alarms = 0;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    CounterRng rng(seed);
    alarms += FiresAt(options, Trace(steps, [&](int i) { return at(i, rng); })) >= 0 ? 1 : 0;
  }
  return alarms;
}

// DeepScaleR's 8K stage, 1,040 steps: clipped responses fell from 12% to 4.2% over the first half,
// then climbed to 6.5%; 1,024 samples a step.
double PublishedTruncation(int step) {
  if (step < 500) return 0.042 + 0.078 * std::exp(-step / 120.0);
  return 0.042 + 0.023 * (step - 500) / 540.0;
}

TEST_CASE("truncation: fires on the published shape, after the turn and before its end") {
  CurriculumOptions options = Only(CurriculumRule::kTruncation);
  int fired = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    CounterRng rng(seed);
    std::string reason;
    const int at = FiresAt(options,
                           Trace(1040,
                                 [&](int i) {
                                   const double p = PublishedTruncation(i);
                                   StageStep step;
                                   step.truncation_ratio =
                                       p + std::sqrt(p * (1 - p) / 1024) * rng.Normal();
                                   return step;
                                 }),
                           &reason);
    INFO("seed " << seed << " fired at " << at << ": " << reason);
    if (at < 0) continue;
    ++fired;
    REQUIRE(at > 600);  // the turn is at 500, the rise of .02 complete at 970
    REQUIRE(absl::StrContains(reason, "bottomed out and risen"));
  }
  REQUIRE(fired >= 95);
}

TEST_CASE("truncation: without noise it fires when the rise is the margin, at two steps in a row") {
  CurriculumOptions options = Only(CurriculumRule::kTruncation);
  options.truncation_window = 1;
  const auto trace = Trace(60, [](int i) {
    StageStep step;
    step.truncation_ratio = i < 20 ? 0.30 - 0.001 * i : 0.281 + 0.0011 * (i - 19);
    return step;
  });
  // 0.281 at step 19; +0.02 is passed at step 38, which is the 39th, and one more to be sure.
  REQUIRE(FiresAt(options, trace) == 40);
}

TEST_CASE("truncation: a flat noisy trace does not fire it") {
  // Binomial noise of 1,024 samples a step at 5%, 500 steps; of 256 at 30%, 60 steps.
  const auto flat = [](double p, int samples) {
    return [=](int, CounterRng& rng) {
      StageStep step;
      step.truncation_ratio = p + std::sqrt(p * (1 - p) / samples) * rng.Normal();
      return step;
    };
  };
  const CurriculumOptions options = Only(CurriculumRule::kTruncation);
  const int published = Alarms(options, 500, flat(0.05, 1024));
  const int demo = Alarms(options, 60, flat(0.30, 256));
  WARN("truncation, flat: " << published << " and " << demo << " false alarms of 1,000 seeds");
  REQUIRE(published <= 10);
  REQUIRE(demo <= 10);
}

TEST_CASE("truncation: a falling trace does not fire it") {
  const int alarms = Alarms(Only(CurriculumRule::kTruncation), 500, [](int i, CounterRng& rng) {
    const double p = 0.042 + 0.078 * std::exp(-i / 120.0);
    StageStep step;
    step.truncation_ratio = p + std::sqrt(p * (1 - p) / 1024) * rng.Normal();
    return step;
  });
  REQUIRE(alarms <= 10);
}

TEST_CASE("length: fires when the fall ends, at the exact step") {
  const CurriculumOptions options = Only(CurriculumRule::kLength);
  std::string reason;
  const auto trace = Trace(20, [](int i) {
    StageStep step;
    step.response_tokens_mean = i < 8 ? 45 - 2.5 * i : 25;
    return step;
  });
  // Windows of 3: 25, 25, 25 over 30, 27.5, 25 is .909; over 27.5, 25, 25 it is .968; then 1.
  REQUIRE(FiresAt(options, trace, &reason) == 14);
  REQUIRE(absl::StrContains(reason, "stopped falling: 25.0 tokens over the last 3 steps"));
}

// The demo's first stage (notes of the prototype: 40 tokens over steps 0-4, 31 over 5-9, 32 after).
StageStep DemoStep(int step, CounterRng& rng) {
  StageStep out;
  out.response_tokens_mean = 31 + 16 * std::exp(-step / 2.5) + 0.4 * rng.Normal();
  return out;
}

TEST_CASE("length: leaves the demo's first stage at steps 8 to 15") {
  const CurriculumOptions options = Only(CurriculumRule::kLength);
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    CounterRng rng(seed);
    const int at = FiresAt(options, Trace(40, [&](int i) { return DemoStep(i, rng); }));
    INFO("seed " << seed);
    REQUIRE(at >= 8);
    REQUIRE(at <= 15);
  }
}

// What the length rule looks for is a flat length; its false alarm is one while the length falls.
// With 1% noise a fall of 3% a step is told from a flat one at every step of 40.
TEST_CASE("length: a falling noisy trace does not fire it") {
  const int alarms = Alarms(Only(CurriculumRule::kLength), 40, [](int i, CounterRng& rng) {
    StageStep step;
    step.response_tokens_mean = 1000 * std::pow(0.97, i) * (1 + 0.01 * rng.Normal());
    return step;
  });
  WARN("length, falling by 3% a step: " << alarms << " false alarms of 1,000 seeds");
  REQUIRE(alarms <= 10);
}

TEST_CASE("plateau: fires on a pass rate that has stopped rising") {
  const CurriculumOptions options = Only(CurriculumRule::kPlateau);
  const auto trace = Trace(80, [](int i) {
    StageStep step;
    step.pass_rate = i < 30 ? 0.3 + 0.01 * i : 0.6;
    return step;
  });
  const int at = FiresAt(options, trace);
  REQUIRE(at >= 50);  // 20 flat steps, and one more to be sure
  REQUIRE(at <= 52);
}

// What the plateau rule looks for is a flat pass rate; its false alarm is one while it rises. A
// rise of .005 a step under the noise of 256 samples.
TEST_CASE("plateau: a rising noisy trace does not fire it") {
  const int alarms = Alarms(Only(CurriculumRule::kPlateau), 100, [](int i, CounterRng& rng) {
    StageStep step;
    step.pass_rate = 0.3 + 0.005 * i + 0.03 * rng.Normal();
    return step;
  });
  WARN("plateau, rising by .005 a step: " << alarms << " false alarms of 1,000 seeds");
  REQUIRE(alarms <= 10);
}

TEST_CASE("a rule must hold at as many steps in a row as its confirm says") {
  CurriculumOptions options = Only(CurriculumRule::kLength);
  // Falls, stands still for one step, falls again, and then stands still for good.
  const auto trace = Trace(40, [](int i) {
    StageStep step;
    step.response_tokens_mean = i < 10   ? 100 - 3 * i
                                : i < 13 ? 73
                                : i < 20 ? 73 - 3 * (i - 12)
                                         : 52;
    return step;
  });
  const int once = FiresAt(options, trace);
  options.length_confirm = 5;
  const int confirmed = FiresAt(options, trace);
  INFO("once " << once << ", confirmed " << confirmed);
  REQUIRE(once > 10);
  REQUIRE(once < 16);
  REQUIRE(confirmed > 20);
  REQUIRE(FiresAt(options, std::vector<StageStep>(trace.begin(), trace.begin() + 20)) == -1);
}

TEST_CASE("a stage's own minimum of steps; what a rule sees is told") {
  CurriculumOptions options = Only(CurriculumRule::kLength);
  options.stage_min_steps = {9, 0};
  options.max_steps = {20};
  const std::vector<StageStep> flat(20, StageStep{100, 0.5, 0.5});
  REQUIRE(FiresAt(options, flat) == 9);
  REQUIRE(DecideStageEnd(options, 1, 3, 6, absl::MakeConstSpan(flat).first(6)));
  const auto rules = ReadRules(options, 0, 7, absl::MakeConstSpan(flat).first(7));
  REQUIRE(rules.size() == 4);
  REQUIRE(rules[0].rule == CurriculumRule::kLength);
  REQUIRE(rules[0].value == 1);
  REQUIRE(rules[0].threshold == options.length_ratio);
  REQUIRE(rules[0].held == 1);
  REQUIRE_FALSE(rules[1].enabled);
  REQUIRE(std::isnan(rules[1].value));
  REQUIRE(rules[3].rule == CurriculumRule::kCap);
  REQUIRE(rules[3].value == 7);
  REQUIRE(rules[3].threshold == 20);
  REQUIRE(rules[3].held == 0);
}

TEST_CASE("cap, minimum of steps, switched-off rules, and the last stage") {
  CurriculumOptions options = Only(CurriculumRule::kLength);
  options.max_steps = {10, 0};
  const std::vector<StageStep> flat(20, StageStep{100, 0.5, 0.5});
  const auto decide = [&](int stage, int64_t planned, size_t trained) {
    return DecideStageEnd(options, stage, 3, planned, absl::MakeConstSpan(flat).first(trained));
  };
  REQUIRE_FALSE(decide(0, 5, 5));  // fewer than min_steps
  REQUIRE(decide(0, 6, 6)->rule == CurriculumRule::kLength);
  options.min_steps = 12;
  REQUIRE(decide(0, 10, 10)->rule == CurriculumRule::kCap);  // asked at any time
  REQUIRE_FALSE(decide(1, 11, 11));                          // 0: no cap
  options.length_rule = false;
  REQUIRE_FALSE(decide(1, 20, 20));
  options.length_rule = true;
  REQUIRE_FALSE(decide(2, 1000, 20));  // the last stage
  REQUIRE(decide(0, 10, 0)->reason == "cap: 10 steps of at most 10");
}

}  // namespace
}  // namespace crescendo
