// TokenLogProb and TokenLogProbBackward (log_prob.h) in ATen's operations, for tensors on any
// device: an inner part of theirs. Chunk by chunk too, in larger chunks on a device. Arguments were
// checked; targets come from the host, log-probs and entropies go back there.
//
// Thread rule: one thread at a time. Throws what LibTorch throws. No graph.
#ifndef CRESCENDO_COMMON_MODEL_LOG_PROB_ATEN_H_
#define CRESCENDO_COMMON_MODEL_LOG_PROB_ATEN_H_

#include <ATen/core/Tensor.h>

#include "common/model/log_prob.h"

namespace crescendo {

TokenLogProbs AtenLogProb(const at::Tensor& hidden, const at::Tensor& head,
                          const at::Tensor& targets, double temperature, bool want_entropy);

// The gradient of the head, where it requires one, is added to its .grad.
TokenLogProbs AtenLogProbBackward(const at::Tensor& hidden, const at::Tensor& head,
                                  const at::Tensor& targets, double temperature, bool want_entropy,
                                  const RowSlopes& slopes, const at::Tensor& d_hidden);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_LOG_PROB_ATEN_H_
