// The learner's forward pass over one packed micro-batch: hidden states with a graph, then the
// log-probabilities of the targets at the sampling temperature. GRPO and warm start share it.
//
// Thread rule: one thread at a time. Throws what LibTorch throws; call it inside CatchTorch.
#ifndef CRESCENDO_SERVICES_LEARNER_PACKED_FORWARD_H_
#define CRESCENDO_SERVICES_LEARNER_PACKED_FORWARD_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"
#include "common/model/log_prob.h"
#include "common/model/policy_model.h"
#include "services/learner/batch_packer.h"

namespace crescendo {

// log_prob [L] fp32 of micro.targets, each predicted by the row in micro.loss_rows; with a graph
// when gradients are enabled. Requires ids within the vocabulary.
TokenLogProbs ForwardLogProbs(PolicyModel& model, const PackedMicroBatch& micro,
                              bool want_entropy = false);

// ForwardLogProbs without a graph and the backward pass of a loss of it, with the logits made once
// (TokenLogProbBackward). `slopes` may not look beyond the rows that it is called for. The result
// has no graph; gradients are in the parameters' .grad. `forward_done`, when set, is called between
// the two.
TokenLogProbs ForwardAndBackward(PolicyModel& model, const PackedMicroBatch& micro,
                                 bool want_entropy, const RowSlopes& slopes,
                                 const std::function<void()>& forward_done = nullptr);

// Adds the gradients of a loss whose derivative by the log-probs is `slopes` [L], and by the
// entropies `entropy_slopes` [L] (empty: 0), to the parameters'.
void BackwardLogProbs(const TokenLogProbs& outputs, const std::vector<float>& slopes,
                      const std::vector<float>& entropy_slopes = {});

// [n] int64.
at::Tensor IndexTensor(const std::vector<int32_t>& values);
// Of a contiguous fp32 tensor that outlives it.
absl::Span<const float> FloatSpan(const at::Tensor& tensor);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_PACKED_FORWARD_H_
