// loss_of_logits CASE.json: the loss of fixed logits and its gradient, for a comparison with trl.
// The case is {"temperature", "aggregation", "ratio", "clip_low", "clip_high", "dual_clip",
// "kl_coefficient", "off_policy", "importance_cap", "entropy_coefficient", "context_tokens",
// "microbatch_tokens", "groups": [[{"tokens", "logits": [[...]], "behavior", "old", "reference",
// "reward", "masked"}]]}. Prints {"loss", "clip_ratio", "gradients": [[[[...]]]]}, by group,
// sample, token and logit. The logits are hidden states to a head that is the identity.
#include <ATen/ATen.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/status_macros.h"
#include "common/model/log_prob.h"
#include "common/os/posix_env.h"
#include "services/learner/advantage.h"
#include "services/learner/batch_packer.h"
#include "services/learner/packed_forward.h"
#include "services/learner/policy_loss.h"

namespace crescendo {
namespace {

using Json = nlohmann::json;

GroupExperience ReadGroup(const Json& json, uint64_t id, const Json& root) {
  GroupExperience group;
  group.group = GroupId(id);
  group.header.prompt_tokens = {0};
  group.header.temperature = root["temperature"];
  group.header.context_tokens = root["context_tokens"];
  for (const Json& item : json) {
    SampleExperience sample;
    sample.tokens = item["tokens"].get<std::vector<int32_t>>();
    sample.log_probs = item["behavior"].get<std::vector<float>>();
    sample.reward = item["reward"].get<double>();
    sample.verdict = item["masked"].get<bool>() ? Verdict::kUndecided
                     : sample.reward > 0        ? Verdict::kCorrect
                                                : Verdict::kIncorrect;
    sample.finish = FinishReason::kStop;
    sample.closed = true;
    group.samples.push_back(std::move(sample));
  }
  group.header.samples = static_cast<int>(group.samples.size());
  return group;
}

absl::StatusOr<PolicyLossOptions> ReadOptions(const Json& json) {
  PolicyLossOptions options;
  ASSIGN_OR_RETURN(options.ratio, ParseRatioKind(json["ratio"].get<std::string>()));
  ASSIGN_OR_RETURN(options.off_policy, ParseOffPolicy(json["off_policy"].get<std::string>()));
  options.clip_low = json["clip_low"];
  options.clip_high = json["clip_high"];
  options.dual_clip = json["dual_clip"];
  options.kl_coefficient = json["kl_coefficient"];
  options.importance_cap = json["importance_cap"];
  options.entropy_coefficient = json["entropy_coefficient"];
  return options;
}

// Loss and gradients of one micro-batch are added to `loss` and `out`.
void AddMicroBatch(const Json& json, const PackedMicroBatch& micro,
                   const PolicyLossOptions& options, PolicyLossStats& stats, Json& out) {
  std::vector<std::vector<float>> rows;
  std::vector<float> old, reference;
  std::vector<LossSample> samples;
  for (const PackedSample& s : micro.samples) {
    const Json& item = json["groups"][s.group.value()][s.sample];
    for (const Json& row : item["logits"]) rows.push_back(row.get<std::vector<float>>());
    for (const float value : item["old"].get<std::vector<float>>()) old.push_back(value);
    for (const float value : item["reference"].get<std::vector<float>>())
      reference.push_back(value);
    samples.push_back({static_cast<size_t>(s.loss_begin), static_cast<size_t>(s.loss_end),
                       s.advantage, s.token_weight});
  }
  const auto vocabulary = static_cast<int64_t>(rows[0].size());
  at::Tensor logits = at::empty({static_cast<int64_t>(rows.size()), vocabulary}, at::kFloat);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy(rows[i].begin(), rows[i].end(), logits.data_ptr<float>() + i * rows[i].size());
  }
  logits.requires_grad_(true);
  const TokenLogProbs policy = TokenLogProb(logits, at::eye(vocabulary, at::kFloat),
                                            IndexTensor(micro.targets), micro.temperature, true);
  PolicyLossInput input;
  input.log_probs = FloatSpan(policy.log_prob);
  input.old_log_probs = old;
  input.behavior_log_probs = micro.old_log_probs;
  input.reference_log_probs = reference;
  input.entropies = FloatSpan(policy.entropy);
  input.samples = samples;
  const PolicyLossResult result = PolicyLoss(input, options);
  BackwardLogProbs(policy, result.gradient, result.entropy_gradient);
  stats.Add(result.stats);
  const float* gradient = logits.grad().const_data_ptr<float>();
  for (const PackedSample& s : micro.samples) {
    Json& of_sample = out["gradients"][s.group.value()][s.sample] = Json::array();
    for (int32_t t = s.loss_begin; t < s.loss_end; ++t) {
      const float* row = gradient + t * vocabulary;
      of_sample.push_back(std::vector<float>(row, row + vocabulary));
    }
  }
}

absl::Status Run(const std::string& path) {
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  ASSIGN_OR_RETURN(const std::string text, files->ReadFile(path, 256u << 20));
  const Json json = Json::parse(text);
  ASSIGN_OR_RETURN(const PolicyLossOptions options, ReadOptions(json));
  std::vector<GroupExperience> groups;
  std::vector<GroupAdvantages> advantages;
  for (const Json& group : json["groups"]) {
    groups.push_back(ReadGroup(group, groups.size(), json));
    advantages.push_back(ComputeAdvantages(RewardOptions{}, groups.back()));
  }
  PackOptions pack;
  pack.microbatch_tokens = json["microbatch_tokens"];
  pack.drop_zero_advantage = false;
  ASSIGN_OR_RETURN(pack.aggregation, ParseLossAggregation(json["aggregation"].get<std::string>()));
  ASSIGN_OR_RETURN(const std::vector<MiniBatch> mini_batches, PackBatch(pack, groups, advantages));
  Json out;
  PolicyLossStats stats;
  for (const PackedMicroBatch& micro : mini_batches[0].micro_batches) {
    AddMicroBatch(json, micro, options, stats, out);
  }
  out["loss"] = stats.loss;
  out["clip_ratio"] = stats.clip_ratio();
  out["micro_batches"] = mini_batches[0].micro_batches.size();
  std::cout << out.dump() << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: loss_of_logits CASE.json\n";
    return 2;
  }
  const absl::Status status = crescendo::Run(argv[1]);
  if (!status.ok()) std::cerr << "loss_of_logits: " << status << "\n";
  return status.ok() ? 0 : 1;
}
