// The policy: a decoder-only transformer (Llama, Qwen2, Qwen3) on LibTorch, one implementation for
// rollout (paged KV cache, no gradients) and learner (packed sequences, autograd). The attention is
// handed in: PagedAttention (paged_attention.h) or PackedAttention (packed_attention.h).
//
// Invariants: weights exist once; the tensors of parameters() keep their storage for the model's
// lifetime, so a weight swap writes in place and pointers taken before stay good (but where a
// WeightWatcher takes the storages' memory away and gives it back). q, k and v (and gate and up) of
// a layer share one storage, of which the named parameters are views.
//
// Thread rule: one thread at a time (forward passes keep scratch memory in the model).
// Exceptions: the forward functions throw what LibTorch throws; call them inside CatchTorch. The
// functions that return a Status do not throw.
#ifndef CRESCENDO_COMMON_MODEL_POLICY_MODEL_H_
#define CRESCENDO_COMMON_MODEL_POLICY_MODEL_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/model/model_config.h"
#include "common/model/weight_watcher.h"
#include "common/os/env.h"

namespace crescendo {

// Causal self-attention over whatever tokens are known: those of this pass and those of a cache.
class AttentionContext {
 public:
  virtual ~AttentionContext() = default;
  // q [tokens, query_heads, head_dim], k and v [tokens, kv_heads, head_dim], in the model's dtype,
  // RoPE applied; the last two dimensions are contiguous, the first may be strided (q, k and v are
  // views of one buffer where no gradient is wanted). Query head h uses KV head h / (query_heads /
  // kv_heads). Returns [tokens, query_heads * head_dim] contiguous, valid until the next call.
  virtual at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v) = 0;
};

struct NamedTensor {
  std::string name;  // Hugging Face's, as "model.layers.0.self_attn.q_proj.weight"
  at::Tensor tensor;
};

// A tensor as bytes, as it travels (safetensors' dtype names: "F32", "BF16").
struct TensorBytes {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  absl::string_view bytes;
};

struct PolicyFunctions;

struct LoadOptions {
  at::ScalarType dtype = at::kFloat;  // at::kFloat or at::kBFloat16; stored weights are converted
  // A token's result has the same bits in any batch and chunk, with gradients and without, on one
  // machine; slower (tests/bench/README.md). The attention must be made so too.
  bool deterministic = false;
  // Where the weights are. On a device passes are the learner's alone (PackedAttention), in ATen's
  // operations; `aten`: on the CPU too.
  at::Device device = at::kCPU;
  bool aten = false;
  // What such passes compute with between their products, where not AtenFunctions
  // (policy_functions.h); outlives the policy.
  const PolicyFunctions* functions = nullptr;
  // Only passes without gradients, and no State, Save or CopyFrom of this policy: its
  // matrices may then lie in the order in which products read them (tile_product.h), in the same
  // memory.
  bool for_decoding = false;
  // Called while the weights are loaded, when those of a unit (weight_watcher.h) are there, unit
  // after unit; it may take the memory of their storages away. An error ends the loading.
  std::function<absl::Status(absl::Span<const NamedTensor>)> after_unit = nullptr;
};

class PolicyModel {
 public:
  // `path` is a Hugging Face folder (config.json and model.safetensors, or
  // model.safetensors.index.json with its shards) or a .gguf file. Weights come through memory maps
  // and are held once, in `options.dtype`. NOT_FOUND, INVALID_ARGUMENT and UNIMPLEMENTED name the
  // file, and the tensor or field.
  static absl::StatusOr<std::unique_ptr<PolicyModel>> Load(FileSystem& files,
                                                           const std::string& path,
                                                           const LoadOptions& options = {});

  // Random weights, the same for the same seed on every machine: embedding and head N(0, 0.02),
  // linear layers N(0, 1/sqrt(fan_in)), o_proj and down_proj divided by sqrt(2 layers) besides,
  // norms 1, biases 0.
  static absl::StatusOr<std::unique_ptr<PolicyModel>> Init(const ModelConfig& config, uint64_t seed,
                                                           const LoadOptions& options = {});

