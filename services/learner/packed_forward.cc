#include "services/learner/packed_forward.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

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
  PackedAttention attention(micro.cu_seqlens, model.deterministic(), model.aten());
  const at::Tensor hidden =
      model.Hidden(IndexTensor(micro.tokens), IndexTensor(micro.positions), attention);
  const at::Tensor rows = hidden.index_select(0, IndexTensor(micro.loss_rows).to(model.device()));
  const WeightUse head(model.weight_watcher(), model.HeadUnit());
  return TokenLogProb(rows, model.head_weight(), IndexTensor(micro.targets), micro.temperature,
                      want_entropy, model.deterministic(), model.aten());
}

TokenLogProbs ForwardAndBackward(PolicyModel& model, const PackedMicroBatch& micro,
                                 bool want_entropy, const RowSlopes& slopes,
                                 const std::function<void()>& forward_done) {
  PackedAttention attention(micro.cu_seqlens, model.deterministic(), model.aten());
  const at::Tensor hidden =
      model.Hidden(IndexTensor(micro.tokens), IndexTensor(micro.positions), attention);
  const at::Tensor loss_rows = IndexTensor(micro.loss_rows).to(model.device());
  TokenLogProbs outputs;
  at::Tensor d_hidden;
  {
    const at::NoGradGuard no_grad;
    const at::Tensor rows = hidden.detach().index_select(0, loss_rows);
    at::Tensor d_rows = at::empty_like(rows);
    const WeightUse head(model.weight_watcher(), model.HeadUnit());
    outputs = TokenLogProbBackward(rows, model.head_weight(), IndexTensor(micro.targets),
                                   micro.temperature, want_entropy, model.deterministic(), slopes,
                                   d_rows, model.aten());
    d_hidden = at::zeros_like(hidden);
    d_hidden.index_copy_(0, loss_rows, d_rows);
  }
  if (forward_done) forward_done();
  hidden.backward(d_hidden);
  return outputs;
}

namespace {

at::Tensor FloatTensor(const std::vector<float>& values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::copy(values.begin(), values.end(), tensor.data_ptr<float>());
  return tensor;
}

}  // namespace

void BackwardLogProbs(const TokenLogProbs& outputs, const std::vector<float>& slopes,
                      const std::vector<float>& entropy_slopes) {
  CRESCENDO_CHECK(outputs.log_prob.numel() == static_cast<int64_t>(slopes.size()));
  if (entropy_slopes.empty()) return outputs.log_prob.backward(FloatTensor(slopes));
  CRESCENDO_CHECK(entropy_slopes.size() == slopes.size());
  torch::autograd::backward({outputs.log_prob, outputs.entropy},
                            {FloatTensor(slopes), FloatTensor(entropy_slopes)});
}

}  // namespace crescendo
