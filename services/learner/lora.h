// Low-rank adapters: W = W0 + (alpha / rank) B A with A [rank, in] and B [out, rank], of which only
// A and B are trained (Hu et al. 2021, arXiv:2106.09685, eq. 3 and section 4.1).
//
// The policy computes with the merged weight, which is what the rollout gets: both sides see the
// same bits, as they would not if the learner added up two products. The gradients of A and B come
// from that of W, layer by layer, so that those of one layer's weights are in memory at a time:
//   dB = (alpha / rank) dW A^T,  dA = (alpha / rank) B^T dW
//
// With weights that are shared out over the ranks (sharded_parameters.h) each rank merges its
// shares of W from its shares of W0 and the adapters, which it has whole; nothing travels for it.
//
// Invariants: W0 never changes; outside of an optimizer step the policy holds the merged weights.
// Thread rule: one thread at a time. Throws what LibTorch throws; call it inside CatchTorch.
#ifndef CRESCENDO_SERVICES_LEARNER_LORA_H_
#define CRESCENDO_SERVICES_LEARNER_LORA_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/policy_model.h"
#include "common/os/env.h"
#include "services/learner/sharded_parameters.h"

namespace crescendo {

struct LoraOptions {
  int rank = 0;
  double alpha = 0;     // 0: 2 x rank
  std::string targets;  // names of linear layers, as "q_proj,v_proj"
  uint64_t seed = 1;    // of A; B begins at 0
};

class Lora {
 public:
  // Freezes all of `model` but the weights that are adapted, whose gradients it takes away. `base`
  // has the same weights and keeps them; both outlive it. INVALID_ARGUMENT names a target that the
  // model has not, or a rank that is larger than a weight. Where the weights are shared out,
  // `base_shards` and `shards` are those of `base` and `model`, and outlive it too.
  static absl::StatusOr<std::unique_ptr<Lora>> Create(
      const LoraOptions& options, const PolicyModel& base, PolicyModel* model,
      const ShardedParameters* base_shards = nullptr, const ShardedParameters* shards = nullptr);

  // The adapters: fp32 leaves, named as PEFT names them.
  const std::vector<NamedTensor>& parameters() const { return parameters_; }
  // Writes the merged weights into the policy: after the adapters were changed.
  void Merge();
  // PEFT's adapter_config.json and adapter_model.safetensors.
  absl::Status Save(FileSystem& files, const std::string& folder,
                    const std::string& base_path) const;

 private:
  struct Adapter {
    at::Tensor merged;  // [out, in], the policy's: has the gradient
    // What this rank merges, in the models' dtype: all of W0 and W, [out, in], or its shares, flat,
    // which begin at element `begin`.
    at::Tensor base, own;
    int64_t begin = 0;
    at::Tensor a, b;
  };
  void MergeShare(const Adapter& adapter) const;
  explicit Lora(const LoraOptions& options) : options_(options) {}
  double scale() const { return options_.alpha / options_.rank; }
  void TakeGradients();

  LoraOptions options_;
  std::vector<std::string> targets_;
  std::vector<Adapter> adapters_;
  std::vector<NamedTensor> parameters_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_LORA_H_
