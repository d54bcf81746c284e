// Causal attention over sequences packed one behind the other: the learner's. Differentiable; no
// token sees another sequence.
#ifndef CRESCENDO_COMMON_MODEL_PACKED_ATTENTION_H_
#define CRESCENDO_COMMON_MODEL_PACKED_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "common/model/policy_model.h"

namespace crescendo {

struct AtenSequences;

// Thread rule: one thread at a time. A backward pass through its outputs may run after it is gone.
class PackedAttention : public AttentionContext {
 public:
  // Sequence i is tokens [cu_seqlens[i], cu_seqlens[i+1]). Requires cu_seqlens to start at 0 and
  // never to fall; its last entry is the number of tokens of each pass.
  // `deterministic` (PolicyModel::deterministic): the same bits as PagedAttention so made.
  // `aten`: with ATen's operations also on the CPU (packed_attention_aten.h), as everywhere else;
  // then only Forward and Backward may be called.
  explicit PackedAttention(absl::Span<const int32_t> cu_seqlens, bool deterministic = false,
                           bool aten = false);

  at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override;

  // The two halves without a graph. lse [tokens, query_heads] fp32 is what the backward pass needs
  // of the forward pass beside its operands and out; gradients are overwritten. Strides as
  // Attend's.
  void Forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
               const at::Tensor& lse) const;
  struct Gradients {
    at::Tensor d_q, d_k, d_v;
  };
  void Backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                const at::Tensor& out, const at::Tensor& lse, const at::Tensor& d_out,
                const Gradients& gradients) const;

  // The position of each token in its sequence, [tokens] int64: what PolicyModel::Hidden wants.
  at::Tensor Positions() const;

 private:
  std::shared_ptr<const std::vector<int32_t>> cu_seqlens_;
  bool deterministic_;
  std::shared_ptr<AtenSequences> aten_;  // null: the CPU's kernels
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_PACKED_ATTENTION_H_