  ~PolicyModel();
  PolicyModel(const PolicyModel&) = delete;
  PolicyModel& operator=(const PolicyModel&) = delete;

  const ModelConfig& config() const;
  at::ScalarType dtype() const;
  // Loaded for_decoding, and the CPU and the shape allow it.
  bool tile_order() const;
  bool deterministic() const;
  at::Device device() const;
  // LoadOptions::aten, or on a device: what PackedAttention and TokenLogProb take.
  bool aten() const;

  // tokens [T] int64 and positions [T] int64, both contiguous on the CPU, ids in [0, vocab_size)
  // and positions in [0, 2^20); checked. Returns [T, hidden_size] in the model's dtype, after the
  // final norm. With gradients enabled (at::GradMode) and required by any parameter, the result
  // carries a graph whose backward pass can be run once and adds to the parameters' .grad, in fp32
  // whatever their dtype; `attention` is then a PackedAttention. The result lies in the model's
  // memory and is valid until the next call without gradients, or until the backward pass was run.
  at::Tensor Hidden(const at::Tensor& tokens, const at::Tensor& positions,
                    AttentionContext& attention);

  // How Hidden with gradients trades memory for time: of the first so many layers (-1: all) only
  // the input is kept, and the backward pass runs them again. The gradients are the same bits.
  void SetRecomputeLayers(int layers);
  // Called in a backward pass when the gradients of a layer are whole, and at last with -1 for
  // those of the embedding. Those of the head and the final norm come before the first layer's.
  void SetAfterLayer(std::function<void(int)> hook);
  // Outlives the model's use. Hidden tells it of everything but the head: that is HeadUnit, whose
  // WeightUse is the caller's. What else reads weights (Logits, State, ...) wants them there.
  void SetWeightWatcher(WeightWatcher* watcher);
  WeightWatcher* weight_watcher() const;
  int HeadUnit() const;

  // hidden [N, hidden_size] -> [N, vocab_size] fp32. No gradient (the learner uses TokenLogProb of
  // log_prob.h). Valid until the next call of a forward function.
  at::Tensor Logits(const at::Tensor& hidden);
  // The same in the model's dtype, which is how the product comes: SampleRows takes it so.
  at::Tensor NarrowLogits(const at::Tensor& hidden);

  // [vocab_size, hidden_size], the embedding itself when tied.
  const at::Tensor& head_weight() const;

  // All parameters in a fixed order: embed_tokens; for each layer input_layernorm, q_proj, k_proj,
  // v_proj (weight, then bias where there is one), q_norm, k_norm (Qwen3), o_proj,
  // post_attention_layernorm, gate_proj, up_proj, down_proj; norm; lm_head unless tied.
  const std::vector<NamedTensor>& parameters() const;
  void SetRequiresGrad(bool requires_grad);

  // parameters() as bytes: views of the weights themselves, valid while the model lives and until
  // it is changed. For publishing and checkpoints. Requires weights on the CPU.
  std::vector<TensorBytes> State() const;
  // Overwrites all parameters in place (a weight swap). All are checked before one is written:
  // INVALID_ARGUMENT names the tensor that is missing, unknown, doubled, or of wrong shape, dtype
  // or length. F32 into a bf16 model is rounded to nearest even, BF16 into an fp32 one is widened.
  absl::Status LoadState(absl::Span<const TensorBytes> tensors);
  // The same from another model of the same shape.
  absl::Status CopyFrom(const PolicyModel& other);

  // Writes config.json, generation_config.json and model.safetensors into `folder` (made when it is
  // not there), each atomically. Tokenizer files are the caller's.
  absl::Status Save(FileSystem& files, const std::string& folder) const;

  // Bytes held by weights, and by scratch memory at its largest so far.
  int64_t weight_bytes() const;
  int64_t scratch_bytes() const;

 private:
  class Impl;
  explicit PolicyModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_POLICY_MODEL_H_
