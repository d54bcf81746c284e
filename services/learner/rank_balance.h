// A mini-batch dealt out to the learner's ranks: whole samples, so that each rank computes about as
// many packed tokens.
//
// Invariants: every sample is in exactly one rank's part, with its weight, advantage and tokens as
// they were (the parts' losses and gradients add up to the mini-batch's); a rank's micro-batches
// hold the token budget as PackBatch's do; the same mini-batch gives the same parts. With one rank
// the mini-batch is returned as it is.
//
// Pure; thread-safe.
#ifndef CRESCENDO_SERVICES_LEARNER_RANK_BALANCE_H_
#define CRESCENDO_SERVICES_LEARNER_RANK_BALANCE_H_

#include <cstdint>
#include <vector>

#include "services/learner/batch_packer.h"

namespace crescendo {

// One part a rank. Samples in order of falling length go to the rank with the fewest tokens so far
// (Graham 1969: the fullest has at most 4/3 of the best), then first-fit decreasing into its
// micro-batches. The probe stays with rank 0.
std::vector<MiniBatch> SplitOverRanks(const MiniBatch& mini, int ranks, int microbatch_tokens);

int64_t PackedTokens(const MiniBatch& mini);
// Tokens of the fullest part over their mean: 1 is even. 1 when there are none.
double RankImbalance(const std::vector<MiniBatch>& parts);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_RANK_BALANCE_H_
