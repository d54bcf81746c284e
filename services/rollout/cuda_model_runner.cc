#include "services/rollout/cuda_model_runner.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/sampler.h"

namespace crescendo {

absl::Status CudaModelRunner::Run(const BatchPlan& plan, absl::Span<DrawnToken> results) {
  batch_.copies.clear();
  batch_.sequences.clear();
  batch_.draws.clear();
  for (const BlockCopy& copy : plan.copies) batch_.copies.emplace_back(copy.from, copy.to);
  for (const StepSequence& step : plan.sequences) {
    CudaSequence sequence;
    sequence.new_tokens = step.new_tokens;
    sequence.context_before = step.context_before;
    sequence.blocks = step.blocks;
    sequence.first_draw = step.first_draw;
    sequence.draws = step.draws;
    batch_.sequences.push_back(sequence);
  }
  for (const TokenDraw& step : plan.draws) {
    cuda::Draw draw;
    draw.seed = step.seed;
    draw.group = step.group.value();
    draw.sample = step.sample;
    draw.position = step.position;
    draw.temperature = step.sampling->temperature;
    draw.top_k = step.sampling->top_k;
    draw.top_p = step.sampling->top_p;
    draw.min_p = static_cast<float>(step.sampling->min_p);
    batch_.draws.push_back(draw);
  }
  drawn_.assign(plan.draws.size(), cuda::Drawn());
  const absl::Status status = policy_->Step(batch_, absl::MakeSpan(drawn_));
  if (!status.ok()) {
    return Annotate(status,
                    absl::StrCat("rollout step: ", plan.sequences.size(), " sequences, ",
                                 plan.new_tokens, " new tokens, ", plan.draws.size(), " draws"));
  }
  for (size_t i = 0; i < drawn_.size(); ++i) {
    results[i] = DrawnToken{drawn_[i].token, drawn_[i].log_prob};
  }
  return GiveTopTokens(plan, results);
}

absl::Status CudaModelRunner::GiveTopTokens(const BatchPlan& plan, absl::Span<DrawnToken> results) {
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const StepSequence& sequence = plan.sequences[i];
    bool copied = false;
    for (int32_t d = sequence.first_draw; d < sequence.first_draw + sequence.draws; ++d) {
      const TokenDraw& draw = plan.draws[static_cast<size_t>(d)];
      if (draw.top_tokens == 0) continue;
      if (!copied) {
        logits_.resize(static_cast<size_t>(policy_->config().vocab_size));
        RETURN_IF_ERROR(policy_->CopyLogits(policy_->logit_rows()[i], absl::MakeSpan(logits_)));
        copied = true;
      }
      results[static_cast<size_t>(d)].top =
          MostProbable(logits_, draw.sampling->temperature, draw.top_tokens);
    }
  }
  return absl::OkStatus();
}

ModelMemory CudaModelRunner::Memory() const {
  ModelMemory memory;
  memory.weights = policy_->weight_bytes();
  memory.cache = policy_->cache_bytes();
  memory.scratch = policy_->scratch_bytes();
  memory.staged = stage_.bytes();
  return memory;
}

void CudaModelRunner::Stage(std::unique_ptr<StagedWeights> weights) {
  stage_.Stage(std::move(weights));
}

absl::Status CudaModelRunner::SwapWeights(PolicyVersion version) {
  return stage_.SwapInto(version, [this](absl::Span<const TensorBytes> tensors) {
    return policy_->LoadState(tensors);
  });
}

}  // namespace crescendo
