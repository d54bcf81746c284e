// Warm start: phases from the command line, a task learned by heart, the same bytes again, and rows
// that are refused by file and line.
#include "services/learner/warm_start.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "catch2/catch.hpp"
#include "tests/support/temp_dir.h"

namespace crescendo {
namespace {

constexpr char kConfig[] = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
  "vocab_size": 16, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
  "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_act": "silu", "rms_norm_eps": 1e-6,
  "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
  "tie_word_embeddings": false})";

// 'a' is 3, 'b' is 4, ...; a prompt begins with 1.
class LetterTokenizer : public WarmStartTokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> EncodePrompt(absl::string_view text) override {
    std::vector<int32_t> ids = *EncodeResponse(text);
    ids.insert(ids.begin(), 1);
    return ids;
  }
  absl::StatusOr<std::vector<int32_t>> EncodeResponse(absl::string_view text) override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(c - 'a' + 3);
    return ids;
  }
  int32_t end_token() const override { return 2; }
};

struct Lab {
  Lab() {
    REQUIRE(dir.files->MakeDirs(dir / "from").ok());
    REQUIRE(dir.files->WriteFile(dir / "from/config.json", kConfig).ok());
    REQUIRE(dir.files->WriteFile(dir / "from/tokenizer.json", "{}").ok());
    options.from = dir / "from";
    options.random_weights = true;
    options.out = dir / "out";
  }
  void AddPhase(const std::string& lines, int64_t steps = 40, bool fresh = true) {
    WarmStartPhase phase;
    phase.data = dir / absl::StrCat("rows", options.phases.size(), ".jsonl");
    REQUIRE(dir.files->WriteFile(phase.data, lines).ok());
    phase.steps = steps;
    phase.batch = 4;
    phase.schedule.peak = 1e-2;
    phase.fresh_optimizer = fresh;
    options.phases.push_back(phase);
  }
  absl::Status Run() {
    LetterTokenizer tokenizer;
    reports.clear();
    return RunWarmStart(*dir.files, tokenizer, options,
                        [&](const WarmStartProgress& report) { reports.push_back(report); });
  }
  TempDir dir;
  WarmStartOptions options;
  std::vector<WarmStartProgress> reports;
};

constexpr char kRows[] = R"({"prompt": "ab", "response": "cd"}
{"prompt": "ba", "response": "de"}
{"prompt": "aa", "response": "fg", "ends": false}
{"prompt": "bb", "response": "gh", "ends": true}
)";

TEST_CASE("Four rows are learned by heart, over two phases, and the policy is written whole") {
  Lab lab;
  lab.AddPhase(kRows);
  lab.AddPhase(kRows, 20, /*fresh=*/false);
  const absl::Status status = lab.Run();
  INFO(status);
  REQUIRE(status.ok());
  REQUIRE(lab.reports.size() == 60);
  CHECK(lab.reports[0].loss == Approx(std::log(16)).margin(0.3));
  CHECK(lab.reports.back().loss < 0.05);
  CHECK(lab.reports[40].phase == 1);
  CHECK(lab.reports[40].step == 1);
  CHECK(lab.reports[40].loss < 0.5);
  // 4 prompts of 3, responses of 2, three end tokens.
  CHECK(lab.reports[0].tokens == 23);
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    CHECK(lab.dir.files->Exists(lab.dir / absl::StrCat("out/", name)));
  }
}

TEST_CASE("The same files and seed give the same bytes, another seed others") {
  Lab lab;
  lab.AddPhase(kRows, 5);
  REQUIRE(lab.Run().ok());
  const auto first = lab.dir.files->ReadFile(lab.dir / "out/model.safetensors", 1 << 20);
  REQUIRE(lab.Run().ok());
  const auto again = lab.dir.files->ReadFile(lab.dir / "out/model.safetensors", 1 << 20);
  lab.options.seed = 2;
  REQUIRE(lab.Run().ok());
  const auto other = lab.dir.files->ReadFile(lab.dir / "out/model.safetensors", 1 << 20);
  REQUIRE(first.ok());
  CHECK((*first == *again));
  CHECK((*first != *other));
}

TEST_CASE("Micro-batches do not change the loss") {
  Lab lab;
  lab.AddPhase(kRows, 3);
  REQUIRE(lab.Run().ok());
  const std::vector<WarmStartProgress> whole = lab.reports;
  lab.options.microbatch_tokens = 5;
  REQUIRE(lab.Run().ok());
  for (size_t i = 0; i < 3; ++i) {
    CHECK(lab.reports[i].loss == Approx(whole[i].loss).epsilon(1e-4));
    CHECK(lab.reports[i].grad_norm == Approx(whole[i].grad_norm).epsilon(1e-3));
  }
}

TEST_CASE("A bad row is refused by file and line, and nothing is written") {
  Lab lab;
  std::string bad;
  std::string expected;
  SECTION("not JSON") {
    bad = "{\"prompt\": ";
    expected = "rows0.jsonl:2: expected {\"prompt\": text";
  }
  SECTION("no response") {
    bad = "{\"prompt\": \"a\"}";
    expected = "rows0.jsonl:2: expected {\"prompt\": text";
  }
  SECTION("a token outside the vocabulary") {
    bad = "{\"prompt\": \"a\", \"response\": \"z\"}";
    expected = "rows0.jsonl:2: token 28 is outside the vocabulary of 16";
  }
  SECTION("nothing to learn") {
    bad = "{\"prompt\": \"a\", \"response\": \"\", \"ends\": false}";
    expected = "rows0.jsonl:2: prompt or response is empty";
  }
  lab.AddPhase("{\"prompt\": \"a\", \"response\": \"b\"}\n" + bad + "\n");
  const absl::Status status = lab.Run();
  INFO(status);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(status.message()).find(expected) != std::string::npos);
  CHECK(!lab.dir.files->Exists(lab.dir / "out/model.safetensors"));
}

TEST_CASE("An empty or missing corpus is an error that names it") {
  Lab lab;
  lab.AddPhase("\n");
  CHECK(std::string(lab.Run().message()).find("expected JSON lines, found none") !=
        std::string::npos);
  lab.options.phases[0].data = lab.dir / "absent.jsonl";
  CHECK(lab.Run().code() == absl::StatusCode::kNotFound);
}

TEST_CASE("A phase is read from a line of the command") {
  const auto phase = ParseWarmStartPhase(
      "data=x.jsonl,steps=450,batch=96,lr=2e-3,warmup=20,decay=linear,decay_from=282,final=0.3,"
      "fresh=0");
  REQUIRE(phase.ok());
  CHECK(phase->data == "x.jsonl");
  CHECK(phase->steps == 450);
  CHECK(phase->batch == 96);
  CHECK(!phase->fresh_optimizer);
  CHECK(LearningRateAt(phase->schedule, 0) == Approx(1e-4));
  CHECK(LearningRateAt(phase->schedule, 282) == Approx(2e-3));
  CHECK(LearningRateAt(phase->schedule, 450) == Approx(6e-4));
  const auto error = [](const std::string& text) {
    return std::string(ParseWarmStartPhase(text).status().message());
  };
  CHECK(error("data=x,steps=1,batch=1") ==
        "phase 'data=x,steps=1,batch=1': data, steps, batch and lr are needed");
  CHECK(error("steps=-1") == "phase: bad value of steps: '-1'");
  CHECK(error("speed=1").find("phase: unknown key 'speed': expected data") == 0);
  CHECK(error("data=x,steps=5,batch=1,lr=1,decay_from=5").find("is not before the last step") !=
        std::string::npos);
}

}  // namespace
}  // namespace crescendo
