#include "services/rollout/torch_model_runner.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/torch_guard.h"

namespace crescendo {

absl::StatusOr<std::unique_ptr<TorchModelRunner>> TorchModelRunner::Create(
    std::unique_ptr<PolicyModel> model, const TorchRunnerOptions& options) {
  ASSIGN_OR_RETURN(
      std::unique_ptr<PagedKvCache> cache,
      PagedKvCache::Create(model->config(), options.blocks, options.block_tokens, model->dtype()));
  return std::unique_ptr<TorchModelRunner>(
      new TorchModelRunner(std::move(model), std::move(cache), options));
}

TorchModelRunner::TorchModelRunner(std::unique_ptr<PolicyModel> model,
                                   std::unique_ptr<PagedKvCache> cache,
                                   const TorchRunnerOptions& options)
    : options_(options),
      model_(std::move(model)),
      cache_(std::move(cache)),
      attention_(cache_.get(), model_->config().query_heads, model_->deterministic()) {}

absl::Status TorchModelRunner::Run(const BatchPlan& plan, absl::Span<DrawnToken> results) {
  if (!threads_set_) SetComputeThreads(options_.threads);
  threads_set_ = true;
  // The operation's text costs more than a step's dispatch: it is made only for an error.
  const absl::Status status = CatchTorch("rollout step", [&] { return RunGuarded(plan, results); });
  if (status.ok()) return status;
  return Annotate(status, absl::StrCat(plan.sequences.size(), " sequences, ", plan.new_tokens,
                                       " new tokens, ", plan.draws.size(), " draws"));
}

at::Tensor TorchModelRunner::Indices(at::Tensor* buffer, int64_t rows) {
  if (!buffer->defined() || buffer->size(0) < rows) {
    *buffer = at::empty({std::max<int64_t>(rows, 256) * 2}, at::kLong);
  }
  return buffer->narrow(0, 0, rows);
}

absl::Status TorchModelRunner::RunGuarded(const BatchPlan& plan, absl::Span<DrawnToken> results) {
  const at::NoGradGuard no_grad;
  for (const BlockCopy& copy : plan.copies) cache_->CopyBlock(copy.from, copy.to);

  const at::Tensor tokens = Indices(&tokens_, plan.new_tokens);
  int64_t* token = tokens.data_ptr<int64_t>();
  sequences_.clear();
  for (const StepSequence& sequence : plan.sequences) {
    token = std::copy(sequence.new_tokens.begin(), sequence.new_tokens.end(), token);
    sequences_.push_back(PagedSequence{sequence.blocks, sequence.context_before,
                                       static_cast<int32_t>(sequence.new_tokens.size())});
  }
  RETURN_IF_ERROR(attention_.SetBatch(sequences_));
  at::Tensor hidden = model_->Hidden(tokens, attention_.Positions(), attention_);
  if (plan.draws.empty()) return absl::OkStatus();

  // Rows that are drawn from, and for each draw its row among them.
  const auto draws = static_cast<int64_t>(plan.draws.size());
  const at::Tensor rows = Indices(&rows_, static_cast<int64_t>(plan.sequences.size()));
  const at::Tensor repeated = Indices(&repeated_, draws);
  int64_t* row = rows.data_ptr<int64_t>();
  int64_t* repeat = repeated.data_ptr<int64_t>();
  int64_t used = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const StepSequence& sequence = plan.sequences[i];
    if (sequence.draws == 0) continue;
    std::fill_n(repeat + sequence.first_draw, sequence.draws, used);
    row[used++] = attention_.last_rows()[i];
  }
  if (used < plan.new_tokens) hidden = hidden.index_select(0, rows.narrow(0, 0, used));
  at::Tensor logits = model_->NarrowLogits(hidden);
  if (draws > used) logits = logits.index_select(0, repeated);

  sampling_.clear();
  uniforms_.clear();
  for (const TokenDraw& draw : plan.draws) {
    sampling_.push_back(RowSampling{draw.sampling->temperature, draw.sampling->top_k,
                                    draw.sampling->top_p, draw.sampling->min_p, draw.top_tokens});
    uniforms_.push_back(draw.uniform);
  }
  sampled_.resize(plan.draws.size());
  RETURN_IF_ERROR(SampleRows(logits, sampling_, uniforms_, absl::MakeSpan(sampled_)));
  for (size_t i = 0; i < sampled_.size(); ++i) {
    results[i] = DrawnToken{sampled_[i].token, sampled_[i].log_prob, std::move(sampled_[i].top)};
  }
  return absl::OkStatus();
}

ModelMemory TorchModelRunner::Memory() const {
  ModelMemory memory;
  memory.weights = model_->weight_bytes();
  memory.cache = cache_->bytes();
  memory.scratch = model_->scratch_bytes() + attention_.scratch_bytes();
  memory.staged = stage_.bytes();
  return memory;
}

void TorchModelRunner::Stage(std::unique_ptr<StagedWeights> weights) {
  stage_.Stage(std::move(weights));
}

absl::Status TorchModelRunner::SwapWeights(PolicyVersion version) {
  return stage_.SwapInto(version, [this](absl::Span<const TensorBytes> tensors) {
    return model_->LoadState(tensors);
  });
}

}  // namespace crescendo
