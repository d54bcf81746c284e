// The weights of a policy in memory: fused storages, the named parameters that are views of them,
// and their ways in from files. An inner part of PolicyModel.
#ifndef CRESCENDO_COMMON_MODEL_MODEL_WEIGHTS_H_
#define CRESCENDO_COMMON_MODEL_MODEL_WEIGHTS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/model_config.h"
#include "common/model/policy_model.h"

namespace crescendo {

// Storages carry no gradients; the leaves (parameters) do. An undefined tensor: the architecture
// has none.
struct LayerWeights {
  at::Tensor qkv;       // [query_size + 2 kv_size, hidden]
  at::Tensor qkv_bias;  // [query_size + 2 kv_size]
  at::Tensor gate_up;   // [2 mlp, hidden], gate first
  at::Tensor qkv_t;     // qkv transposed (a view), as the matrix product takes it
  at::Tensor gate_up_t;
  // Leaves: parameters.
  at::Tensor input_norm, q, k, v, q_bias, k_bias, v_bias, q_norm, k_norm;
  at::Tensor o, post_norm, gate, up, down;
  // Views of the leaves' memory without gradients.
  at::Tensor o_t, down_t;
  bool deterministic = false;  // the policy's, for the functions that see a layer only
};

struct ModelWeights {
  ModelConfig config;
  at::ScalarType dtype = at::kFloat;
  bool deterministic = false;
  at::Device device = at::kCPU;                // of all tensors
  bool aten = false;                           // passes use ATen's operations
  const PolicyFunctions* functions = nullptr;  // of such passes; null: AtenFunctions
  at::Tensor embedding;                        // leaf [vocab, hidden]
  at::Tensor final_norm;
  at::Tensor head;  // leaf, or the embedding when tied
  at::Tensor head_t;
  std::vector<LayerWeights> layers;
  std::vector<NamedTensor> parameters;
  int64_t bytes = 0;
  // The matrices lie in tile order (tile_product.h): all but the embedding, and the embedding too
  // where it is the head.
  bool tile_order = false;
  WeightWatcher* watcher = nullptr;  // null: all weights are always there
};

// Of the units of weight_watcher.h.
int UnitCount(const ModelConfig& config);
absl::Span<const NamedTensor> UnitOf(const ModelWeights& weights, int unit);

// Uninitialised memory for all. RESOURCE_EXHAUSTED when there is not so much.
absl::StatusOr<std::unique_ptr<ModelWeights>> AllocateWeights(const ModelConfig& config,
                                                              at::ScalarType dtype,
                                                              at::Device device = at::kCPU);
// Brings the matrices into tile order, where their sizes fit and this CPU has a product for it;
// else nothing.
void BringToTileOrder(ModelWeights* weights);
// The same for one parameter that was just written; nothing for one that lies in plain order.
void BringToTileOrder(const ModelWeights& weights, const at::Tensor& parameter);

// Names and shapes of the parameters, in order, without memory.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
};
std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config);

// The tensors of a state (a weight swap) in the order of `specs`, all checked. INVALID_ARGUMENT
// names the tensor that is missing, unknown, doubled, or of wrong shape, dtype or length.
absl::StatusOr<std::vector<const TensorBytes*>> MatchState(const std::vector<ParameterSpec>& specs,
                                                           absl::Span<const TensorBytes> tensors);

// `after_unit` as LoadOptions's; may be empty.
absl::StatusOr<std::unique_ptr<ModelWeights>> LoadHfWeights(
    FileSystem& files, const std::string& folder, at::ScalarType dtype,
    const std::function<absl::Status(absl::Span<const NamedTensor>)>& after_unit = nullptr,
    at::Device device = at::kCPU);
absl::StatusOr<std::unique_ptr<ModelWeights>> RandomWeights(const ModelConfig& config,
                                                            uint64_t seed, at::ScalarType dtype,
                                                            at::Device device = at::kCPU);

// INVALID_ARGUMENT: the tensor of file `place` has another shape than it must.
absl::Status ShapeError(absl::string_view place, absl::string_view tensor,
                        absl::Span<const int64_t> expected, absl::Span<const int64_t> found);

// Overwrites `target` with `elements` values of a safetensors dtype ("F32", "BF16", "F16").
// UNIMPLEMENTED for another dtype. Requires as many bytes. A target on a device is filled by way of
// the host; that throws what LibTorch throws.
absl::Status ConvertInto(absl::string_view bytes, absl::string_view dtype,
                         const at::Tensor& target);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_MODEL_WEIGHTS_H_
