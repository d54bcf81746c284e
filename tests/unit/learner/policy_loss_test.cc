// The policy loss against a reference written from the papers in double, its gradient against
// finite differences, and its independence of how tokens are packed.
#include "services/learner/policy_loss.h"

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "catch2/catch.hpp"
#include "common/base/rng.h"

namespace crescendo {
namespace {

struct Fixture {
  std::vector<float> log_probs, old_log_probs, behavior, reference;
  std::vector<LossSample> samples;
  PolicyLossInput Input(bool with_reference = false, bool with_behavior = false) const {
    PolicyLossInput input;
    input.log_probs = log_probs;
    input.old_log_probs = old_log_probs;
    if (with_behavior) input.behavior_log_probs = behavior;
    if (with_reference) input.reference_log_probs = reference;
    input.samples = samples;
    return input;
  }
};

// Ratios on both sides of the clip, advantages of both signs, prompt tokens between the samples.
Fixture MakeFixture(uint64_t seed) {
  CounterRng rng(seed);
  Fixture fixture;
  const std::vector<int> lengths = {7, 1, 12, 5, 9};
  const int gap = 3;
  int total = 0;
  for (const int length : lengths) total += gap + length;
  size_t tokens = 0;
  for (const int length : lengths) {
    LossSample sample;
    sample.begin = tokens + gap;
    sample.end = sample.begin + length;
    sample.advantage = rng.Normal();
    sample.token_weight = 1.0 / (total - gap * static_cast<int>(lengths.size()));
    tokens = sample.end;
    fixture.samples.push_back(sample);
  }
  for (size_t t = 0; t < tokens; ++t) {
    const double log_prob = -2 * rng.Uniform();
    fixture.log_probs.push_back(static_cast<float>(log_prob));
    fixture.old_log_probs.push_back(static_cast<float>(log_prob + 0.3 * rng.Normal()));
    fixture.behavior.push_back(fixture.old_log_probs.back() +
                               static_cast<float>(0.5 * rng.Normal()));
    fixture.reference.push_back(static_cast<float>(log_prob + 0.4 * rng.Normal()));
  }
  return fixture;
}

// Written from the papers, with nothing of the implementation: the loss as a function of doubles.
// `fixed` are the log-probs behind a stop-gradient.
double Reference(const Fixture& f, const std::vector<double>& x, const std::vector<double>& fixed,
                 const PolicyLossOptions& o, bool with_reference, bool with_behavior) {
  double loss = 0;
  for (const LossSample& s : f.samples) {
    double mean = 0;
    for (size_t t = s.begin; t < s.end; ++t)
      mean += (x[t] - f.old_log_probs[t]) / (s.end - s.begin);
    for (size_t t = s.begin; t < s.end; ++t) {
      const double ratio =
          std::exp(o.ratio == RatioKind::kSequence ? mean : x[t] - f.old_log_probs[t]);
      const double low = 1 - o.clip_low;
      const double high = 1 + o.clip_high;
      const double clipped = ratio < low ? low : ratio > high ? high : ratio;
      double objective = std::min(ratio * s.advantage, clipped * s.advantage);
      if (o.dual_clip > 0 && s.advantage < 0) {
        objective = std::max(objective, o.dual_clip * s.advantage);
      }
      if (o.ratio == RatioKind::kCispo) {
        const double held = std::exp(fixed[t] - f.old_log_probs[t]);
        objective = (held < low ? low : held > high ? high : held) * s.advantage * x[t];
      }
      if (with_behavior) {
        const double difference = f.old_log_probs[t] - f.behavior[t];
        const double u = std::exp(difference);
        const bool above = o.importance_cap > 0 && u > o.importance_cap;
        if (o.off_policy == OffPolicy::kTruncated) objective *= std::min(o.importance_cap, u);
        if (o.off_policy == OffPolicy::kDecoupled) objective *= above ? 0 : u;
      }
      double kl = 0;
      if (with_reference) {
        const double d = f.reference[t] - x[t];
        kl = o.kl_estimator == KlEstimator::kK1   ? -d
             : o.kl_estimator == KlEstimator::kK2 ? d * d / 2
                                                  : std::exp(d) - d - 1;
      }
      loss += s.token_weight * (-objective + o.kl_coefficient * kl);
    }
  }
  return loss;
}

void CheckAgainstReference(const PolicyLossOptions& options, bool with_reference,
                           bool with_behavior) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    INFO("seed " << seed);
    const Fixture fixture = MakeFixture(seed);
    const PolicyLossResult result =
        PolicyLoss(fixture.Input(with_reference, with_behavior), options);
    std::vector<double> x(fixture.log_probs.begin(), fixture.log_probs.end());
    const std::vector<double> fixed = x;
    const auto loss = [&] {
      return Reference(fixture, x, fixed, options, with_reference, with_behavior);
    };
    CHECK(result.stats.loss == Approx(loss()).margin(1e-12));
    for (size_t t = 0; t < x.size(); ++t) {
      const double h = 1e-6;
      const double at = x[t];
      x[t] = at + h;
      const double above = loss();
      x[t] = at - h;
      const double below = loss();
      x[t] = at;
      INFO("token " << t);
      CHECK(result.gradient[t] == Approx((above - below) / (2 * h)).margin(1e-7));
    }
  }
}

