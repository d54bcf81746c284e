// Speed of one GRPO step of the learner on this machine. One JSON line a measurement.
//
//   learner_bench [--policy DIR|FILE.gguf] [--dtype float32|bfloat16] [--threads N] [--groups N]
//                 [--samples N] [--prompt N] [--tokens N] [--minibatches N]
//                 [--microbatch-tokens N] [--steps N] [--cold 1] [--recompute-layers N]
//                 [--lora-rank N] [--checkpoints FOLDER] [--deltas 1]
//
// --deltas measures weight_delta instead: versions published in bf16 after steps of learning rate
// 1e-6, how many words change from one to the next, and what that is as bytes (one line a step).
//
// --checkpoints measures checkpoint_pause instead: by how much a step that begins a checkpoint, and
// runs while a thread writes it into FOLDER, takes longer than the one before without.
//
// By default the demo's step (its base policy, 32 groups of 8 samples, 60 tokens, two
// mini-batches). learner_cpu of tests/bench/README.md: --policy SmolLM2's GGUF --groups 2 --samples
// 8 --prompt 1
// --tokens 512 --minibatches 1 --threads 2.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/base/word_delta.h"
#include "common/os/posix_env.h"
#include "common/os/process.h"
#include "services/learner/advantage.h"
#include "services/learner/batch_packer.h"
#include "services/learner/checkpoint.h"
#include "services/learner/trainer_factory.h"
#include "services/learner/weight_store.h"

