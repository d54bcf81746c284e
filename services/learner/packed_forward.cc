#include "services/learner/packed_forward.h"

#include <ATen/ATen.h>

#include "common/base/status_macros.h"
#include "common/model/packed_attention.h"

namespace crescendo {

at::Tensor IndexTensor(const std::vector<int32_t>& values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.data_ptr<int64_t>());
  return tensor;
}

absl::Span<const float> FloatSpan(const at::Tensor& tensor) {
  CRESCENDO_CHECK(tensor.is_contiguous());
  return {tensor.const_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

TokenLogProbs ForwardLogProbs(PolicyModel& model, const PackedMicroBatch& micro,
                              bool want_entropy) {
  PackedAttention attention(micro.cu_seqlens);
  const at::Tensor hidden =
      model.Hidden(IndexTensor(micro.tokens), IndexTensor(micro.positions), attention);
  const at::Tensor rows = hidden.index_select(0, IndexTensor(micro.loss_rows));
  return TokenLogProb(rows, model.head_weight(), IndexTensor(micro.targets), micro.temperature,
                      want_entropy);
}

void BackwardLogProbs(const at::Tensor& log_probs, const std::vector<float>& slopes) {
  CRESCENDO_CHECK(log_probs.numel() == static_cast<int64_t>(slopes.size()));
  at::Tensor gradient = at::empty({log_probs.numel()}, at::kFloat);
  std::copy(slopes.begin(), slopes.end(), gradient.data_ptr<float>());
  log_probs.backward(gradient);
}

}  // namespace crescendo