TEST_CASE("The clipped surrogate equals the papers' formula, value and slope") {
  PolicyLossOptions options;
  SECTION("symmetric") {}
  SECTION("clip-higher") { options.clip_high = 0.28; }
  SECTION("dual clip") { options.dual_clip = 1.3; }
  SECTION("sequence ratio") { options.ratio = RatioKind::kSequence; }
  SECTION("sequence ratio, tight clip") {
    options.ratio = RatioKind::kSequence;
    options.clip_low = options.clip_high = 0.01;
  }
  SECTION("CISPO") { options.ratio = RatioKind::kCispo; }
  CheckAgainstReference(options, false, false);
}

TEST_CASE("The KL estimates and importance weights equal their formulas") {
  PolicyLossOptions options;
  options.kl_coefficient = 0.3;
  options.kl_estimator = GENERATE(KlEstimator::kK1, KlEstimator::kK2, KlEstimator::kK3);
  options.ratio = GENERATE(RatioKind::kToken, RatioKind::kSequence);
  options.off_policy = GENERATE(OffPolicy::kNone, OffPolicy::kTruncated, OffPolicy::kDecoupled);
  options.importance_cap = options.off_policy == OffPolicy::kDecoupled ? GENERATE(0.0, 1.2) : 1.2;
  CheckAgainstReference(options, true, true);
}

TEST_CASE("On policy the loss is minus the mean advantage and its slope the policy gradient") {
  Fixture fixture = MakeFixture(3);
  fixture.old_log_probs = fixture.log_probs;
  const PolicyLossResult result = PolicyLoss(fixture.Input(), {});
  double expected = 0;
  for (const LossSample& s : fixture.samples) {
    expected -= s.token_weight * s.advantage * static_cast<double>(s.end - s.begin);
    for (size_t t = s.begin; t < s.end; ++t) {
      CHECK(result.gradient[t] == static_cast<float>(-s.token_weight * s.advantage));
    }
  }
  CHECK(result.stats.loss == Approx(expected).epsilon(1e-12));
  CHECK(result.stats.clip_ratio() == 0);
  CHECK(result.stats.ratio_max == 1);
  CHECK(result.stats.tokens == 34);
}

TEST_CASE("Clipped tokens are counted by side and have no gradient") {
  Fixture fixture;
  const float up = std::log(1.5f);
  const float down = std::log(0.5f);
  fixture.log_probs = {up, down, up, down, 0};
  fixture.old_log_probs = {0, 0, 0, 0, 0};
  fixture.samples = {{0, 2, 1.0, 0.2}, {2, 5, -1.0, 0.2}};
  const PolicyLossResult result = PolicyLoss(fixture.Input(), {});
  CHECK(result.stats.clipped_high == 1);  // up, with a positive advantage
  CHECK(result.stats.clipped_low == 1);   // down, with a negative one
  CHECK(result.stats.clip_ratio() == Approx(0.4));
  CHECK(result.gradient[0] == 0.0f);
  CHECK(result.gradient[1] == Approx(-0.2 * 0.5));
  CHECK(result.gradient[2] == Approx(0.2 * 1.5));
  CHECK(result.gradient[3] == 0.0f);
  CHECK(result.gradient[4] == Approx(0.2));
  CHECK(result.stats.loss == Approx(0.2 * (-1.2 - 0.5 + 1.5 + 0.8 + 1.0)));
}

