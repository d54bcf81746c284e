// train_steps POLICY BATCHES.json OUT: trains the steps of a file on the real trainer, for a
// comparison with transformers. BATCHES.json is {"learning_rate", "kl_coefficient", "clip_high",
// "minibatches", "microbatch_tokens", "temperature", (perhaps) "lora_rank", "lora_alpha",
// "lora_targets", "recompute_layers", "steps": [[{"prompt": [ids], "samples":
// [{"tokens", "log_probs", "reward"}]}]]}. Prints a JSON line a step and writes the policy to OUT.
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "services/learner/advantage.h"
#include "services/learner/batch_packer.h"
#include "services/learner/trainer_factory.h"

namespace crescendo {
namespace {

GroupExperience ReadGroup(const nlohmann::json& json, uint64_t id, float temperature) {
  GroupExperience group;
  group.group = GroupId(id);
  group.header.prompt_tokens = json["prompt"].get<std::vector<int32_t>>();
  group.header.temperature = temperature;
  for (const nlohmann::json& item : json["samples"]) {
    SampleExperience sample;
    sample.tokens = item["tokens"].get<std::vector<int32_t>>();
    sample.log_probs = item["log_probs"].get<std::vector<float>>();
    sample.reward = item["reward"].get<double>();
    sample.verdict = sample.reward > 0 ? Verdict::kCorrect : Verdict::kIncorrect;
    sample.finish = FinishReason::kStop;
    sample.closed = true;
    group.samples.push_back(std::move(sample));
  }
  group.header.samples = static_cast<int>(group.samples.size());
  return group;
}

absl::Status Run(const std::string& policy, const std::string& path, const std::string& out) {
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  ASSIGN_OR_RETURN(const std::string text, files->ReadFile(path, 256u << 20));
  const nlohmann::json json = nlohmann::json::parse(text);
  TorchTrainerOptions options;
  options.policy = policy;
  options.loss.kl_coefficient = json["kl_coefficient"];
  options.loss.clip_high = json["clip_high"];
  options.lora_rank = json.value("lora_rank", 0);
  options.lora_alpha = json.value("lora_alpha", 0.0);
  options.lora_targets = json.value("lora_targets", "");
  options.recompute_layers = json.value("recompute_layers", 0);
  ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer, MakeTorchTrainer(*files, options));
  int64_t step = 0;
  for (const nlohmann::json& batch : json["steps"]) {
    std::vector<GroupExperience> groups;
    std::vector<GroupAdvantages> advantages;
    for (const nlohmann::json& group : batch) {
      groups.push_back(ReadGroup(group, groups.size(), json["temperature"]));
      advantages.push_back(ComputeAdvantages(RewardOptions{}, groups.back()));
    }
    PackOptions pack;
    pack.microbatch_tokens = json["microbatch_tokens"];
    pack.minibatches = json["minibatches"];
    pack.drop_zero_advantage = options.loss.kl_coefficient == 0;
    TrainRequest request;
    request.step = StepId(step++);
    request.learning_rate = json["learning_rate"];
    ASSIGN_OR_RETURN(request.mini_batches, PackBatch(pack, groups, advantages));
    ASSIGN_OR_RETURN(const StepResult result, trainer->Train(request, nullptr));
    std::cout << nlohmann::json{{"loss", result.loss},
                                {"kl", result.kl},
                                {"entropy", result.entropy},
                                {"grad_norm", result.grad_norm},
                                {"clip_ratio", result.clip_ratio},
                                {"mismatch_max", result.mismatch_max}}
                     .dump()
              << std::endl;
  }
  return trainer->SavePolicy(out);
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: train_steps POLICY BATCHES.json OUT\n";
    return 2;
  }
  const absl::Status status = crescendo::Run(argv[1], argv[2], argv[3]);
  if (!status.ok()) std::cerr << "train_steps: " << status << "\n";
  return status.ok() ? 0 : 1;
}
