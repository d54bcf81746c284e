// The policy-gradient loss over the tokens of some samples and its gradient with respect to each
// token's log-probability: plain arithmetic in double over spans, no tensor library. The trainer
// hands the gradient to autograd; nothing of the loss is ever a graph.
//
// With r(t) = exp(log_prob(t) - old(t)), A the sample's advantage and w(t) the off-policy weight:
//   surrogate(t) = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
//       GRPO: Shao et al. 2024 (arXiv:2402.03300), eq. 3; PPO: Schulman et al. 2017
//       (arXiv:1707.06347), eq. 7; clip_high > clip_low: DAPO, Yu et al. 2025 (arXiv:2503.14476),
//       eq. 10.
//   with dual_clip c > 0 and A < 0: at most -c A          Ye et al. 2020 (arXiv:1912.09729), eq. 5
//   kl(t), an estimate of KL(policy || reference)         Schulman 2020, "Approximating KL
//       divergence": k1 = -d, k2 = d^2 / 2, k3 = exp(d) - 1 - d, d = reference(t) - log_prob(t);
//       k3 is eq. 4 of GRPO
//   H(t), the entropy of the policy's distribution at t; its bonus: Mnih et al. 2016
//       (arXiv:1602.01783), section 4
//   loss = sum over samples of token_weight x sum over tokens of
//          (w surrogate + kl_coefficient kl - entropy_coefficient H)
//
// The token weights come from outside and say all about aggregation, so that the loss does not
// depend on packing, micro-batches or ranks: 1 / (tokens of the whole mini-batch) is the token mean
// (DAPO, eq. 8), 1 / (samples x own tokens) the sequence mean (GRPO, eq. 3), 1 / (samples x limit)
// Dr. GRPO's (Liu et al. 2025, arXiv:2503.20783).
//
// Thread-safe: pure functions.
#ifndef CRESCENDO_SERVICES_LEARNER_POLICY_LOSS_H_
#define CRESCENDO_SERVICES_LEARNER_POLICY_LOSS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace crescendo {

enum class KlEstimator { kK1, kK2, kK3 };

// What the ratio is taken of, and how it bounds the update.
enum class RatioKind {
  kToken,     // each token's own ratio, clipped (PPO, GRPO)
  kSequence,  // the geometric mean of the sample's ratios: GSPO, Zheng et al. 2025
              // (arXiv:2507.18071), eq. 5-7; its gradient flows into every token alike
  kCispo,     // -sg(clip(r)) A log_prob: MiniMax-M1 2025 (arXiv:2506.13585), eq. 4-5; no token's
              // gradient is cut
};

// How what the rollout sampled (behavior) is corrected for, when old is recomputed at the step's
// start (the proximal policy); u(t) = exp(old(t) - behavior(t)).
enum class OffPolicy {
  kNone,       // w = 1, and the ratio is to what the rollout sampled
  kTruncated,  // w = min(u, cap): Yao et al. 2025, "Your efficient RL framework secretly brings you
               // off-policy RL training"; Espeholt et al. 2018 (arXiv:1802.01561), eq. 1
  kDecoupled,  // w = u: decoupled PPO, Hilton et al. 2022 (arXiv:2110.00641), eq. 2; as AReaL, Fu
               // et al. 2025 (arXiv:2505.24298). A token with u above a cap is left out.
};

// As [objective] writes them: "token", "sequence", "cispo"; "k1", "k2", "k3"; "none", "truncated",
// "decoupled". INVALID_ARGUMENT names the key.
absl::StatusOr<OffPolicy> ParseOffPolicy(absl::string_view name);
absl::StatusOr<RatioKind> ParseRatioKind(absl::string_view name);
absl::StatusOr<KlEstimator> ParseKlEstimator(absl::string_view name);

struct PolicyLossOptions {
  RatioKind ratio = RatioKind::kToken;
  double clip_low = 0.2;
  double clip_high = 0.2;
  double dual_clip = 0;  // > 1: on; 0: off
  double kl_coefficient = 0;
  KlEstimator kl_estimator = KlEstimator::kK3;
  OffPolicy off_policy = OffPolicy::kNone;
  double importance_cap = 0;  // kTruncated: above 0; kDecoupled: 0 is no bound
  double entropy_coefficient = 0;
  // What PolicyLoss itself does not read: the KL is taken off the rewards (advantage.h) instead of
  // added to the loss; its coefficient adapts to a target (kl_control.h).
  bool kl_in_reward = false;
  double kl_target = 0;  // nats a token; 0: the coefficient stays
  int kl_horizon = 10;
};

// One sample's completion: tokens [begin, end) of the spans below.
struct LossSample {
  size_t begin = 0;
  size_t end = 0;
  double advantage = 0;
  double token_weight = 0;  // 0: masked, counts nowhere
};

struct PolicyLossInput {
  absl::Span<const float> log_probs;            // under the policy that is trained
  absl::Span<const float> old_log_probs;        // the ratio's denominator
  absl::Span<const float> behavior_log_probs;   // as sampled; empty: old_log_probs
  absl::Span<const float> reference_log_probs;  // empty: no KL, whatever its coefficient
  absl::Span<const float> entropies;            // empty: no bonus, whatever its coefficient
  absl::Span<const LossSample> samples;
};

// Sums, so that those of micro-batches and ranks add up.
struct PolicyLossStats {
  double loss = 0;       // weighted, as trained
  double kl_sum = 0;     // of the estimate over tokens, unweighted
  double ratio_max = 0;  // largest r
  int64_t tokens = 0;    // of samples with a weight
  int64_t clipped_low = 0;
  int64_t clipped_high = 0;       // tokens whose gradient the clip cut off, or bounded (CISPO)
  int64_t truncated_weights = 0;  // tokens whose importance weight was above its cap

  void Add(const PolicyLossStats& other);
  double clip_ratio() const {
    return tokens == 0 ? 0 : static_cast<double>(clipped_low + clipped_high) / tokens;
  }
  double kl_mean() const { return tokens == 0 ? 0 : kl_sum / tokens; }
};

struct PolicyLossResult {
  PolicyLossStats stats;
  std::vector<float> gradient;  // d loss / d log_probs, as long as log_probs; 0 outside the samples
  std::vector<float> entropy_gradient;  // d loss / d entropies; empty without a bonus
};

// kl(t) from two log-probs of a token.
double KlEstimate(float reference, float policy, KlEstimator estimator);

// Requires equally long spans (but the empty ones) and samples within them. What is not finite
// comes out as a loss that is not finite; log-ratios are cut at +-20 first.
PolicyLossResult PolicyLoss(const PolicyLossInput& input, const PolicyLossOptions& options);

// The same of tokens [begin, end) alone: log_probs and entropies are theirs, the other spans and
// the samples those of the whole. Results of parts that cover the whole add up to its own. Requires
// another ratio than kSequence.
PolicyLossResult PolicyLossOfPart(const PolicyLossInput& input, const PolicyLossOptions& options,
                                  size_t begin, size_t end);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_POLICY_LOSS_H_
