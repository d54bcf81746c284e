// What comes into and goes out of the trainer: the policy's files, weights for workers, state for
// checkpoints.
#include <ATen/ATen.h>

#include <cstring>
#include <deque>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/torch_guard.h"
#include "services/learner/compute_device.h"
#include "services/learner/kl_control.h"
#include "services/learner/rank_group.h"
#include "services/learner/torch_trainer.h"

namespace crescendo {
namespace {

constexpr size_t kTokenizerBytesMax = 256u << 20;
constexpr absl::string_view kTokenizerFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt",     "chat_template.jinja"};

absl::StatusOr<at::ScalarType> ParseDtype(absl::string_view name) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  return absl::InvalidArgumentError(
      absl::StrCat("trainer: dtype '", name, "': expected float32 or bfloat16"));
}

std::vector<TensorData> CopyOf(const std::vector<TensorBytes>& tensors) {
  std::vector<TensorData> copies;
  copies.reserve(tensors.size());
  for (const TensorBytes& tensor : tensors) {
    copies.push_back({tensor.name, tensor.dtype, tensor.shape, std::string(tensor.bytes)});
  }
  return copies;
}

TensorData ConvertedCopy(const NamedTensor& parameter, at::ScalarType dtype) {
  return {parameter.name, dtype == at::kFloat ? "F32" : "BF16", parameter.tensor.sizes().vec(),
          HostBytes(parameter.tensor.detach().to(dtype))};
}

struct TrainerCounters {
  int64_t updates = 0;
  double kl_scale = 1;
};

// A state without a KL scale is one of a run whose coefficient stays.
absl::StatusOr<TrainerCounters> CountersFromJson(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  TrainerCounters counters;
  bool good = json.is_object() && json.contains("updates") && json["updates"].is_number_integer();
  if (good) {
    counters.updates = json["updates"].get<int64_t>();
    if (json.contains("kl_scale")) {
      good = json["kl_scale"].is_number();
      if (good) counters.kl_scale = json["kl_scale"].get<double>();
    }
  }
  if (!good || counters.updates < 0 || !(counters.kl_scale >= kKlScaleMin) ||
      !(counters.kl_scale <= kKlScaleMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("trainer state: expected an object with an integer 'updates' and a number "
                     "'kl_scale', found '",
                     text, "'"));
  }
  return counters;
}

}  // namespace

// Each model with shares of its own.
absl::StatusOr<std::unique_ptr<PolicyModel>> TorchTrainer::LoadModel(
    FileSystem& files, const TorchTrainerOptions& options, at::Device device,
    std::unique_ptr<ShardedParameters>& shards) {
  LoadOptions load{.deterministic = options.deterministic,
                   .device = device,
                   .aten = options.aten,
                   .functions = FunctionsOf(device)};
  ASSIGN_OR_RETURN(load.dtype, ParseDtype(options.dtype));
  if (options.zero_stage == 3 && options.ranks != nullptr && options.ranks->size() > 1) {
    shards = std::make_unique<ShardedParameters>(options.ranks);
    load.after_unit = [&shards](absl::Span<const NamedTensor> unit) {
      return shards->AddUnit(unit);
    };
  }
  ASSIGN_OR_RETURN(auto model, PolicyModel::Load(files, options.policy, load));
  if (shards != nullptr) shards->Attach(*model);
  return model;
}

absl::StatusOr<std::vector<TensorData>> TorchTrainer::ExportWeights() {
  return CatchTorch("exporting the weights", [&]() -> absl::StatusOr<std::vector<TensorData>> {
    const bool same = options_.export_dtype.empty() || options_.export_dtype == options_.dtype;
    if (same && shards_ == nullptr && model_->device().is_cpu()) return CopyOf(model_->State());
    ASSIGN_OR_RETURN(const at::ScalarType dtype,
                     ParseDtype(same ? options_.dtype : options_.export_dtype));
    if (shards_ != nullptr) return ExportShards(dtype);
    std::vector<TensorData> weights;
    for (const NamedTensor& parameter : model_->parameters()) {
      weights.push_back(ConvertedCopy(parameter, dtype));
    }
    return weights;
  });
}

absl::StatusOr<std::vector<TensorData>> TorchTrainer::ExportShards(at::ScalarType dtype) {
  std::vector<TensorData> weights;
  RETURN_IF_ERROR(Blame(CatchTorch("gathering the weights", [&] {
    for (int unit = 0; unit < shards_->units(); ++unit) {
      const WeightUse use(shards_.get(), unit);
      if (options_.ranks->rank() != 0) continue;
      const auto [begin, end] = shards_->RangeOf(unit);
      for (size_t i = begin; i < end; ++i) {
        weights.push_back(ConvertedCopy(model_->parameters()[i], dtype));
      }
    }
  })));
  return weights;
}

absl::StatusOr<TrainerState> TorchTrainer::ExportState() {
  return CatchTorch("exporting the trainer's state", [&]() -> absl::StatusOr<TrainerState> {
    TrainerState state = optimizer_.Export();
    state.extra_json =
        nlohmann::json{{"updates", optimizer_.steps()}, {"kl_scale", kl_scale_}}.dump();
    return state;
  });
}

absl::Status TorchTrainer::ImportState(const TrainerState& state) {
  return CatchTorch("importing the trainer's state", [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const TrainerCounters counters, CountersFromJson(state.extra_json));
    RETURN_IF_ERROR(Annotate(optimizer_.Check(state), "trainer state"));
    RETURN_IF_ERROR(optimizer_.Import(state, counters.updates));
    if (lora_ != nullptr) lora_->Merge();
    kl_scale_ = counters.kl_scale;
    return absl::OkStatus();
  });
}

// Rank 0 holds all of the policy while it writes it.
absl::Status TorchTrainer::SaveShards(const std::string& folder) {
  return Blame(CatchTorch("gathering the policy", [&]() -> absl::Status {
    std::deque<WeightUse> uses;
    for (int unit = 0; unit < shards_->units(); ++unit) {
      uses.emplace_back(shards_.get(), unit);
      if (options_.ranks->rank() != 0) uses.clear();
    }
    return options_.ranks->rank() == 0 ? model_->Save(files_, folder) : absl::OkStatus();
  }));
}

absl::Status TorchTrainer::SavePolicy(const std::string& folder) {
  if (shards_ != nullptr) {
    RETURN_IF_ERROR(SaveShards(folder));
  } else {
    RETURN_IF_ERROR(model_->Save(files_, folder));
  }
  if (options_.ranks != nullptr && options_.ranks->rank() != 0) return absl::OkStatus();
  if (lora_ != nullptr) {
    RETURN_IF_ERROR(lora_->Save(files_, JoinPath(folder, "adapter"), options_.policy));
  }
  if (!files_.IsDirectory(options_.policy)) return absl::OkStatus();
  return CopyTokenizerFiles(files_, options_.policy, folder);
}

absl::Status CopyTokenizerFiles(FileSystem& files, const std::string& from, const std::string& to) {
  for (const absl::string_view name : kTokenizerFiles) {
    const std::string source = JoinPath(from, name);
    if (!files.Exists(source)) continue;
    ASSIGN_OR_RETURN(const std::string text, files.ReadFile(source, kTokenizerBytesMax));
    RETURN_IF_ERROR(files.WriteFile(JoinPath(to, name), text));
  }
  return absl::OkStatus();
}

}  // namespace crescendo
