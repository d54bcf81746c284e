#include "services/learner/lora.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/formats/safetensors.h"
#include "common/model/torch_guard.h"
#include "services/learner/compute_device.h"

namespace crescendo {
namespace {

constexpr absl::string_view kTargets[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                          "gate_proj", "up_proj", "down_proj"};

absl::StatusOr<std::vector<std::string>> ParseTargets(const std::string& text) {
  std::vector<std::string> targets = absl::StrSplit(text, ',', absl::SkipWhitespace());
  for (std::string& target : targets) {
    target = std::string(absl::StripAsciiWhitespace(target));
    bool known = false;
    for (const absl::string_view name : kTargets) known = known || name == target;
    if (!known) {
      return absl::InvalidArgumentError(absl::StrCat("policy.lora_targets: expected some of ",
                                                     absl::StrJoin(kTargets, ", "), ", found '",
                                                     target, "'"));
    }
  }
  if (targets.empty()) return absl::InvalidArgumentError("policy.lora_targets: found none");
  return targets;
}

bool IsTarget(const std::vector<std::string>& targets, const std::string& parameter) {
  for (const std::string& target : targets) {
    if (absl::EndsWith(parameter, absl::StrCat(".", target, ".weight"))) return true;
  }
  return false;
}

// Uniform in +-1 / sqrt(in): PEFT's start of A.
at::Tensor RandomA(int64_t rank, int64_t in, uint64_t seed) {
  at::Tensor a = at::empty({rank, in}, at::kFloat);
  CounterRng rng(seed, /*stream=*/3);
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  float* data = a.data_ptr<float>();
  for (int64_t i = 0; i < a.numel(); ++i) {
    data[i] = static_cast<float>((2 * rng.Uniform() - 1) * bound);
  }
  return a;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Lora>> Lora::Create(const LoraOptions& options,
                                                   const PolicyModel& base, PolicyModel* model,
                                                   const ShardedParameters* base_shards,
                                                   const ShardedParameters* shards) {
  const at::NoGradGuard no_grad;
  CRESCENDO_CHECK(options.rank > 0 && (base_shards == nullptr) == (shards == nullptr));
  std::unique_ptr<Lora> lora(new Lora(options));
  if (lora->options_.alpha == 0) lora->options_.alpha = 2 * options.rank;
  ASSIGN_OR_RETURN(lora->targets_, ParseTargets(options.targets));
  model->SetRequiresGrad(false);
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    const NamedTensor& parameter = model->parameters()[i];
    if (!IsTarget(lora->targets_, parameter.name)) continue;
    const int64_t out = parameter.tensor.size(0), in = parameter.tensor.size(1);
    if (options.rank > std::min(out, in)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "policy.lora_rank: is ", options.rank, ", but ", parameter.name, " is ", out, " x ", in));
    }
    parameter.tensor.requires_grad_(true);
    Adapter adapter{.merged = parameter.tensor,
                    .base = base.parameters()[i].tensor.detach(),
                    .own = parameter.tensor,
                    .a = RandomA(options.rank, in, MixSeed(options.seed, i)),
                    .b = at::zeros({out, options.rank}, at::kFloat)};
    if (shards != nullptr) {
      adapter.base = base_shards->shards()[i].tensor;
      adapter.own = shards->shards()[i].tensor;
      adapter.begin = shards->BeginOf(i);
    }
    adapter.a = adapter.a.to(adapter.base.device());
    adapter.b = adapter.b.to(adapter.base.device());
    adapter.a.requires_grad_(true);
    adapter.b.requires_grad_(true);
    const std::string module = absl::StrCat(
        "base_model.model.", parameter.name.substr(0, parameter.name.size() - 7));  // ".weight"
    lora->parameters_.push_back({absl::StrCat(module, ".lora_A.weight"), adapter.a});
    lora->parameters_.push_back({absl::StrCat(module, ".lora_B.weight"), adapter.b});
    lora->adapters_.push_back(std::move(adapter));
  }
  model->SetAfterLayer([raw = lora.get()](int) { raw->TakeGradients(); });
  return lora;
}

void Lora::TakeGradients() {
  const at::NoGradGuard no_grad;
  const auto add = [](const at::Tensor& leaf, const at::Tensor& gradient) {
    at::Tensor& grad = leaf.mutable_grad();
    grad = grad.defined() ? grad.add_(gradient) : gradient;
  };
  for (const Adapter& adapter : adapters_) {
    at::Tensor& dw = adapter.merged.mutable_grad();
    if (!dw.defined()) continue;
    add(adapter.b, at::mm(dw, adapter.a.t()).mul_(scale()));
    add(adapter.a, at::mm(adapter.b.t(), dw).mul_(scale()));
    dw.reset();
  }
}

void Lora::Merge() {
  const at::NoGradGuard no_grad;
  for (const Adapter& adapter : adapters_) {
    if (adapter.own.dim() == 1) {
      MergeShare(adapter);
      continue;
    }
    adapter.own.copy_(at::addmm(adapter.base.to(at::kFloat), adapter.b, adapter.a, 1.0, scale()));
  }
}

// The rows of B A that the share touches, cut to it.
void Lora::MergeShare(const Adapter& adapter) const {
  const int64_t size = adapter.own.numel(), in = adapter.a.size(1);
  if (size == 0) return;
  const int64_t first = adapter.begin / in, end = (adapter.begin + size + in - 1) / in;
  const at::Tensor rows = at::mm(adapter.b.narrow(0, first, end - first), adapter.a);
  const at::Tensor added = rows.view(-1).narrow(0, adapter.begin - first * in, size);
  adapter.own.copy_(at::add(adapter.base.to(at::kFloat), added, scale()));
}

absl::Status Lora::Save(FileSystem& files, const std::string& folder,
                        const std::string& base_path) const {
  RETURN_IF_ERROR(files.MakeDirs(folder));
  std::vector<TensorView> views;
  std::vector<std::string> bytes;
  RETURN_IF_ERROR(CatchTorch("copy the adapters to the host", [&] {
    for (const NamedTensor& p : parameters_) bytes.push_back(HostBytes(p.tensor));
  }));
  for (size_t i = 0; i < bytes.size(); ++i) {
    views.push_back({parameters_[i].name, DType::kF32, parameters_[i].tensor.sizes().vec(),
                     absl::MakeConstSpan(bytes[i].data(), bytes[i].size())});
  }
  RETURN_IF_ERROR(WriteSafetensors(files, JoinPath(folder, "adapter_model.safetensors"), views,
                                   {{"format", "pt"}}));
  const nlohmann::json config = {{"peft_type", "LORA"},
                                 {"task_type", "CAUSAL_LM"},
                                 {"base_model_name_or_path", base_path},
                                 {"r", options_.rank},
                                 {"lora_alpha", options_.alpha},
                                 {"target_modules", targets_},
                                 {"lora_dropout", 0.0},
                                 {"bias", "none"},
                                 {"fan_in_fan_out", false},
                                 {"use_rslora", false},
                                 {"inference_mode", true}};
  return files.WriteFile(JoinPath(folder, "adapter_config.json"), config.dump(2) + "\n");
}

}  // namespace crescendo
