// The same steps trained by 1, 2 and 4 processes: the same curve and weights within 1e-5, whatever
// their number and ZeRO stage; a checkpoint of any number goes on with any other; a stop, and a
// rank that dies.
#include "services/learner/rank_trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "catch2/catch.hpp"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/os/posix_env.h"
#include "services/learner/checkpoint.h"
#include "services/learner/torch_trainer.h"
#include "tests/support/rank_processes.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/learner/tiny_policy.h"

namespace crescendo {
namespace {

constexpr absl::Duration kEnd = absl::Seconds(120);
constexpr int kSteps = 6;

std::string Env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void SaveFreshPolicy(FileSystem& files, const std::string& folder, int layers = 2,
                     bool tie_embeddings = false) {
  ModelConfig config = TinyConfig();
  config.layers = layers;
  config.tie_embeddings = tie_embeddings;
  auto model = PolicyModel::Init(config, 5);
  REQUIRE(model.ok());
  REQUIRE((*model)->Save(files, folder).ok());
}

// One sample a group is much longer than the rest: shares are uneven.
TrainRequest RequestOf(int step) {
  CounterRng rng(100 + static_cast<uint64_t>(step));
  std::vector<GroupExperience> groups;
  std::vector<GroupAdvantages> advantages;
  for (int g = 0; g < 4; ++g) {
    GroupExperience group;
    group.group = GroupId(static_cast<uint64_t>(4 * step + g));
    group.header.prompt_tokens = {1, static_cast<int32_t>(rng.Below(19)), 3};
    group.header.samples = 4;
    for (int s = 0; s < 4; ++s) {
      SampleExperience sample;
      const size_t length = s == 0 ? 40 : 1 + rng.Below(9);
      for (size_t i = 0; i < length; ++i) {
        sample.tokens.push_back(static_cast<int32_t>(rng.Below(19)));
        sample.log_probs.push_back(static_cast<float>(-3 + 0.2 * rng.Normal()));
      }
      sample.closed = true;
      sample.finish = FinishReason::kStop;
      sample.verdict = s % 2 == g % 2 ? Verdict::kCorrect : Verdict::kIncorrect;
      sample.reward = s % 2 == g % 2 ? 1 : 0;
      group.samples.push_back(std::move(sample));
    }
    advantages.push_back(ComputeAdvantages(RewardOptions{}, group));
    groups.push_back(std::move(group));
  }
  PackOptions pack;
  pack.microbatch_tokens = 64;
  pack.minibatches = 2;
  pack.drop_zero_advantage = false;
  auto mini_batches = PackBatch(pack, groups, advantages);
  REQUIRE(mini_batches.ok());
  TrainRequest request;
  request.step = StepId(step);
  request.learning_rate = 2e-3;
  request.mini_batches = *std::move(mini_batches);
  return request;
}

// VARIANT: "plain"; "sequence": GSPO, corrected for what the rollout sampled, with every layer
// recomputed; "lora"; "aten": plain, with the operations of a device.
TorchTrainerOptions Options(const std::string& folder, const std::string& dtype, RankGroup* ranks,
                            int stage, const std::string& variant = "plain") {
  TorchTrainerOptions options;
  options.policy = absl::StrCat(folder, "/base");
  options.dtype = dtype;
  options.loss.kl_coefficient = 0.05;
  options.adamw.weight_decay = 0.01;
  options.ranks = ranks;
  options.zero_stage = stage;
  options.aten = variant == "aten";
  if (variant == "sequence") {
    options.loss.ratio = RatioKind::kSequence;
    options.loss.off_policy = OffPolicy::kTruncated;
    options.loss.importance_cap = 2;
    options.recompute_layers = -1;
  }
  if (variant == "lora") {
    options.lora_rank = 4;
    options.lora_targets = "q_proj,v_proj,down_proj";
  }
  return options;
}

CheckpointStore Store(FileSystem& files, const std::string& folder, int ranks = 1) {
  return CheckpointStore(
      &files, {absl::StrCat(folder, "/checkpoints"), 10, "ranks", 1, ranks, /*nonce=*/"n"});
}

// As learner_host does it.
absl::Status WriteCheckpoint(Trainer& trainer, CheckpointStore& store, int steps) {
  Checkpoint checkpoint;
  checkpoint.steps_trained = steps;
  const std::string folder = trainer.ranks() == 1 ? "" : store.Begin(steps).value();
  ASSIGN_OR_RETURN(checkpoint.trainer, trainer.BeginCheckpoint(folder));
  return store.Write(checkpoint, [&] { return trainer.AwaitParts(); });
}

// Steps [from, to) as rank 0: goes on from the checkpoint of `from` steps, writes that of `to`, and
// adds a line a step to FOLDER/curve.
void TrainSteps(Trainer& trainer, const std::string& folder, int from, int to) {
  const auto files = MakePosixFileSystem();
  CheckpointStore store = Store(*files, folder, trainer.ranks());
  if (from > 0) {
    auto loaded = store.LoadNewest();
    REQUIRE(loaded.ok());
    REQUIRE(loaded->checkpoint->steps_trained == from);
    REQUIRE(trainer.Restore(loaded->checkpoint->trainer, loaded->checkpoint->folder).ok());
  }
  std::ofstream curve(absl::StrCat(folder, "/curve"), std::ios::app);
  curve.precision(17);
  for (int step = from; step < to; ++step) {
    const TrainRequest request = RequestOf(step);
    const auto sample_kl =
        trainer.SampleKl(request.mini_batches[0].micro_batches[0], KlEstimator::kK3);
    INFO(sample_kl.status());
    REQUIRE(sample_kl.ok());
    const auto result = trainer.Train(request, nullptr);
    INFO(result.status());
    REQUIRE(result.ok());
    CHECK_FALSE(result->skipped);
    curve << result->loss << " " << result->grad_norm << " " << result->kl << " " << result->entropy
          << " " << result->clip_ratio << " " << result->mismatch_mean << " "
          << result->mismatch_max << " " << result->mismatch_p99 << " " << sample_kl->at(0) << "\n";
  }
  const absl::Status written = WriteCheckpoint(trainer, store, to);
  INFO(written);
  REQUIRE(written.ok());
}

// What workers, checkpoint and folder get is one thing; with shares, rank 0 has held no more than
// its own and what a unit of the weights needs.
void CheckExports(Trainer& trainer, const ShardedParameters* shards, const std::string& folder,
                  bool adapters) {
  if (shards != nullptr) {
    std::printf("RESIDENT %d of %d bytes at most, %d between passes\n",
                static_cast<int>(shards->resident_bytes_max()),
                static_cast<int>(shards->whole_bytes()),
                static_cast<int>(shards->resident_bytes()));
    std::ofstream(absl::StrCat(folder, "/resident"))
        << shards->whole_bytes() << " " << shards->resident_bytes() << " "
        << shards->resident_bytes_max();
  }
  const auto weights = trainer.ExportWeights();
  REQUIRE(weights.ok());
  REQUIRE(trainer.SavePolicy(absl::StrCat(folder, "/policy")).ok());
  const auto files = MakePosixFileSystem();
  const auto written = Store(*files, folder).LoadNewest();
  REQUIRE(written.ok());
  if (!adapters) CHECK((*weights == written->checkpoint->trainer.weights));
  const auto saved = PolicyModel::Load(*files, absl::StrCat(folder, "/policy"));
  REQUIRE(saved.ok());
  const std::vector<TensorBytes> loaded = (*saved)->State();
  REQUIRE(loaded.size() == weights->size());
  for (size_t i = 0; i < loaded.size(); ++i) CHECK(loaded[i].bytes == weights->at(i).bytes);
}

// SCENARIO: "train DTYPE STAGE FROM TO VARIANT", "stop STAGE", "die STAGE", "tear STAGE", "full
// STAGE".
TEST_CASE("rank process", "[.]") {
  const std::vector<std::string> words = absl::StrSplit(Env("SCENARIO"), ' ');
  RankGroupOptions options;
  options.ranks = *RanksFromEnvironment([](const char* name) -> std::optional<std::string> {
    return Env(name).empty() ? std::nullopt : std::optional<std::string>(Env(name));
  });
  auto group = RankGroup::Join(options, [] { return false; });
  REQUIRE(group.ok());
  const auto files = MakePosixFileSystem();
  const std::string folder = Env("FOLDER");
  const bool plain = words[0] == "train";
  const int stage = std::atoi(words[plain ? 2 : 1].c_str());
  auto trainer =
      TorchTrainer::Create(*files, Options(folder, plain ? words[1] : "float32", group->get(),
                                           stage, plain ? words[5] : "plain"));
  INFO(trainer.status());
  REQUIRE(trainer.ok());
  if (options.ranks.rank > 0) {
    // The second rank dies when it has trained a step.
    if (words[0] == "die" && options.ranks.rank == 1) {
      REQUIRE((*group)->AwaitAnnouncement().ok());
      _exit(9);
    }
    if (words[0] == "tear" || words[0] == "full") {
      // Its files are cut off in the middle: by a signal that ends it, or by an error.
      const rlimit most = {1000, 1000};
      REQUIRE(setrlimit(RLIMIT_FSIZE, &most) == 0);
      if (words[0] == "full") std::signal(SIGXFSZ, SIG_IGN);
    }
    const absl::Status status = ServeRank(**group, **trainer, *files);
    std::printf("STATUS %s\n", status.ToString().c_str());
    if (words[0] != "die") CHECK(status.ok());
    return;
  }
  const ShardedParameters* const shards = (*trainer)->shards();
  double imbalance = 0;
  RankTrainer leader(*std::move(group), *std::move(trainer), 64,
                     [&](double value) { imbalance = value; });
  if (words[0] == "die") {
    const auto result = leader.Train(RequestOf(0), nullptr);
    std::printf("STATUS %s\n", result.status().ToString().c_str());
    CHECK_FALSE(result.ok());
    CHECK_FALSE(leader.Check().ok());
    return;
  }
  if (words[0] == "tear" || words[0] == "full") {
    CheckpointStore store = Store(*files, folder, leader.ranks());
    const absl::Status status = WriteCheckpoint(leader, store, 7);
    std::printf("STATUS %s\n", status.ToString().c_str());
    CHECK_FALSE(status.ok());
    CHECK(store.LoadNewest().value().checkpoint->steps_trained == 1);
    CHECK_FALSE(files->Exists(store.Begin(7).value() + "/weights-0-of-2.safetensors"));
    return;
  }
  if (words[0] == "stop") {
    // Asked for when the others have begun: no rank has changed, and the step can be trained later.
    int asked = 0;
    const auto stopped = leader.Train(RequestOf(0), [&] { return ++asked > 1; });
    CHECK(absl::IsCancelled(stopped.status()));
    return TrainSteps(leader, folder, 0, 2);
  }
  TrainSteps(leader, folder, std::atoi(words[3].c_str()), std::atoi(words[4].c_str()));
  const bool adapters = words[5] == "lora";
  if (words[1] == "float32" && (!adapters || shards != nullptr)) {
    CheckExports(leader, shards, folder, adapters);
  }
  CHECK(imbalance >= 1);
  CHECK(imbalance < 1.5);
}

struct Outcome {
  std::vector<std::vector<double>> curve;
  TrainerState state;
};

Outcome ReadOutcome(const std::string& folder) {
  Outcome outcome;
  std::ifstream file(absl::StrCat(folder, "/curve"));
  for (std::string line; std::getline(file, line);) {
    std::vector<double> numbers;
    for (absl::string_view word : absl::StrSplit(line, ' ')) {
      numbers.push_back(std::atof(std::string(word).c_str()));
    }
    outcome.curve.push_back(std::move(numbers));
  }
  const auto files = MakePosixFileSystem();
  CheckpointStore store = Store(*files, folder);
  auto loaded = store.LoadNewest();
  REQUIRE(loaded.ok());
  REQUIRE(loaded->checkpoint.has_value());
  outcome.state = std::move(loaded->checkpoint->trainer);
  return outcome;
}

double LargestDifference(const std::vector<TensorData>& a, const std::vector<TensorData>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    REQUIRE(a[i].name == b[i].name);
    REQUIRE(a[i].bytes.size() == b[i].bytes.size());
    for (size_t at = 0; at < a[i].bytes.size(); at += sizeof(float)) {
      float x, y;
      std::memcpy(&x, a[i].bytes.data() + at, sizeof(x));
      std::memcpy(&y, b[i].bytes.data() + at, sizeof(y));
      largest = std::max(largest, std::abs(double{x} - double{y}));
    }
  }
  return largest;
}

// The curve's figures in the first `steps` steps, and the weights in the end.
void CheckAlike(const Outcome& found, const Outcome& expected, double tolerance,
                size_t steps = kSteps) {
  REQUIRE(found.curve.size() == expected.curve.size());
  for (size_t step = 0; step < std::min(steps, found.curve.size()); ++step) {
    REQUIRE(found.curve[step].size() == 9);
    for (size_t i = 0; i < 9; ++i) {
      INFO("step " << step << ", figure " << i);
      const double scale = std::max(1.0, std::abs(expected.curve[step][i]));
      CHECK(std::abs(found.curve[step][i] - expected.curve[step][i]) <= tolerance * scale);
    }
  }
  CHECK(LargestDifference(found.state.weights, expected.state.weights) <= tolerance);
  CHECK(found.state.extra_json == expected.state.extra_json);
}

void RunRanks(int size, const std::string& scenario, const std::string& folder) {
  RankProcesses processes = StartRanks(size, "rank process", scenario, folder);
  processes.Join(std::vector<int>(size, 0), kEnd);
}

void RunAlone(const std::string& dtype, int from, int to, const std::string& folder,
              const std::string& variant = "plain") {
  const auto files = MakePosixFileSystem();
  auto trainer = TorchTrainer::Create(
      *files, Options(folder, dtype, nullptr, variant == "lora" ? 1 : 3, variant));
  REQUIRE(trainer.ok());
  TrainSteps(**trainer, folder, from, to);
}

TEST_CASE("1, 2 and 4 processes train the same curve and weights") {
  for (const std::string dtype : {"float32", "bfloat16"}) {
    TempDir alone;
    SaveFreshPolicy(*alone.files, alone.path() + "/base");
    RunAlone(dtype, 0, kSteps, alone.path());
    const Outcome expected = ReadOutcome(alone.path());
    REQUIRE(expected.curve.size() == kSteps);
    CHECK(expected.curve[0][0] != expected.curve[1][0]);
    std::vector<std::pair<int, int>> cases = {{2, 1}, {4, 3}};
    if (dtype == "float32") cases.insert(cases.end(), {{4, 2}, {2, 3}});
    for (const auto& [size, stage] : cases) {
      INFO(dtype << ", " << size << " processes, stage " << stage);
      TempDir dir;
      SaveFreshPolicy(*dir.files, dir.path() + "/base");
      RunRanks(size, absl::StrCat("train ", dtype, " ", stage, " 0 ", kSteps, " plain"),
               dir.path());
      if (dtype == "float32") {
        CheckAlike(ReadOutcome(dir.path()), expected, 1e-5);
      } else {  // bf16 passes round, so that curves part after an update; the masters stay close
        CheckAlike(ReadOutcome(dir.path()), expected, 2e-2, /*steps=*/1);
      }
    }
  }
}

TEST_CASE("With the operations of a device, 2 processes train what 1 does with the kernels") {
  TempDir alone;
  SaveFreshPolicy(*alone.files, alone.path() + "/base");
  RunAlone("float32", 0, 3, alone.path());
  for (const int stage : {1, 2, 3}) {
    INFO("stage " << stage);
    TempDir ranks;
    SaveFreshPolicy(*ranks.files, ranks.path() + "/base");
    RunRanks(2, absl::StrCat("train float32 ", stage, " 0 2 aten"), ranks.path());
    RunRanks(2, absl::StrCat("train float32 ", stage, " 2 3 aten"), ranks.path());
    CheckAlike(ReadOutcome(ranks.path()), ReadOutcome(alone.path()), 1e-5);
  }
}

TEST_CASE("A run goes from 1 process to 2, to 4 and back to 1") {
  TempDir straight, moved;
  SaveFreshPolicy(*straight.files, straight.path() + "/base");
  SaveFreshPolicy(*moved.files, moved.path() + "/base");
  RunAlone("float32", 0, kSteps, straight.path());
  RunAlone("float32", 0, 1, moved.path());
  RunRanks(2, "train float32 2 1 3 plain", moved.path());
  RunRanks(4, "train float32 3 3 5 plain", moved.path());
  RunAlone("float32", 5, kSteps, moved.path());
  CheckAlike(ReadOutcome(moved.path()), ReadOutcome(straight.path()), 1e-5);
}

TEST_CASE("Weights that are shared out: every objective's passes, and memory that falls") {
  // Bytes between passes and at most, over those of all weights: a share, and at most a layer twice
  // (in its place and travelling).
  struct Case {
    bool tied;
    int size;
    double between, most;
  };
  for (const Case& c :
       {Case{false, 2, 0.51, 0.77}, {false, 4, 0.26, 0.52}, {true, 2, 0.51, 0.77}}) {
    TempDir alone, ranks;
    for (const TempDir* dir : {&alone, &ranks}) {
      SaveFreshPolicy(*dir->files, dir->path() + "/base", /*layers=*/8, c.tied);
    }
    RunAlone("float32", 0, 3, alone.path(), "sequence");
    RunRanks(c.size, "train float32 3 0 3 sequence", ranks.path());
    INFO(c.size << " processes, tied: " << c.tied);
    CheckAlike(ReadOutcome(ranks.path()), ReadOutcome(alone.path()), 1e-5, 3);
    double whole = 0, between = 0, most = 0;
    std::ifstream(ranks.path() + "/resident") >> whole >> between >> most;
    REQUIRE(whole > 0);
    CHECK(between < c.between * whole);
    CHECK(most < c.most * whole);
  }
}

TEST_CASE("Adapters: 2 processes train the curve and weights of 1") {
  TempDir alone, ranks;
  SaveFreshPolicy(*alone.files, alone.path() + "/base");
  SaveFreshPolicy(*ranks.files, ranks.path() + "/base");
  RunAlone("float32", 0, 4, alone.path(), "lora");
  RunRanks(2, "train float32 2 0 2 lora", ranks.path());
  RunRanks(2, "train float32 1 2 4 lora", ranks.path());
  const Outcome expected = ReadOutcome(alone.path());
  CHECK(expected.state.weights.size() == 2 * 2 * 3);
  CheckAlike(ReadOutcome(ranks.path()), expected, 1e-5);
}

TEST_CASE("Adapters of a base that is shared out: the curve and weights of 1 process") {
  for (const int size : {2, 3}) {
    TempDir alone, ranks;
    for (const TempDir* dir : {&alone, &ranks}) {
      SaveFreshPolicy(*dir->files, dir->path() + "/base", /*layers=*/8);
    }
    RunAlone("float32", 0, 4, alone.path(), "lora");
    RunRanks(size, "train float32 3 0 2 lora", ranks.path());
    RunRanks(size, "train float32 3 2 4 lora", ranks.path());
    INFO(size << " processes");
    const Outcome expected = ReadOutcome(alone.path());
    CHECK(expected.state.weights.size() == 8 * 2 * 3);
    CheckAlike(ReadOutcome(ranks.path()), expected, 1e-5);
    double whole = 0, between = 0, most = 0;
    std::ifstream(ranks.path() + "/resident") >> whole >> between >> most;
    REQUIRE(whole > 0);
    CHECK(between < (1.0 / size + 0.02) * whole);
    CHECK(most < (1.0 / size + 0.28) * whole);
  }
}

TEST_CASE("The same number of processes gives the same bits, also over a restart") {
  TempDir straight, restarted;
  SaveFreshPolicy(*straight.files, straight.path() + "/base");
  SaveFreshPolicy(*restarted.files, restarted.path() + "/base");
  RunRanks(2, "train float32 1 0 4 plain", straight.path());
  RunRanks(2, "train float32 1 0 2 plain", restarted.path());
  RunRanks(2, "train float32 1 2 4 plain", restarted.path());
  CheckAlike(ReadOutcome(restarted.path()), ReadOutcome(straight.path()), 0);
}

TEST_CASE("A stop in the middle of a step leaves all ranks as they were") {
  for (const int stage : {1, 3}) {
    TempDir straight, stopped;
    SaveFreshPolicy(*straight.files, straight.path() + "/base");
    SaveFreshPolicy(*stopped.files, stopped.path() + "/base");
    RunRanks(2, absl::StrCat("train float32 ", stage, " 0 2 plain"), straight.path());
    RunRanks(2, absl::StrCat("stop ", stage), stopped.path());
    INFO("stage " << stage);
    CheckAlike(ReadOutcome(stopped.path()), ReadOutcome(straight.path()), 0);
  }
}

TEST_CASE("A rank whose part of a checkpoint is cut off leaves the one before, and is named") {
  for (const std::string how : {"tear", "full"}) {
    TempDir dir;
    SaveFreshPolicy(*dir.files, dir.path() + "/base");
    RunAlone("float32", 0, 1, dir.path());
    RankProcesses processes = StartRanks(2, "rank process", how + " 1", dir.path());
    CHECK(processes.ranks[0]->Wait(kEnd) == 0);
    const std::optional<int> other = processes.ranks[1]->Wait(kEnd);
    REQUIRE(other.has_value());
    CHECK((*other == 0) == (how == "full"));
    INFO(processes.ranks[0]->output());
    CHECK(absl::StrContains(processes.ranks[0]->output(),
                            how == "tear" ? "rank 1 is gone" : "weights-1-of-2.safetensors"));
  }
}

TEST_CASE("A rank that dies in a step ends all of them, by name") {
  for (const int stage : {1, 3}) {
    TempDir dir;
    SaveFreshPolicy(*dir.files, dir.path() + "/base");
    RankProcesses processes =
        StartRanks(3, "rank process", absl::StrCat("die ", stage), dir.path());
    processes.Join({0, 9, 0}, kEnd);
    INFO(processes.ranks[0]->output());
    CHECK(absl::StrContains(processes.ranks[0]->output(), "STATUS ABORTED: rank 0 of 3"));
    CHECK(absl::StrContains(processes.ranks[0]->output(), "rank 1 is gone"));
    INFO(processes.ranks[2]->output());
    CHECK(absl::StrContains(processes.ranks[2]->output(), "STATUS ABORTED: rank 2 of 3"));
  }
}

}  // namespace
}  // namespace crescendo
