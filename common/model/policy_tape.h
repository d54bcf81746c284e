// The learner's pass through the layers: forward keeps what backward needs, backward is written
// out and puts the gradients of weights straight into .grad (gradient_sink.h). What can be had
// again cheaply is not kept: norms' outputs, the activation of the gated layer; and of layers that
// are recomputed nothing but their input (gradient checkpointing, Chen et al. 2016,
// arXiv:1604.06174): backward runs them forward again.
//
// Kept per token and layer, in elements: 3 hidden + 2 query + 2 kv + 2 mlp; of a recomputed layer:
// hidden. The memory stays for the next pass, as large as the largest pass was.
//
// It computes with the CPU's kernels or, where ModelWeights::aten says so, with ATen's operations
// on the device of the weights (PolicyFunctions).
//
// Thread rule: one thread at a time. No graph: call it without gradients enabled. An inner part of
// PolicyModel.
#ifndef CRESCENDO_COMMON_MODEL_POLICY_TAPE_H_
#define CRESCENDO_COMMON_MODEL_POLICY_TAPE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/model/model_weights.h"
#include "common/model/packed_attention.h"
#include "common/model/policy_functions.h"

namespace crescendo {

class PolicyTape {
 public:
  // Both outlive it. The table covers the positions of each pass.
  PolicyTape(const ModelWeights* weights, const RopeTable* rope);

  // As PolicyModel::Hidden. The first `recompute_layers` layers (-1: all) are recomputed.
  at::Tensor Forward(const at::Tensor& tokens, const at::Tensor& positions,
                     const PackedAttention& attention, int recompute_layers);
  // The same without what a backward pass needs: two layers' worth of memory. Not between Forward
  // and Backward of one tape.
  at::Tensor Evaluate(const at::Tensor& tokens, const at::Tensor& positions,
                      const PackedAttention& attention);
  // Of the last Forward; d_hidden [T, hidden]. Once for each Forward. `after_layer` (may be empty)
  // is called when the gradients of a layer are there, and at last with -1 for those of the
  // embedding.
  void Backward(const at::Tensor& d_hidden, const std::function<void(int)>& after_layer);

  int64_t bytes() const;

 private:
  // What a layer keeps: [T, n], in the model's dtype but for the last three, which are fp32.
  struct Activations {
    at::Tensor input;            // the residual stream before the layer
    at::Tensor middle;           // ... between its two halves
    at::Tensor qkv;              // rotated
    at::Tensor qkv_before_norm;  // only where the model normalises heads
    at::Tensor attention;
    at::Tensor gate_up;
    at::Tensor lse, input_rstd, post_rstd;
  };
  struct Heads {
    at::Tensor q, k, v;
  };
  void Begin(const at::Tensor& tokens, const at::Tensor& positions,
             const PackedAttention& attention);
  at::Tensor FinalNorm(const at::Tensor& last);
  at::Tensor Rows(at::Tensor* buffer, int64_t columns, at::ScalarType dtype) const;
  Activations Sized(Activations* kept, bool input_only) const;
  Heads HeadsOf(const at::Tensor& qkv) const;
  bool Recomputed(size_t layer) const { return layer < recomputed_; }
  // Fills `a` behind its input; `next`, unless undefined, gets the layer's output.
  void LayerForward(size_t layer, const Activations& a, at::Tensor next);
  // d (in place): the gradient by the layer's output becomes that by its input.
  void LayerBackward(size_t layer, const Activations& a, const at::Tensor& d);

  const ModelWeights* weights_;
  const RopeTable* rope_;
  const PolicyFunctions& f_;
  // Of the last Forward.
  int64_t tokens_count_ = 0;
  at::Tensor tokens_, positions_;  // where the weights are
  std::unique_ptr<PackedAttention> attention_;
  size_t recomputed_ = 0;
  // Memory.
  std::vector<Activations> kept_;
  Activations again_;  // of the recomputed layer at hand
  at::Tensor last_, final_, final_rstd_;
  at::Tensor normed_, mlp_, d_, d_part_, d_mlp_, d_attention_, d_qkv_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_POLICY_TAPE_H_
