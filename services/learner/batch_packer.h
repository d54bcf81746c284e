// From whole groups to what the trainer computes: mini-batches of whole groups (one optimizer
// update each), cut into packed micro-batches by a token budget.
//
// Invariants:
// 1. The loss is normalised over the whole mini-batch: a sample's token_weight is a function of the
//    mini-batch's decided samples, those that are left out below included (LossAggregation). So it
//    does not depend on budget, packing, or the number of micro-batches.
// 2. The same groups in the same order give the same micro-batches, bit by bit.
// 3. A sample is whole inside one micro-batch; a group is whole inside one mini-batch.
//
// Pure; thread-safe.
#ifndef CRESCENDO_SERVICES_LEARNER_BATCH_PACKER_H_
#define CRESCENDO_SERVICES_LEARNER_BATCH_PACKER_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/domain.h"
#include "services/learner/advantage.h"
#include "services/learner/experience.h"
#include "services/learner/phase_timer.h"

namespace crescendo {

// One completion inside a micro-batch. Its sequence is the prompt and the completion without the
// last token (nothing is predicted from that): rows [sequence_begin, sequence_end) of the packed
// tokens. Its loss tokens are [loss_begin, loss_end) of the loss arrays, one for every completion
// token.
struct PackedSample {
  GroupId group;
  uint32_t sample = 0;
  int32_t sequence_begin = 0;
  int32_t sequence_end = 0;
  int32_t loss_begin = 0;
  int32_t loss_end = 0;
  int32_t fresh_begin = 0;  // loss tokens from here on were drawn with the version that is trained
  double advantage = 0;
  double token_weight = 0;  // of each of its loss tokens in the mini-batch's loss; 0: masked
};

// T packed tokens, S sequences, L loss tokens.
struct PackedMicroBatch {
  std::vector<int32_t> tokens;      // [T] inputs of the model
  std::vector<int32_t> positions;   // [T] from 0 in each sequence
  std::vector<int32_t> cu_seqlens;  // [S + 1] sequence s is tokens [cu_seqlens[s], cu_seqlens[s+1])
  int32_t longest = 0;              // tokens of the longest sequence
  std::vector<int32_t> loss_rows;   // [L] ascending: the packed token whose output predicts ...
  std::vector<int32_t> targets;     // [L] ... this token
  std::vector<float> old_log_probs;  // [L] of the target, as the rollout sampled it
  std::vector<PackedSample>
      samples;            // [S] in the order of the sequences; their loss tokens tile [0, L)
  float temperature = 1;  // logits are divided by it before the log-softmax
};

struct MiniBatch {
  std::vector<PackedMicroBatch> micro_batches;
  int64_t loss_tokens = 0;  // the normaliser: completion tokens of decided samples
  // Samples without weight, where the step's first mini-batch has no micro-batch: a forward pass
  // over them tells the mismatch of a step that has nothing to train.
  std::vector<PackedMicroBatch> probe;
};

// How tokens weigh in a mini-batch's loss; N, S: loss tokens and decided samples of the mini-batch.
enum class LossAggregation {
  kTokenMean,     // 1 / N: DAPO, Yu et al. 2025 (arXiv:2503.14476), eq. 8
  kSequenceMean,  // 1 / (S x own tokens): GRPO, Shao et al. 2024 (arXiv:2402.03300), eq. 3
  kFixedLength,   // 1 / (S x context limit): Dr. GRPO, Liu et al. 2025 (arXiv:2503.20783),
                  // section 3.2
};

// "token_mean", "sequence_mean", "fixed_length"; INVALID_ARGUMENT names the others.
absl::StatusOr<LossAggregation> ParseLossAggregation(absl::string_view name);

struct PackOptions {
  int64_t version = -1;           // that is trained; -1: all tokens count as drawn with it
  int microbatch_tokens = 16384;  // T is at most this, but for a sequence that is longer by itself
  int minibatches = 1;            // groups are split in order into so many parts, as even as can be
  LossAggregation aggregation = LossAggregation::kTokenMean;
  // Leaves out samples whose advantage is 0, which have no gradient when nothing but the advantage
  // term is in the loss (no KL, no entropy). They still count in the normaliser.
  bool drop_zero_advantage = true;
  // Leaves out groups without variance altogether, from the normaliser too: DAPO's dynamic sampling
  // (Yu et al. 2025, arXiv:2503.14476, eq. 11) without the sampling of others in their place.
  bool drop_zero_variance = false;
};

// `advantages` has one entry a group. Requires closed samples of at least one token.
// INVALID_ARGUMENT names the group when temperatures differ within the batch. Micro-batches are
// filled first-fit decreasing by length (ties in order of group and sample).
absl::StatusOr<std::vector<MiniBatch>> PackBatch(const PackOptions& options,
                                                 const std::vector<GroupExperience>& groups,
                                                 const std::vector<GroupAdvantages>& advantages);

// What the batch itself says of a step, and of each group; the trainer adds its part later.
struct BatchSummary {
  StepMetrics metrics;
  std::vector<GroupOutcome> outcomes;
  // Tokens by staleness: the step less the policy version that a token was drawn with.
  std::map<int64_t, uint64_t> tokens_by_staleness;
  // Completion lengths of the samples.
  std::vector<uint32_t> stopped_lengths;    // of those that ended by themselves
  std::vector<uint32_t> truncated_lengths;  // of those that hit the context limit
  StepPhases phases;                        // as the trainer says
};
BatchSummary SummarizeBatch(StepId step, const std::vector<GroupExperience>& groups,
                            const std::vector<GroupAdvantages>& advantages);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_BATCH_PACKER_H_
