#include "services/rollout/make_runner.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/policy_model.h"
#include "common/text/tokenizer.h"
#include "services/rollout/make_cuda_runner.h"
#include "services/rollout/torch_model_runner.h"

namespace crescendo {
namespace {

// rollout.device as it is meant here: true for a CUDA device.
absl::StatusOr<bool> UseCuda(const RunConfig& config) {
  if (config.rollout.device == "cpu") return false;
  const absl::Status usable =
      config.policy.deterministic
          ? absl::InvalidArgumentError("policy.deterministic holds on the CPU only")
          : CheckCudaRunner();
  if (config.rollout.device == "auto" || usable.ok()) return usable.ok();
  return Annotate(usable, "rollout.device = \"cuda\"");
}

// The runner's own parts: on a CUDA device, or on the CPU.
absl::Status MakeOnCuda(const PolicyModel& model, const RunConfig& config,
                        ModelRunnerParts* parts) {
  CudaRunnerShape shape;
  shape.blocks = parts->blocks;
  shape.block_tokens = config.rollout.block_tokens;
  shape.step_tokens = std::max(config.rollout.prefill_tokens, config.rollout.slots);
  shape.slots = config.rollout.slots;
  ASSIGN_OR_RETURN(CudaRunnerParts made, MakeCudaRunner(model, shape));
  parts->cache_bytes = made.cache_bytes;
  parts->stage = std::move(made.stage);
  parts->runner = std::move(made.runner);
  absl::StrAppend(&parts->description, ", on CUDA with ", made.description);
  return absl::OkStatus();
}

absl::Status MakeOnCpu(std::unique_ptr<PolicyModel> model, const RunConfig& config,
                       ModelRunnerParts* parts) {
  TorchRunnerOptions options;
  options.blocks = parts->blocks;
  options.block_tokens = config.rollout.block_tokens;
  options.threads = config.rollout.threads;
  ASSIGN_OR_RETURN(std::unique_ptr<TorchModelRunner> runner,
                   TorchModelRunner::Create(std::move(model), options));
  parts->cache_bytes = runner->cache_bytes();
  TorchModelRunner* raw = runner.get();
  parts->stage = [raw](std::unique_ptr<StagedWeights> weights) { raw->Stage(std::move(weights)); };
  parts->runner = std::move(runner);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelRunnerParts> MakeModelRunner(FileSystem& files, const RunConfig& config,
                                                 const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(const bool cuda, UseCuda(config));
  LoadOptions load;
  load.dtype = config.policy.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
  load.deterministic = config.policy.deterministic;
  load.for_decoding = !cuda;
  ASSIGN_OR_RETURN(std::unique_ptr<PolicyModel> model,
                   PolicyModel::Load(files, config.policy.path, load));
  const ModelConfig& shape = model->config();
  if (tokenizer.vocab_size() > shape.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.policy.path, ": the tokenizer has ", tokenizer.vocab_size(),
                     " tokens, the model's embedding only ", shape.vocab_size, " rows"));
  }
  ModelRunnerParts parts;
  for (const int64_t id : shape.eos_token_ids)
    parts.stop_tokens.push_back(static_cast<int32_t>(id));
  if (tokenizer.eos_id().has_value()) parts.stop_tokens.push_back(*tokenizer.eos_id());
  std::sort(parts.stop_tokens.begin(), parts.stop_tokens.end());
  parts.stop_tokens.erase(std::unique(parts.stop_tokens.begin(), parts.stop_tokens.end()),
                          parts.stop_tokens.end());
  if (parts.stop_tokens.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        config.policy.path, ": neither model (eos_token_id) nor tokenizer names an end token"));
  }
  const int64_t blocks = config.rollout.kv_tokens / config.rollout.block_tokens;
  parts.blocks =
      static_cast<int>(std::clamp<int64_t>(blocks, 1, std::numeric_limits<int32_t>::max() / 2));
  // As fp32, whatever the dtype here, with room for nothing else.
  parts.weight_bytes_max = static_cast<uint64_t>(shape.parameter_count()) * 4 + 1024;
  parts.description = absl::StrCat(ArchitectureName(shape.architecture), ", ",
                                   shape.parameter_count(), " parameters, ", config.policy.dtype);
  if (model->tile_order()) {
    absl::StrAppend(&parts.description,
                    model->dtype() == at::kBFloat16 ? ", on AMX" : ", on AVX-512");
  }
  if (cuda) {
    RETURN_IF_ERROR(MakeOnCuda(*model, config, &parts));
  } else {
    RETURN_IF_ERROR(MakeOnCpu(std::move(model), config, &parts));
  }
  return parts;
}

}  // namespace crescendo