namespace crescendo {
namespace {

struct Options {
  std::string policy = "deploy/recipes/demo-base";
  std::string dtype = "float32";
  int threads = 1;
  int groups = 32;
  int samples = 8;
  int prompt = 20;
  int tokens = 60;
  int minibatches = 2;
  int microbatch_tokens = 8192;
  int steps = 5;
  int cold = 0;  // 1: the first step counts too, as does the memory that it is the first to touch
  int recompute_layers = 0;
  int lora_rank = 0;
  std::string checkpoints;  // folder; empty: none are written
  int deltas = 0;
  float log_prob = -2.0f;  // of every token, as the rollout would say
};

absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& words) {
  Options options;
  const std::vector<std::pair<absl::string_view, int*>> numbers = {
      {"--threads", &options.threads},     {"--groups", &options.groups},
      {"--samples", &options.samples},     {"--prompt", &options.prompt},
      {"--tokens", &options.tokens},       {"--minibatches", &options.minibatches},
      {"--steps", &options.steps},         {"--microbatch-tokens", &options.microbatch_tokens},
      {"--cold", &options.cold},           {"--recompute-layers", &options.recompute_layers},
      {"--lora-rank", &options.lora_rank}, {"--deltas", &options.deltas}};
  for (size_t i = 0; i + 1 < words.size(); i += 2) {
    if (words[i] == "--policy") {
      options.policy = words[i + 1];
    } else if (words[i] == "--dtype") {
      options.dtype = words[i + 1];
    } else if (words[i] == "--checkpoints") {
      options.checkpoints = words[i + 1];
    } else {
      const auto it = std::find_if(numbers.begin(), numbers.end(),
                                   [&](const auto& number) { return number.first == words[i]; });
      // What is off when it is not named may be 0.
      const int least = it == numbers.end() ? 0 : std::min(*it->second, 1);
      if (it == numbers.end() || !absl::SimpleAtoi(words[i + 1], it->second) ||
          *it->second < least) {
        return absl::InvalidArgumentError(absl::StrCat("bad option ", words[i], " ", words[i + 1]));
      }
    }
  }
  if (words.size() % 2 != 0) return absl::InvalidArgumentError("every option takes a value");
  return options;
}

// Rewards of both kinds in every group, so that no sample is left out.
absl::StatusOr<TrainRequest> MakeRequest(const Options& options, int vocabulary, int step) {
  CounterRng rng(7, static_cast<uint64_t>(step));
  std::vector<GroupExperience> groups;
  std::vector<GroupAdvantages> advantages;
  const auto draw = [&] {
    return static_cast<int32_t>(3 + rng.Below(static_cast<uint64_t>(vocabulary) - 3));
  };
  for (int g = 0; g < options.groups; ++g) {
    GroupExperience group;
    group.group = GroupId(static_cast<uint64_t>(g));
    group.header.samples = options.samples;
    for (int i = 0; i < options.prompt; ++i) group.header.prompt_tokens.push_back(draw());
    for (int s = 0; s < options.samples; ++s) {
      SampleExperience sample;
      for (int i = 0; i < options.tokens; ++i) {
        sample.tokens.push_back(draw());
        sample.log_probs.push_back(options.log_prob);
      }
      sample.closed = true;
      sample.finish = FinishReason::kStop;
      sample.verdict = s % 2 == 0 ? Verdict::kCorrect : Verdict::kIncorrect;
      sample.reward = s % 2 == 0 ? 1 : 0;
      group.samples.push_back(std::move(sample));
    }
    advantages.push_back(ComputeAdvantages(RewardOptions{}, group));
    groups.push_back(std::move(group));
  }
  PackOptions pack;
  pack.microbatch_tokens = options.microbatch_tokens;
  pack.minibatches = options.minibatches;
  TrainRequest request;
  request.step = StepId(step);
  request.learning_rate = 1e-6;
  ASSIGN_OR_RETURN(request.mini_batches, PackBatch(pack, groups, advantages));
  return request;
}

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

absl::StatusOr<std::unique_ptr<Trainer>> MakeTrainer(FileSystem& files, const Options& options) {
  TorchTrainerOptions trainer_options;
  trainer_options.policy = options.policy;
  trainer_options.dtype = options.dtype;
  trainer_options.threads = options.threads;
  trainer_options.recompute_layers = options.recompute_layers;
  trainer_options.lora_rank = options.lora_rank;
  if (options.deltas > 0) trainer_options.export_dtype = "bfloat16";
  trainer_options.lora_targets = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj";
  return MakeTorchTrainer(files, trainer_options);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// As learner_host does it: the state is copied between two steps, and written while the next runs.
absl::Status RunCheckpoints(const Options& options) {
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  ASSIGN_OR_RETURN(const auto trainer, MakeTrainer(*files, options));
  CheckpointStore store(files.get(), {.folder = options.checkpoints, .run_name = "bench"});
  std::vector<double> plain, copying, training, writing, shares;
  const auto train = [&](int step) -> absl::StatusOr<double> {
    ASSIGN_OR_RETURN(const TrainRequest request,
                     MakeRequest(options, trainer->vocabulary_size(), step));
    const auto begin = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(trainer->Train(request, nullptr).status());
    return Seconds(begin);
  };
  double bytes = 0;
  for (int i = -1; i < options.steps; ++i) {  // the first pair warms caches and memory
    ASSIGN_OR_RETURN(const double without, train(2 * i + 2));
    auto begin = std::chrono::steady_clock::now();
    Checkpoint checkpoint;
    checkpoint.steps_trained = 2 * i + 3;
    ASSIGN_OR_RETURN(checkpoint.trainer, trainer->ExportState());
    const double copied = Seconds(begin);
    absl::Status written;
    double wrote = 0;
    std::thread writer([&] {
      const auto from = std::chrono::steady_clock::now();
      written = store.Write(checkpoint);
      wrote = Seconds(from);
    });
    const absl::StatusOr<double> with = train(2 * i + 3);
    writer.join();
    RETURN_IF_ERROR(written);
    RETURN_IF_ERROR(with.status());
    if (i < 0) continue;
    bytes = 0;
    for (const auto* tensors : {&checkpoint.trainer.weights, &checkpoint.trainer.optimizer}) {
      for (const TensorData& tensor : *tensors) bytes += static_cast<double>(tensor.bytes.size());
    }
    plain.push_back(without);
    copying.push_back(copied);
    training.push_back(*with);
    writing.push_back(wrote);
    shares.push_back((copied + *with) / without - 1);
  }
  std::cout << nlohmann::json{{"bench", "checkpoint_pause"},
                              {"policy", BaseName(options.policy)},
                              {"dtype", options.dtype},
                              {"threads", options.threads},
                              {"pairs", options.steps},
                              {"bytes", bytes},
                              {"step_seconds", Median(plain)},
                              {"copy_seconds", Median(copying)},
                              {"step_while_writing_seconds", Median(training)},
                              {"write_seconds", Median(writing)},
                              {"copy_share", Median(copying) / Median(plain)},
                              {"pause_share", Median(shares)}}
                   .dump()
            << std::endl;
  return absl::OkStatus();
}

// Words that differ.
double ChangedWords(const std::string& a, const std::string& b) {
  double changed = 0;
  for (size_t i = 0; i + 2 <= a.size(); i += 2) {
    changed += std::memcmp(a.data() + i, b.data() + i, 2) != 0 ? 1 : 0;
  }
  return changed;
}

absl::Status RunDeltas(Options options) {
  options.log_prob = -11.0f;  // about that of a token drawn from all alike: ratios are not clipped
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  ASSIGN_OR_RETURN(const auto trainer, MakeTrainer(*files, options));
  WeightStore store(2, limits::kWeightChunkBytes, /*deltas=*/true);
  for (int step = 0; step <= options.steps; ++step) {
    ASSIGN_OR_RETURN(std::vector<TensorData> weights, trainer->ExportWeights());
    const auto begin = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(store.Publish(PolicyVersion(step), std::move(weights)));
    const double published = Seconds(begin);
    ASSIGN_OR_RETURN(const auto next, store.Get(PolicyVersion(step)));
    if (step > 0) {
      ASSIGN_OR_RETURN(const auto base, store.Get(PolicyVersion(step - 1)));
      std::string made = base->bytes;
      const auto from = std::chrono::steady_clock::now();
      for (uint32_t i = 0; next->delta.has_value() && i < next->chunks(); ++i) {
        const absl::Span<char> chunk(made.data() + size_t{i} * next->chunk_bytes,
                                     next->Chunk(i).size());
        if (!ApplyWordDelta(next->delta->chunks[i], chunk)) continue;
        CRESCENDO_CHECK(Crc32c(absl::string_view(chunk.data(), chunk.size())) ==
                        next->chunk_crc32c[i]);
      }
      const double applied = Seconds(from);
      const double words = static_cast<double>(made.size()) / 2;
      std::cout << nlohmann::json{{"bench", "weight_delta"},
                                  {"policy", BaseName(options.policy)},
                                  {"dtype", options.dtype},
                                  {"step", step},
                                  {"bytes", made.size()},
                                  {"changed_words", ChangedWords(base->bytes, next->bytes) / words},
                                  {"delta_share", next->DeltaRatio()},
                                  {"same", made == next->bytes},
                                  {"publish_seconds", published},
                                  {"apply_and_check_seconds", applied}}
                       .dump()
                << std::endl;
    }
    if (step == options.steps) break;
    ASSIGN_OR_RETURN(const TrainRequest request,
                     MakeRequest(options, trainer->vocabulary_size(), step));
    RETURN_IF_ERROR(trainer->Train(request, nullptr).status());
  }
  return absl::OkStatus();
}

absl::Status Run(const Options& options) {
  const std::unique_ptr<FileSystem> files = MakePosixFileSystem();
  ASSIGN_OR_RETURN(const auto trainer, MakeTrainer(*files, options));
  std::vector<double> wall, cpu;
  double packing = 0;
  const int warm = options.cold > 0 ? 0 : 1;  // steps that warm caches and memory
  for (int step = 0; step < options.steps + warm; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const TrainRequest request,
                     MakeRequest(options, trainer->vocabulary_size(), step));
    packing = Seconds(begin);
    const auto trained_from = std::chrono::steady_clock::now();
    const double cpu_from = CpuSeconds();
    RETURN_IF_ERROR(trainer->Train(request, nullptr).status());
    if (step < warm) continue;
    wall.push_back(Seconds(trained_from));
    cpu.push_back(CpuSeconds() - cpu_from);
  }
  rusage usage;  // the memory of the step itself: an export is a copy of the weights
  getrusage(RUSAGE_SELF, &usage);
  const auto export_from = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(trainer->ExportWeights().status());
  const double exported = Seconds(export_from);
  std::sort(wall.begin(), wall.end());
  std::sort(cpu.begin(), cpu.end());
  const double tokens =
      static_cast<double>(options.groups) * options.samples * (options.prompt + options.tokens - 1);
  std::cout << nlohmann::json{{"bench", "learner_step"},
                              {"policy", BaseName(options.policy)},
                              {"dtype", options.dtype},
                              {"threads", options.threads},
                              {"packed_tokens", tokens},
                              {"step_seconds_best", wall.front()},
                              {"step_seconds_median", wall[wall.size() / 2]},
                              {"step_cpu_seconds_best", cpu.front()},
                              {"tokens_per_second", tokens / wall.front()},
                              {"draw_and_pack_seconds", packing},
                              {"export_seconds", exported},
                              {"peak_rss_mib", usage.ru_maxrss / 1024}}
                   .dump()
            << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace crescendo

int main(int argc, char** argv) {
  crescendo::PrepareComputeProcess(argv);
  const auto options = crescendo::ParseOptions(std::vector<std::string>(argv + 1, argv + argc));
  absl::Status status = options.status();
  if (status.ok()) {
    status = options->deltas > 0            ? crescendo::RunDeltas(*options)
             : options->checkpoints.empty() ? crescendo::Run(*options)
                                            : crescendo::RunCheckpoints(*options);
  }
  if (!status.ok()) std::cerr << "learner_bench: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}
