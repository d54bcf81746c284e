#include "common/model/cuda_weights.h"

#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/formats/half.h"

namespace crescendo {
namespace {

constexpr int64_t kAlignment = 256;

// Tensors that continue the one before them, so that the two (or three) are one matrix or vector.
bool ContinuesFused(absl::string_view name, absl::string_view before) {
  const auto ends = [](absl::string_view text, absl::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
  };
  const std::pair<const char*, const char*> fused[] = {{"q_proj.weight", "k_proj.weight"},
                                                       {"k_proj.weight", "v_proj.weight"},
                                                       {"q_proj.bias", "k_proj.bias"},
                                                       {"k_proj.bias", "v_proj.bias"},
                                                       {"gate_proj.weight", "up_proj.weight"}};
  for (const auto& [first, second] : fused) {
    if (ends(before, first) && ends(name, second)) return true;
  }
  return false;
}

int64_t Elements(const ParameterSpec& spec) {
  int64_t count = 1;
  for (const int64_t size : spec.shape) count *= size;
  return count;
}

// The specs' order with the biases of a layer before its o_proj, out of the way of the matrices:
// what is to be fused are neighbours then.
std::vector<size_t> FusedOrder(const std::vector<ParameterSpec>& specs) {
  std::vector<size_t> order, biases;
  for (size_t i = 0; i < specs.size(); ++i) {
    const absl::string_view name = specs[i].name;
    if (name.find("_proj.bias") != absl::string_view::npos) {
      biases.push_back(i);
      continue;
    }
    if (name.find("o_proj.weight") != absl::string_view::npos) {
      order.insert(order.end(), biases.begin(), biases.end());
      biases.clear();
    }
    order.push_back(i);
  }
  return order;
}

// `count` elements in `dtype` for the device, from F32 or BF16.
std::string Converted(const TensorBytes& tensor, int64_t count, cuda::Dtype dtype) {
  const auto size = static_cast<size_t>(count);
  std::string out(size * static_cast<size_t>(cuda::DtypeBytes(dtype)), '\0');
  for (size_t i = 0; i < size; ++i) {
    if (dtype == cuda::Dtype::kBf16) {
      float value;
      std::memcpy(&value, tensor.bytes.data() + 4 * i, sizeof(value));
      const uint16_t bits = Bf16FromFloat(value);
      std::memcpy(&out[2 * i], &bits, sizeof(bits));
    } else {
      uint16_t bits;
      std::memcpy(&bits, tensor.bytes.data() + 2 * i, sizeof(bits));
      const float value = FloatFromBf16(bits);
      std::memcpy(&out[4 * i], &value, sizeof(value));
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<CudaWeights> CudaWeights::Create(const ModelConfig& config, cuda::Dtype dtype) {
  CudaWeights weights;
  weights.dtype_ = dtype;
  weights.specs_ = ParameterSpecs(config);
  weights.offsets_.resize(weights.specs_.size());
  int64_t end = 0;
  absl::string_view before;
  for (const size_t i : FusedOrder(weights.specs_)) {
    const ParameterSpec& spec = weights.specs_[i];
    if (!ContinuesFused(spec.name, before)) end = (end + kAlignment - 1) / kAlignment * kAlignment;
    weights.offsets_[i] = end;
    end += Elements(spec) * cuda::DtypeBytes(dtype);
    before = spec.name;
  }
  ASSIGN_OR_RETURN(
      weights.memory_,
      CudaMemory::Allocate(CudaMemory::Kind::kDevice, end,
                           absl::StrCat("weights (", config.parameter_count(), " parameters)")));
  weights.layers_.resize(static_cast<size_t>(config.layers));
  for (size_t i = 0; i < weights.specs_.size(); ++i) {
    const absl::string_view name = weights.specs_[i].name;
    const void* data = weights.memory_.data() + weights.offsets_[i];
    const auto is = [&](absl::string_view part) { return name.find(part) != name.npos; };
    if (is("embed_tokens")) weights.embedding_ = data;
    if (name == "model.norm.weight") weights.final_norm_ = data;
    if (is("lm_head")) weights.head_ = data;
    constexpr absl::string_view kLayers = "model.layers.";
    if (name.substr(0, kLayers.size()) != kLayers) continue;
    size_t layer = 0;
    for (size_t at = kLayers.size(); name[at] != '.'; ++at) {
      layer = layer * 10 + static_cast<size_t>(name[at] - '0');
    }
    CudaLayerWeights& w = weights.layers_[layer];
    if (is("input_layernorm")) w.input_norm = data;
    if (is("q_proj.weight")) w.qkv = data;
    if (is("q_proj.bias")) w.qkv_bias = data;
    if (is("q_norm")) w.q_norm = data;
    if (is("k_norm")) w.k_norm = data;
    if (is("o_proj")) w.o = data;
    if (is("post_attention_layernorm")) w.post_norm = data;
    if (is("gate_proj")) w.gate_up = data;
    if (is("down_proj")) w.down = data;
  }
  if (config.tie_embeddings) weights.head_ = weights.embedding_;
  return weights;
}

absl::Status CudaWeights::Load(absl::Span<const TensorBytes> tensors) {
  ASSIGN_OR_RETURN(const std::vector<const TensorBytes*> sources, MatchState(specs_, tensors));
  for (size_t i = 0; i < sources.size(); ++i) {
    const int64_t count = Elements(specs_[i]);
    const bool same = sources[i]->dtype == (dtype_ == cuda::Dtype::kF32 ? "F32" : "BF16");
    std::string converted;
    if (!same) converted = Converted(*sources[i], count, dtype_);
    RETURN_IF_ERROR(CudaStatus(
        cudaMemcpy(memory_.data() + offsets_[i], same ? sources[i]->bytes.data() : converted.data(),
                   static_cast<size_t>(count * cuda::DtypeBytes(dtype_)), cudaMemcpyHostToDevice),
        absl::StrCat("copy '", specs_[i].name, "' to the device")));
  }
  // The copies above return when the host's memory may be used again, not when all has arrived.
  return CudaStatus(cudaStreamSynchronize(nullptr), "copy weights to the device");
}

}  // namespace crescendo
