// Packed causal attention in ATen's operations, for tensors on any device: on CUDA in bf16 the
// flash attention that LibTorch carries (Dao 2023, arXiv:2307.08691; sequences by cumulative
// lengths), elsewhere the same in plain products, a block of queries at a time. An inner part of
// PackedAttention.
//
// q and out [T, query_heads, head_dim], k and v [T, kv_heads, head_dim], the last dimension
// contiguous. lse is fp32 memory of T x query_heads whose layout is the implementation's own.
//
// Thread rule: as the tensors. Throws what LibTorch throws. No graph.
#ifndef CRESCENDO_COMMON_MODEL_PACKED_ATTENTION_ATEN_H_
#define CRESCENDO_COMMON_MODEL_PACKED_ATTENTION_ATEN_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace crescendo {

struct AtenSequences {
  std::vector<int32_t> bounds;  // sequence i is tokens [bounds[i], bounds[i + 1])
  at::Tensor on_device;         // the same, int32; made when flash attention first wants it
};

struct AtenAttention {
  at::Tensor q, k, v, out, lse;
};
struct AtenAttentionGradients {
  at::Tensor d_q, d_k, d_v;  // overwritten; strides as those of q, k and v
};

// Whether flash attention takes them; the plain products take everything.
bool FlashTakes(const at::Tensor& q);

// Fill out and lse.
void FlashForward(AtenSequences& sequences, const AtenAttention& a);
void PlainForward(const AtenSequences& sequences, const AtenAttention& a);

// d_out as out. `lse` is what the forward pass of the same kind left.
void FlashBackward(AtenSequences& sequences, const AtenAttention& a, const at::Tensor& d_out,
                   const AtenAttentionGradients& gradients);
void PlainBackward(const AtenSequences& sequences, const AtenAttention& a, const at::Tensor& d_out,
                   const AtenAttentionGradients& gradients);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_PACKED_ATTENTION_ATEN_H_
