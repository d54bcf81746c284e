#include "tests/unit/learner/local_rollout.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/model/paged_attention.h"
#include "common/model/paged_kv_cache.h"
#include "common/model/sampler.h"
#include "common/model/torch_guard.h"

namespace crescendo {
namespace {

constexpr int32_t kBlockTokens = 16;

struct Slot {
  size_t completion = 0;  // index in the result
  std::vector<int32_t> blocks;
  std::vector<int32_t> input;  // tokens of the next pass
  int32_t context = 0;         // tokens in the cache
};

at::Tensor Tokens(const std::vector<Slot>& slots) {
  std::vector<int64_t> tokens;
  for (const Slot& slot : slots) tokens.insert(tokens.end(), slot.input.begin(), slot.input.end());
  return at::tensor(tokens, at::kLong);
}

// One pass over all slots: appends a token to each completion, keeps those that go on.
absl::Status Decode(PolicyModel& model, PagedAttention& attention, const RolloutOptions& options,
                    std::vector<Slot>& slots, std::vector<Completion>& out) {
  std::vector<PagedSequence> sequences;
  for (const Slot& slot : slots) {
    sequences.push_back({slot.blocks, slot.context, static_cast<int32_t>(slot.input.size())});
  }
  RETURN_IF_ERROR(attention.SetBatch(sequences));
  const at::Tensor hidden = model.Hidden(Tokens(slots), attention.Positions(), attention);
  const at::Tensor rows = at::tensor(attention.last_rows(), at::kLong);
  const at::Tensor logits = model.Logits(hidden.index_select(0, rows));
  std::vector<double> uniforms;
  for (const Slot& slot : slots) {
    const size_t samples = static_cast<size_t>(options.samples);
    uniforms.push_back(TokenUniform(options.seed, options.first_group + slot.completion / samples,
                                    static_cast<uint32_t>(slot.completion % samples),
                                    static_cast<uint32_t>(out[slot.completion].tokens.size())));
  }
  RowSampling sampling;
  sampling.temperature = options.temperature;
  std::vector<SampledToken> sampled(slots.size());
  RETURN_IF_ERROR(SampleRows(logits, std::vector<RowSampling>(slots.size(), sampling), uniforms,
                             absl::MakeSpan(sampled)));
  std::vector<Slot> kept;
  for (size_t i = 0; i < slots.size(); ++i) {
    Slot& slot = slots[i];
    Completion& completion = out[slot.completion];
    completion.tokens.push_back(sampled[i].token);
    completion.log_probs.push_back(sampled[i].log_prob);
    if (sampled[i].token == model.config().eos_token_ids.front()) continue;
    completion.truncated = static_cast<int>(completion.tokens.size()) == options.context_tokens;
    if (completion.truncated) continue;
    slot.context += static_cast<int32_t>(slot.input.size());
    slot.input = {sampled[i].token};
    kept.push_back(std::move(slot));
  }
  slots = std::move(kept);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<DemoProblem>> ReadDemoProblems(FileSystem& files,
                                                          const Tokenizer& tokenizer,
                                                          const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, 64u << 20));
  std::vector<DemoProblem> problems;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.empty()) continue;
    const nlohmann::json json = nlohmann::json::parse(std::string(line), nullptr, false);
    if (!json.is_object() || !json.contains("problem") || !json.contains("answer")) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": expected problem and answer"));
    }
    DemoProblem problem;
    problem.prompt = tokenizer.Encode(json["problem"].get<std::string>(), false);
    problem.prompt.insert(problem.prompt.begin(), *tokenizer.bos_id());
    problem.answer = json["answer"].get<std::string>();
    problems.push_back(std::move(problem));
  }
  return problems;
}

absl::StatusOr<std::vector<Completion>> Rollout(PolicyModel& model,
                                                const std::vector<std::vector<int32_t>>& prompts,
                                                const RolloutOptions& options) {
  const at::NoGradGuard no_grad;
  const size_t samples = static_cast<size_t>(options.samples);
  std::vector<Completion> out(prompts.size() * samples);
  std::vector<Slot> slots(out.size());
  int32_t blocks = 0;
  for (size_t i = 0; i < slots.size(); ++i) {
    slots[i].completion = i;
    slots[i].input = prompts[i / samples];
    const int32_t tokens = static_cast<int32_t>(slots[i].input.size()) + options.context_tokens;
    for (int32_t b = 0; b * kBlockTokens < tokens; ++b) slots[i].blocks.push_back(blocks++);
  }
  ASSIGN_OR_RETURN(const auto cache, PagedKvCache::Create(model.config(), blocks, kBlockTokens));
  PagedAttention attention(cache.get(), model.config().query_heads);
  while (!slots.empty()) {
    RETURN_IF_ERROR(CatchTorch("rollout", [&]() -> absl::Status {
      return Decode(model, attention, options, slots, out);
    }));
  }
  return out;
}

bool IsCorrect(const Tokenizer& tokenizer, const Completion& completion,
               const std::string& answer) {
  const std::string text = tokenizer.Decode(completion.tokens, /*skip_special=*/true);
  const std::string open = "\\boxed{";
  const size_t box = text.rfind(open);
  if (box == std::string::npos) return false;
  const size_t close = text.find('}', box);
  return close != std::string::npos &&
         text.substr(box + open.size(), close - box - open.size()) == answer;
}

absl::StatusOr<Evaluation> Evaluate(PolicyModel& model, const Tokenizer& tokenizer,
                                    const std::vector<DemoProblem>& problems,
                                    const RolloutOptions& options) {
  std::vector<std::vector<int32_t>> prompts;
  for (const DemoProblem& problem : problems) prompts.push_back(problem.prompt);
  ASSIGN_OR_RETURN(const std::vector<Completion> completions, Rollout(model, prompts, options));
  Evaluation sums;
  double right = 0;
  for (size_t i = 0; i < completions.size(); ++i) {
    const double length = static_cast<double>(completions[i].tokens.size());
    const std::string& answer = problems[i / static_cast<size_t>(options.samples)].answer;
    const bool correct = IsCorrect(tokenizer, completions[i], answer);
    right += correct ? 1 : 0;
    sums.tokens += length;
    (correct ? sums.tokens_right : sums.tokens_wrong) += length;
    sums.truncated += completions[i].truncated ? 1 : 0;
  }
  const double count = static_cast<double>(completions.size());
  sums.pass = right / count;
  sums.tokens /= count;
  sums.truncated /= count;
  sums.tokens_right /= std::max(1.0, right);
  sums.tokens_wrong /= std::max(1.0, count - right);
  return sums;
}

}  // namespace crescendo
