// The log-probability of given tokens: fp32, at a temperature, chunk by chunk, so that no matrix of
// tokens x vocabulary is ever kept. The same row-wise log-softmax as the sampler's (kernels.h).
#ifndef CRESCENDO_COMMON_MODEL_LOG_PROB_H_
#define CRESCENDO_COMMON_MODEL_LOG_PROB_H_

#include <ATen/core/Tensor.h>

namespace crescendo {

struct TokenLogProbs {
  at::Tensor log_prob;  // [T] fp32, with a graph when gradients are enabled and required
  at::Tensor entropy;   // [T] fp32, in nats, with a graph as log_prob; undefined unless asked for
};

// log softmax(hidden @ head_weight^T / temperature)[target]. hidden [T, hidden_size] and
// head_weight [vocab, hidden_size] in the model's dtype, targets [T] int64 in [0, vocab),
// temperature > 0. `deterministic` (PolicyModel::deterministic): the sampler's bits. Throws what
// LibTorch throws.
TokenLogProbs TokenLogProb(const at::Tensor& hidden, const at::Tensor& head_weight,
                           const at::Tensor& targets, double temperature, bool want_entropy = false,
                           bool deterministic = false);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_LOG_PROB_H_
