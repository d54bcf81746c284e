#include "services/learner/make_trainer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/learner/compute_device.h"
#include "services/learner/rank_group.h"
#include "services/learner/rank_trainer.h"
#include "services/learner/stage_objective.h"
#include "services/learner/torch_trainer.h"

namespace crescendo {
namespace {

absl::StatusOr<std::unique_ptr<TorchTrainer>> MakeLocal(FileSystem& files, const RunConfig& config,
                                                        RankGroup* ranks, const RankSetup& setup) {
  TorchTrainerOptions options;
  options.policy = config.policy.path;
  options.dtype = config.learner.dtype == "policy" ? config.policy.dtype : config.learner.dtype;
  options.export_dtype = config.policy.dtype;
  options.deterministic = config.policy.deterministic;
  options.recompute_layers = config.learner.recompute_layers;
  options.lora_rank = config.policy.lora_rank;
  options.lora_alpha = config.policy.lora_alpha;
  options.lora_targets = config.policy.lora_targets;
  options.lora_seed = config.run.seed;
  for (const StageSection& stage : config.stages) {
    ASSIGN_OR_RETURN(const PolicyLossOptions loss, MakeLossOptions(stage.objective));
    if (loss.kl_coefficient > 0) options.reference = true;
  }
  options.adamw.beta1 = config.optimizer.beta1;
  options.adamw.beta2 = config.optimizer.beta2;
  options.adamw.epsilon = config.optimizer.epsilon;
  options.adamw.weight_decay = config.optimizer.weight_decay;
  options.grad_clip = config.optimizer.grad_clip;
  ASSIGN_OR_RETURN(options.schedule, MakeSchedule(config));
  options.threads = config.learner.threads;
  options.ranks = ranks;
  options.zero_stage = config.learner.zero_stage;
  options.clock = setup.clock;
  options.device = config.learner.device;
  options.local_rank = setup.ranks.local_rank;
  return TorchTrainer::Create(files, options);
}

absl::StatusOr<std::unique_ptr<RankGroup>> JoinRanks(const RunConfig& config,
                                                     const RankSetup& setup) {
  RankGroupOptions options;
  options.ranks = setup.ranks;
  // What ranks must agree on besides what the whole run must.
  options.digest = absl::StrCat(ConfigDigest(config).substr(0, 16), "-", config.learner.dtype, "-",
                                config.learner.device, "-", config.learner.zero_stage);
  options.join_timeout = std::max(options.join_timeout, config.network.connect_timeout);
  options.timeout = config.learner.rank_timeout;
  return RankGroup::Join(options, setup.stopped);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> MakeTrainer(FileSystem& files, const RunConfig& config,
                                                     const RankSetup& setup) {
  CRESCENDO_CHECK(setup.ranks.rank == 0);
  LoadDevice(config.learner.device);
  std::unique_ptr<RankGroup> ranks;
  if (setup.ranks.size > 1) {
    ASSIGN_OR_RETURN(ranks, JoinRanks(config, setup));
  }
  absl::StatusOr<std::unique_ptr<TorchTrainer>> local =
      MakeLocal(files, config, ranks.get(), setup);
  if (ranks == nullptr) {
    RETURN_IF_ERROR(local.status());
    return std::unique_ptr<Trainer>(*std::move(local));
  }
  if (!local.ok()) {
    ranks->Tell(local.status());
    return local.status();
  }
  return std::unique_ptr<Trainer>(new RankTrainer(
      std::move(ranks), *std::move(local), config.learner.microbatch_tokens, setup.on_imbalance));
}

absl::Status RunRank(FileSystem& files, const RunConfig& config, const RankSetup& setup) {
  LoadDevice(config.learner.device);
  ASSIGN_OR_RETURN(const std::unique_ptr<RankGroup> ranks, JoinRanks(config, setup));
  const absl::StatusOr<std::unique_ptr<TorchTrainer>> local =
      MakeLocal(files, config, ranks.get(), setup);
  if (!local.ok()) {
    ranks->Tell(local.status());
    return local.status();
  }
  return ServeRank(*ranks, **local, files);
}

}  // namespace crescendo
