#include "services/rollout/engine.h"

#include <algorithm>
#include <utility>

#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace crescendo {

Engine::Engine(const EngineOptions& options, ModelRunner* runner)
    : options_(options),
      runner_(runner),
      blocks_(options.blocks, options.block_tokens),
      scheduler_(SchedulerOptions{options.slots, options.step_tokens}, &blocks_),
      stop_tokens_(options.stop_tokens.begin(), options.stop_tokens.end()) {}

absl::Status Engine::CheckFits(int64_t prompt_tokens, int64_t limit) const {
  if (prompt_tokens <= 0) return absl::InvalidArgumentError("the prompt has no token");
  if (limit <= 0 || prompt_tokens + limit > limits::kContextTokensMax) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and completion of ", prompt_tokens,
                                                   " + ", limit, " tokens: expected a sum in [2, ",
                                                   limits::kContextTokensMax, "]"));
  }
  // One block more: the prompt's last one, partly filled, is kept beside the sample's copy.
  if (blocks_.BlocksFor(prompt_tokens + limit) + 1 > blocks_.blocks()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "prompt and completion of ", prompt_tokens, " + ", limit,
        " tokens do not fit the KV pool of ",
        static_cast<int64_t>(blocks_.blocks()) * options_.block_tokens, " (rollout.kv_tokens)"));
  }
  return absl::OkStatus();
}

void Engine::AddGroup(GroupRequest request) {
  CRESCENDO_CHECK(!groups_.contains(request.id));
  auto group = std::make_unique<SequenceGroup>();
  group->id = request.id;
  group->draw_id = request.draw_id.value_or(request.id);
  group->seed = request.seed;
  group->sampling = std::move(request.sampling);
  group->limit = request.limit;
  group->top_tokens = request.top_tokens;
  group->prompt = std::move(request.prompt);
  group->runnable = request.runnable;
  for (SampleStart& start : request.samples) {
    CRESCENDO_CHECK(static_cast<int>(start.drawn.size()) < group->limit);
    auto sample = std::make_unique<Sequence>();
    sample->group = group.get();
    sample->sample = start.sample;
    sample->state = start.drawn.empty() ? Sequence::State::kFirst : Sequence::State::kWaiting;
    sample->tokens = group->prompt;
    sample->tokens.insert(sample->tokens.end(), start.drawn.begin(), start.drawn.end());
    group->samples.push_back(std::move(sample));
  }
  if (group->samples.empty()) return;
  scheduler_.Add(group.get());
  groups_.emplace(group->id, std::move(group));
}

void Engine::RemoveGroup(GroupId id) {
  const auto it = groups_.find(id);
  if (it == groups_.end()) return;
  scheduler_.Remove(it->second.get());
  groups_.erase(it);
}

Sequence* Engine::Find(GroupId id, uint32_t index) {
  const auto it = groups_.find(id);
  if (it == groups_.end()) return nullptr;
  for (const auto& sample : it->second->samples) {
    if (sample->sample == index) return sample.get();
  }
  return nullptr;
}

void Engine::RemoveSample(GroupId group, uint32_t index) {
  Sequence* sample = Find(group, index);
  if (sample == nullptr || !sample->live()) return;
  scheduler_.Finish(sample);
  if (sample->group->live == 0) RemoveGroup(group);
}

void Engine::SetPaused(GroupId group, uint32_t index, bool paused) {
  Sequence* sample = Find(group, index);
  if (sample != nullptr) sample->paused = paused;
}

void Engine::SetRunnable(GroupId id, bool runnable) {
  const auto it = groups_.find(id);
  if (it == groups_.end() || it->second->runnable == runnable) return;
  it->second->runnable = runnable;
  if (!runnable) scheduler_.PreemptGroup(it->second.get());
}

absl::StatusOr<absl::Span<const EngineOutput>> Engine::Step() {
  outputs_.clear();
  worked_ = scheduler_.Plan(&plan_, &planned_);
  if (!worked_) return absl::Span<const EngineOutput>();
  results_.resize(plan_.draws.size());
  RETURN_IF_ERROR(runner_->Run(plan_, absl::MakeSpan(results_)));
  scheduler_.Commit(planned_);

  touched_.clear();
  for (size_t i = 0; i < planned_.size(); ++i) {
    const StepSequence& step = plan_.sequences[i];
    if (step.draws == 0) continue;
    const PlannedSequence& item = planned_[i];
    if (item.sample != nullptr) {
      Append(item.sample, &results_[static_cast<size_t>(step.first_draw)]);
    } else {
      // In the order in which the scheduler asked for them; Append changes states, not the list.
      int draw = step.first_draw;
      for (const auto& sample : item.group->samples) {
        if (sample->state != Sequence::State::kFirst) continue;
        scheduler_.FirstDrawn(sample.get());
        Append(sample.get(), &results_[static_cast<size_t>(draw++)]);
      }
    }
    if (item.group->live == 0) touched_.push_back(item.group);
  }
  std::sort(touched_.begin(), touched_.end(),
            [](const SequenceGroup* a, const SequenceGroup* b) { return a->order < b->order; });
  touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
  for (SequenceGroup* group : touched_) RemoveGroup(group->id);
  return absl::MakeConstSpan(outputs_);
}

void Engine::Append(Sequence* sample, DrawnToken* drawn) {
  const SequenceGroup& group = *sample->group;
  sample->tokens.push_back(drawn->token);
  ++drawn_tokens_;
  EngineOutput output{group.id,
                      sample->sample,
                      drawn->token,
                      drawn->log_prob,
                      FinishReason::kUnspecified,
                      std::move(drawn->top)};
  if (stop_tokens_.contains(drawn->token)) {
    output.finish = FinishReason::kStop;
  } else if (static_cast<int>(sample->tokens.size() - group.prompt.size()) >= group.limit) {
    output.finish = FinishReason::kTruncated;
  }
  if (output.finish != FinishReason::kUnspecified) scheduler_.Finish(sample);
  outputs_.push_back(std::move(output));
}

}  // namespace crescendo
