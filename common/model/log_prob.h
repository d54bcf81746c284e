// The log-probability of given tokens: fp32, at a temperature, chunk by chunk, so that no matrix of
// tokens x vocabulary is ever kept. The same row-wise log-softmax as the sampler's (kernels.h).
#ifndef CRESCENDO_COMMON_MODEL_LOG_PROB_H_
#define CRESCENDO_COMMON_MODEL_LOG_PROB_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace crescendo {

struct TokenLogProbs {
  at::Tensor log_prob;  // [T] fp32, with a graph when gradients are enabled and required
  at::Tensor entropy;   // [T] fp32, in nats, with a graph as log_prob; undefined unless asked for
};

// log softmax(hidden @ head_weight^T / temperature)[target]. hidden [T, hidden_size] and
// head_weight [vocab, hidden_size] in the model's dtype, targets [T] int64 in [0, vocab),
// temperature > 0. `deterministic` (PolicyModel::deterministic): the sampler's bits. `aten`
// (PolicyModel::aten): hidden and head_weight are on any device, targets and results on the host;
// the gradient of head_weight is then added to its .grad in fp32. Throws what LibTorch throws.
TokenLogProbs TokenLogProb(const at::Tensor& hidden, const at::Tensor& head_weight,
                           const at::Tensor& targets, double temperature, bool want_entropy = false,
                           bool deterministic = false, bool aten = false);

// Slopes of a loss for rows [begin, end): from their log-probs and entropies (null unless wanted)
// to the derivatives by them. Every array is of those rows; d_entropy is null unless wanted.
using RowSlopes = std::function<void(int64_t begin, int64_t end, const float* log_prob,
                                     const float* entropy, float* d_log_prob, float* d_entropy)>;

// TokenLogProb and the backward pass of a loss of it in one: each chunk's logits are made once
// (Cut Cross-Entropy and Liger's fused linear loss do so, arXiv:2411.09009, arXiv:2410.10989).
// `slopes` is called chunk by chunk, in order. d_hidden [T, hidden_size] of the model's dtype is
// overwritten; the gradient of head_weight, where it requires one, is added to its .grad in fp32.
// No graph: call it without gradients enabled.
TokenLogProbs TokenLogProbBackward(const at::Tensor& hidden, const at::Tensor& head_weight,
                                   const at::Tensor& targets, double temperature, bool want_entropy,
                                   bool deterministic, const RowSlopes& slopes,
                                   const at::Tensor& d_hidden, bool aten = false);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_LOG_PROB_H_
