// How far the learner's log-probs lie from those that the rollout sampled with, under the same
// weights: sums and a histogram that add up over micro-batches and ranks. Plain values.
#ifndef CRESCENDO_SERVICES_LEARNER_MISMATCH_H_
#define CRESCENDO_SERVICES_LEARNER_MISMATCH_H_

#include <cstdint>
#include <vector>

namespace crescendo {

struct MismatchStats {
  int64_t tokens = 0;
  double sum = 0;     // of |d|, d = log-prob(learner) - log-prob(rollout)
  double max = 0;     // of |d|
  double kl_sum = 0;  // of exp(d) - 1 - d: the k3 estimate of KL(rollout || learner)
  // Tokens by |d|: bucket i holds those whose float begins with the 13 bits i behind its sign, so
  // that a bucket is 3% wide. Empty: no tokens.
  std::vector<int64_t> buckets;

  void AddToken(float learner, float rollout);
  void Add(const MismatchStats& other);
  // All but `max` as numbers that add up, always as many of them, and back.
  std::vector<double> Sums() const;
  void SetSums(const std::vector<double>& sums);
  // NaN without tokens.
  double mean() const;
  double kl() const;
  double largest() const;
  // |d| that at most 1% of the tokens exceed, at most 3% above the exact one.
  double p99() const;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_MISMATCH_H_