TEST_CASE("Splitting samples over micro-batches changes neither loss nor gradient") {
  const Fixture fixture = MakeFixture(9);
  PolicyLossOptions options;
  options.kl_coefficient = 0.1;
  const PolicyLossResult whole = PolicyLoss(fixture.Input(true), options);
  PolicyLossStats sum;
  std::vector<float> gradient(fixture.log_probs.size(), 0.0f);
  for (size_t i = fixture.samples.size(); i-- > 0;) {
    Fixture part = fixture;
    part.samples = {fixture.samples[i]};
    const PolicyLossResult result = PolicyLoss(part.Input(true), options);
    sum.Add(result.stats);
    for (size_t t = 0; t < gradient.size(); ++t) gradient[t] += result.gradient[t];
  }
  CHECK(sum.loss == Approx(whole.stats.loss).epsilon(1e-13));
  CHECK(sum.kl_sum == Approx(whole.stats.kl_sum).epsilon(1e-13));
  CHECK(sum.tokens == whole.stats.tokens);
  CHECK(sum.clipped_low == whole.stats.clipped_low);
  CHECK(sum.clipped_high == whole.stats.clipped_high);
  CHECK(gradient == whole.gradient);
}

TEST_CASE("Cut anywhere, in the middle of samples too, parts add up to the whole") {
  const Fixture fixture = MakeFixture(9);
  PolicyLossOptions options;
  options.kl_coefficient = 0.1;
  options.entropy_coefficient = 0.2;
  options.off_policy = OffPolicy::kTruncated;
  options.importance_cap = 1.2;
  options.ratio = GENERATE(RatioKind::kToken, RatioKind::kCispo);
  PolicyLossInput input = fixture.Input(true, true);
  input.entropies = fixture.reference;  // any numbers
  const PolicyLossResult whole = PolicyLoss(input, options);
  PolicyLossStats sum;
  std::vector<float> gradient, entropy_gradient;
  const size_t tokens = fixture.log_probs.size();
  for (const size_t step : {size_t{5}, size_t{8}, tokens}) {
    sum = PolicyLossStats();
    gradient.clear(), entropy_gradient.clear();
    for (size_t begin = 0; begin < tokens; begin += step) {
      const size_t end = std::min(tokens, begin + step);
      PolicyLossInput part = input;
      part.log_probs = input.log_probs.subspan(begin, end - begin);
      part.entropies = input.entropies.subspan(begin, end - begin);
      const PolicyLossResult result = PolicyLossOfPart(part, options, begin, end);
      sum.Add(result.stats);
      gradient.insert(gradient.end(), result.gradient.begin(), result.gradient.end());
      entropy_gradient.insert(entropy_gradient.end(), result.entropy_gradient.begin(),
                              result.entropy_gradient.end());
    }
    CHECK(sum.loss == Approx(whole.stats.loss).epsilon(1e-12));
    CHECK(sum.tokens == whole.stats.tokens);
    CHECK(sum.truncated_weights == whole.stats.truncated_weights);
    CHECK(gradient == whole.gradient);
    CHECK(entropy_gradient == whole.entropy_gradient);
  }
}

TEST_CASE("The names of [objective] are those of the formulas, and no others") {
  CHECK(*ParseRatioKind("token") == RatioKind::kToken);
  CHECK(*ParseRatioKind("sequence") == RatioKind::kSequence);
  CHECK(*ParseRatioKind("cispo") == RatioKind::kCispo);
  CHECK(*ParseKlEstimator("k1") == KlEstimator::kK1);
  CHECK(*ParseKlEstimator("k2") == KlEstimator::kK2);
  CHECK(*ParseKlEstimator("k3") == KlEstimator::kK3);
  CHECK(ParseRatioKind("gspo").status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(ParseKlEstimator("").status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("A sample without weight counts nowhere") {
  Fixture fixture = MakeFixture(4);
  fixture.samples[2].token_weight = 0;
  const PolicyLossResult result = PolicyLoss(fixture.Input(), {});
  CHECK(result.stats.tokens == 34 - 12);
  for (size_t t = fixture.samples[2].begin; t < fixture.samples[2].end; ++t) {
    CHECK(result.gradient[t] == 0.0f);
  }
}

TEST_CASE("What is not finite shows in the loss; a huge ratio stays finite") {
  Fixture fixture = MakeFixture(5);
  fixture.log_probs[fixture.samples[0].begin] = std::numeric_limits<float>::quiet_NaN();
  CHECK(!std::isfinite(PolicyLoss(fixture.Input(), {}).stats.loss));
  fixture.log_probs[fixture.samples[0].begin] = 0;
  fixture.old_log_probs[fixture.samples[0].begin] = -1e30f;
  fixture.samples[0].advantage = -1;
  const PolicyLossResult result = PolicyLoss(fixture.Input(), {});
  CHECK(std::isfinite(result.stats.loss));
  CHECK(std::isfinite(result.gradient[fixture.samples[0].begin]));
}

}  // namespace
}  // namespace crescendo
