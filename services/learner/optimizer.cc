#include "services/learner/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "services/learner/adamw_kernel.h"

namespace crescendo {
namespace {

constexpr int64_t kGrain = 16384;  // elements of one thread's share at least

absl::Status CheckTensor(const NamedTensor& wanted, const TensorBytes& found) {
  const std::vector<int64_t> shape = wanted.tensor.sizes().vec();
  if (found.dtype != "F32" || found.shape != shape ||
      found.bytes.size() != wanted.tensor.nbytes()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "optimizer state: tensor '", wanted.name, "': expected F32 [", absl::StrJoin(shape, ", "),
        "], ", wanted.tensor.nbytes(), " bytes, found ", found.dtype, " [",
        absl::StrJoin(found.shape, ", "), "], ", found.bytes.size(), " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

AdamW::AdamW(std::vector<NamedTensor> parameters, const AdamWOptions& options) : options_(options) {
  aten_ = options.aten || (!parameters.empty() && !parameters[0].tensor.device().is_cpu());
  for (NamedTensor& parameter : parameters) {
    CRESCENDO_CHECK(parameter.tensor.is_contiguous());
    Slot slot;
    slot.parameter = std::move(parameter);
    slots_.push_back(std::move(slot));
  }
  Reset();
}

void AdamW::Reset() {
  const at::NoGradGuard no_grad;
  steps_ = 0;
  for (Slot& slot : slots_) {
    const at::Tensor& tensor = slot.parameter.tensor;
    const at::TensorOptions options = at::TensorOptions().dtype(at::kFloat).device(tensor.device());
    slot.exp_avg = at::zeros(tensor.sizes(), options);
    slot.exp_avg_sq = at::zeros(tensor.sizes(), options);
    if (tensor.scalar_type() != at::kFloat) slot.master = tensor.detach().to(at::kFloat);
  }
}

void AdamW::FoldGradients() {
  const at::NoGradGuard no_grad;
  for (Slot& slot : slots_) {
    at::Tensor& grad = slot.parameter.tensor.mutable_grad();
    // What the policy's own backward pass leaves is fp32 already.
    if (!slot.master.defined() || !grad.defined() || grad.scalar_type() == at::kFloat) continue;
    slot.folded = slot.folded.defined() ? slot.folded.add_(grad) : grad.to(at::kFloat).contiguous();
    grad.reset();
  }
}

at::Tensor AdamW::Gradient(const Slot& slot) {
  const at::NoGradGuard no_grad;
  const at::Tensor& grad = slot.parameter.tensor.grad();
  if (!grad.defined()) return slot.folded;
  const at::Tensor exact = grad.detach().to(at::kFloat).contiguous();
  return slot.folded.defined() ? slot.folded + exact : exact;
}

double AdamW::GradNorm() const {
  double sum = 0;
  if (aten_) {
    std::vector<at::Tensor> gradients;
    for (const Slot& slot : slots_) {
      at::Tensor gradient = Gradient(slot);
      if (gradient.defined() && gradient.numel() > 0) gradients.push_back(std::move(gradient));
    }
    if (gradients.empty()) return 0;
    const at::Tensor norms = at::stack(at::_foreach_norm(gradients, 2)).to(at::kDouble);
    return norms.square().sum().sqrt().item<double>();
  }
  for (const Slot& slot : slots_) {
    const at::Tensor grad = Gradient(slot);
    if (!grad.defined()) continue;
    sum += SumOfSquares(grad.const_data_ptr<float>(), grad.numel());
  }
  return std::sqrt(sum);
}

void AdamW::Step(double learning_rate, double grad_scale) {
  const at::NoGradGuard no_grad;
  ++steps_;
  if (aten_) return StepAten(learning_rate, grad_scale);
  const double t = static_cast<double>(steps_);
  const AdamWConstants constants = {
      static_cast<float>(grad_scale),
      static_cast<float>(1 - learning_rate * options_.weight_decay),
      static_cast<float>(1 - options_.beta1),
      static_cast<float>(options_.beta2),
      static_cast<float>(1 - options_.beta2),
      static_cast<float>(learning_rate / (1 - std::pow(options_.beta1, t))),
      static_cast<float>(std::sqrt(1 - std::pow(options_.beta2, t))),
      static_cast<float>(options_.epsilon)};
  for (Slot& slot : slots_) {
    const at::Tensor& tensor = slot.parameter.tensor;
    const at::Tensor grad = Gradient(slot);
    if (!grad.defined()) continue;
    const at::Tensor& weight = slot.master.defined() ? slot.master : tensor;
    const float* g = grad.const_data_ptr<float>();
    float* w = weight.data_ptr<float>();
    float* m = slot.exp_avg.data_ptr<float>();
    float* v = slot.exp_avg_sq.data_ptr<float>();
    at::parallel_for(0, tensor.numel(), kGrain, [&](int64_t begin, int64_t end) {
      AdamWStep(constants, end - begin, g + begin, w + begin, m + begin, v + begin);
    });
  }
  ApplyMasters();
}

void AdamW::StepAten(double learning_rate, double grad_scale) {
  std::vector<at::Tensor> weights, gradients, first, second;
  for (const Slot& slot : slots_) {
    const at::Tensor gradient = Gradient(slot);
    if (!gradient.defined() || gradient.numel() == 0) continue;
    weights.push_back(slot.master.defined() ? slot.master : slot.parameter.tensor.detach());
    gradients.push_back(gradient);
    first.push_back(slot.exp_avg);
    second.push_back(slot.exp_avg_sq);
  }
  if (weights.empty()) return;
  const at::TensorOptions options = first[0].options();
  const std::vector<at::Tensor> steps(weights.size(),
                                      at::full({}, static_cast<double>(steps_), options));
  std::optional<at::Tensor> divisor;  // of the gradients
  if (grad_scale != 1) divisor = at::full({}, 1 / grad_scale, options);
  at::_fused_adamw_(weights, gradients, first, second, {}, steps, learning_rate, options_.beta1,
                    options_.beta2, options_.weight_decay, options_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false, divisor);
  ApplyMasters();
}

std::vector<NamedTensor> AdamW::Masters() const {
  std::vector<NamedTensor> masters;
  for (const Slot& slot : slots_) {
    masters.push_back({slot.parameter.name,
                       slot.master.defined() ? slot.master : slot.parameter.tensor.detach()});
  }
  return masters;
}

void AdamW::ApplyMasters() {
  const at::NoGradGuard no_grad;
  for (Slot& slot : slots_) {
    if (slot.master.defined()) slot.parameter.tensor.copy_(slot.master);
  }
}

void AdamW::ZeroGrad() {
  for (Slot& slot : slots_) {
    slot.parameter.tensor.mutable_grad().reset();
    slot.folded.reset();
  }
}

std::vector<NamedTensor> AdamW::Moments() const {
  std::vector<NamedTensor> tensors;
  for (const Slot& slot : slots_) {
    tensors.push_back({absl::StrCat("exp_avg.", slot.parameter.name), slot.exp_avg});
    tensors.push_back({absl::StrCat("exp_avg_sq.", slot.parameter.name), slot.exp_avg_sq});
  }
  return tensors;
}

std::vector<TensorBytes> AdamW::State() const {
  CRESCENDO_CHECK(slots_.empty() || slots_[0].exp_avg.device().is_cpu());
  std::vector<TensorBytes> state;
  for (const NamedTensor& item : Moments()) {
    state.push_back({item.name, "F32", item.tensor.sizes().vec(),
                     absl::string_view(static_cast<const char*>(item.tensor.const_data_ptr()),
                                       item.tensor.nbytes())});
  }
  return state;
}

absl::Status AdamW::CheckState(absl::Span<const TensorBytes> tensors) const {
  std::unordered_map<std::string, const TensorBytes*> found;
  for (const TensorBytes& tensor : tensors) {
    if (!found.emplace(tensor.name, &tensor).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("optimizer state: tensor '", tensor.name, "' is there twice"));
    }
  }
  for (const NamedTensor& item : Moments()) {
    const auto it = found.find(item.name);
    if (it == found.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("optimizer state: tensor '", item.name, "' is missing"));
    }
    RETURN_IF_ERROR(CheckTensor(item, *it->second));
    found.erase(it);
  }
  if (!found.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("optimizer state: unknown tensor '", found.begin()->first, "'"));
  }
  return absl::OkStatus();
}

absl::Status AdamW::LoadState(absl::Span<const TensorBytes> tensors) {
  RETURN_IF_ERROR(CheckState(tensors));
  std::unordered_map<std::string, absl::string_view> bytes;
  for (const TensorBytes& tensor : tensors) bytes.emplace(tensor.name, tensor.bytes);
  for (const NamedTensor& item : Moments()) {
    const absl::string_view source = bytes.at(item.name);
    item.tensor.copy_(at::from_blob(const_cast<char*>(source.data()),  // read only
                                    item.tensor.sizes(), at::kFloat));
  }
  return absl::OkStatus();
}

double GradClipScale(double norm, double grad_clip) {
  if (grad_clip <= 0) return 1;
  return std::min(1.0, grad_clip / (norm + 1e-6));
}

}  // namespace crescendo
