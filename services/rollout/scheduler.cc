#include "services/rollout/scheduler.h"

#include <algorithm>

#include "common/base/rng.h"
#include "common/base/status_macros.h"

namespace crescendo {

Scheduler::Scheduler(const SchedulerOptions& options, BlockManager* blocks)
    : options_(options), blocks_(blocks) {
  CRESCENDO_CHECK(options.slots > 0 && options.slots <= options.step_tokens);
}

// Groups and samples
// ---------------------------------------------------------------------------------

void Scheduler::Add(SequenceGroup* group) {
  CRESCENDO_CHECK(!group->prompt.empty() && !group->ready && group->live == 0);
  group->order = arrivals_++;
  groups_.push_back(group);
  for (const auto& sample : group->samples) {
    const Sequence::State state = sample->state;
    CRESCENDO_CHECK(state == Sequence::State::kFirst || state == Sequence::State::kWaiting);
    sample->state = Sequence::State::kFinished;
    Move(sample.get(), state);
  }
  QueuePrompt(group, false);
}

void Scheduler::Remove(SequenceGroup* group) {
  for (const auto& sample : group->samples) {
    if (sample->live()) Finish(sample.get());
  }
  blocks_->ReleaseAll(group->blocks);
  if (group->in_prompt_queue) {
    prompts_.erase(std::find(prompts_.begin(), prompts_.end(), group));
    group->in_prompt_queue = false;
  }
  groups_.erase(std::find(groups_.begin(), groups_.end(), group));
}

void Scheduler::Finish(Sequence* sample) {
  if (sample->state == Sequence::State::kRunning) LeaveRunning(sample);
  blocks_->ReleaseAll(sample->blocks);
  sample->computed = 0;
  Move(sample, Sequence::State::kFinished);
  TrimPrompt(sample->group);
}

void Scheduler::FirstDrawn(Sequence* sample) {
  CRESCENDO_CHECK(sample->state == Sequence::State::kFirst);
  Move(sample, Sequence::State::kWaiting);
}

void Scheduler::PreemptGroup(SequenceGroup* group) {
  for (const auto& sample : group->samples) {
    if (sample->state == Sequence::State::kRunning) Preempt(sample.get());
  }
}

void Scheduler::DropCache() {
  while (!running_.empty()) {
    Preempt(running_.back());
    --preemptions_;  // not for want of room
  }
  // The oldest first in the queue.
  for (auto it = groups_.rbegin(); it != groups_.rend(); ++it) {
    SequenceGroup* group = *it;
    if (group->blocks.empty() && !group->ready) continue;
    blocks_->ReleaseAll(group->blocks);
    group->computed = 0;
    group->ready = false;
    if (group->live > 0) QueuePrompt(group, true);
  }
}

void Scheduler::Move(Sequence* sample, Sequence::State state) {
  using State = Sequence::State;
  SequenceGroup* group = sample->group;
  const auto count = [&](State of, int by) {
    if (of == State::kFinished) return;
    group->live += by;
    if (of == State::kFirst) group->first += by;
    if (of == State::kWaiting) group->waiting += by;
    if (of == State::kRunning) group->running += by;
    if (of != State::kRunning) waiting_ += by;
  };
  count(sample->state, -1);
  sample->state = state;
  count(state, +1);
}

void Scheduler::LeaveRunning(Sequence* sample) {
  running_.erase(std::find(running_.begin(), running_.end(), sample));
}

void Scheduler::QueuePrompt(SequenceGroup* group, bool front) {
  if (group->in_prompt_queue) return;
  group->in_prompt_queue = true;
  if (front) {
    prompts_.push_front(group);
  } else {
    prompts_.push_back(group);
  }
}

void Scheduler::TrimPrompt(SequenceGroup* group) {
  const size_t full = group->prompt.size() / blocks_->block_tokens();
  if (!group->ready || group->first > 0 || group->waiting > 0 || group->blocks.size() <= full)
    return;
  blocks_->Release(group->blocks.back());
  group->blocks.pop_back();
}

// Room
// -----------------------------------------------------------------------------------------------

bool Scheduler::NeedsBlock(const Sequence& sample) const {
  return !sample.paused &&
         static_cast<size_t>(blocks_->BlocksFor(static_cast<int64_t>(sample.tokens.size()))) >
             sample.blocks.size();
}

int Scheduler::SpareBlocks() const {
  return std::min(running(), std::max(1, blocks_->blocks() / 32));
}

// A running sample needs at most one block more than it has: Start gave it all for its tokens then.
void Scheduler::MakeRoomForRunning() {
  int needed = 0;
  for (const Sequence* sample : running_) needed += NeedsBlock(*sample) ? 1 : 0;
  while (needed > blocks_->free_blocks()) {
    if (ReclaimPrompt(nullptr)) continue;
    // The cheapest to compute again; of equals the one that came last.
    Sequence* victim = running_.front();
    for (Sequence* sample : running_) {
      if (sample->tokens.size() <= victim->tokens.size()) victim = sample;
    }
    needed -= NeedsBlock(*victim) ? 1 : 0;
    Preempt(victim);
  }
}

bool Scheduler::ReclaimPrompt(const SequenceGroup* keep) {
  for (auto it = groups_.rbegin(); it != groups_.rend(); ++it) {
    SequenceGroup* group = *it;
    if (group == keep || group->running > 0 || group->blocks.empty()) continue;
    blocks_->ReleaseAll(group->blocks);
    group->computed = 0;
    group->ready = false;
    if (group->live > 0) QueuePrompt(group, true);
    return true;
  }
  return false;
}

void Scheduler::Preempt(Sequence* sample) {
  LeaveRunning(sample);
  blocks_->ReleaseAll(sample->blocks);
  sample->computed = 0;
  Move(sample, Sequence::State::kWaiting);
  if (!sample->group->ready) QueuePrompt(sample->group, true);
  ++preemptions_;
}

// Planning
// -------------------------------------------------------------------------------------------

bool Scheduler::Plan(BatchPlan* plan, std::vector<PlannedSequence>* planned) {
  plan->Clear();
  planned->clear();
  budget_ = options_.step_tokens;
  MakeRoomForRunning();
  PlanRunning(plan, planned);
  if (waiting_ > 0 && running() < options_.slots) {
    PlanWaiting(plan, planned);
    PlanPrompts(plan, planned);
  }
  return !planned->empty();
}

void Scheduler::PlanRunning(BatchPlan* plan, std::vector<PlannedSequence>* planned) {
  bool prefilling = false;
  for (Sequence* sample : running_) {
    if (sample->paused) continue;
    if (static_cast<int>(sample->tokens.size()) - sample->computed > 1) {
      prefilling = true;
      continue;
    }
    if (NeedsBlock(*sample)) sample->blocks.push_back(blocks_->Allocate());
    Emit(sample, plan, planned);
  }
  if (!prefilling) return;
  for (Sequence* sample : running_) {
    const int left = static_cast<int>(sample->tokens.size()) - sample->computed;
    if (!sample->paused && left > 1 && budget_ > 0) Emit(sample, plan, planned);
  }
}

void Scheduler::PlanWaiting(BatchPlan* plan, std::vector<PlannedSequence>* planned) {
  ready_.clear();
  for (SequenceGroup* group : groups_) {
    if (!group->ready || !group->runnable || group->waiting == 0) continue;
    for (const auto& sample : group->samples) {
      if (sample->state == Sequence::State::kWaiting && !sample->paused) {
        ready_.push_back(sample.get());
      }
    }
  }
  std::stable_sort(ready_.begin(), ready_.end(), [](const Sequence* a, const Sequence* b) {
    return a->tokens.size() - a->group->prompt.size() > b->tokens.size() - b->group->prompt.size();
  });
  for (Sequence* sample : ready_) {
    if (budget_ == 0 || running() >= options_.slots) return;
    bool started = Start(sample, plan);
    while (!started && planned->empty() && running_.empty() && ReclaimPrompt(sample->group)) {
      started = Start(sample, plan);
    }
    if (!started) return;
    Emit(sample, plan, planned);
  }
}

bool Scheduler::Start(Sequence* sample, BatchPlan* plan) {
  SequenceGroup* group = sample->group;
  if (!group->ready) return false;  // reclaimed in this very step
  const int prompt = static_cast<int>(group->prompt.size());
  const int full = prompt / blocks_->block_tokens();
  const bool has_partial = static_cast<int>(group->blocks.size()) > full;
  const bool last = group->first == 0 && group->waiting == 1;
  const int total = blocks_->BlocksFor(static_cast<int64_t>(sample->tokens.size()));
  const int fresh = total - full - (has_partial && last ? 1 : 0);
  if (fresh + SpareBlocks() > blocks_->free_blocks()) return false;

  sample->blocks.assign(group->blocks.begin(), group->blocks.begin() + full);
  for (const int32_t block : sample->blocks) blocks_->Share(block);
  sample->computed = full * blocks_->block_tokens();
  if (has_partial) {
    const int32_t partial = group->blocks.back();
    if (last) {
      group->blocks.pop_back();
      sample->blocks.push_back(partial);
    } else {
      sample->blocks.push_back(blocks_->Allocate());
      plan->copies.push_back(BlockCopy{partial, sample->blocks.back()});
    }
    sample->computed = prompt;
  }
  blocks_->Grow(sample->blocks, total);
  Move(sample, Sequence::State::kRunning);
  running_.push_back(sample);
  return true;
}

void Scheduler::PlanPrompts(BatchPlan* plan, std::vector<PlannedSequence>* planned) {
  // Prompts are computed for samples that will find a slot: no further ahead.
  int expected = running();
  for (const SequenceGroup* group : groups_) {
    if (group->ready && group->runnable) expected += group->waiting;
  }
  for (size_t i = 0; i < prompts_.size(); ++i) {
    SequenceGroup* group = prompts_[i];
    if (!group->runnable || group->live == 0) continue;
    if (budget_ == 0 || expected >= options_.slots) return;
    if (group->blocks.empty()) {
      const int needed = blocks_->BlocksFor(static_cast<int64_t>(group->prompt.size()));
      while (needed + 1 + SpareBlocks() > blocks_->free_blocks()) {
        if (!planned->empty() || !running_.empty() || !ReclaimPrompt(group)) return;
      }
      blocks_->Grow(group->blocks, needed);
    }
    EmitPrompt(group, plan, planned);
    expected += group->live;
  }
}

void Scheduler::Emit(Sequence* sample, BatchPlan* plan, std::vector<PlannedSequence>* planned) {
  const int total = static_cast<int>(sample->tokens.size());
  const int left = total - sample->computed;
  const int now = std::min(left, budget_);
  budget_ -= now;
  StepSequence step;
  step.new_tokens = absl::MakeConstSpan(sample->tokens).subspan(sample->computed, now);
  step.context_before = sample->computed;
  step.blocks = sample->blocks;
  step.first_draw = static_cast<int32_t>(plan->draws.size());
  if (now == left) {
    step.draws = 1;
    const SequenceGroup& group = *sample->group;
    const uint32_t position = static_cast<uint32_t>(total - static_cast<int>(group.prompt.size()));
    plan->draws.push_back(
        TokenDraw{group.draw_id, sample->sample, position, group.seed,
                  TokenUniform(group.seed, group.draw_id.value(), sample->sample, position),
                  &group.sampling, group.top_tokens});
  }
  plan->sequences.push_back(step);
  plan->new_tokens += now;
  planned->push_back(PlannedSequence{sample->group, sample, now});
}

void Scheduler::EmitPrompt(SequenceGroup* group, BatchPlan* plan,
                           std::vector<PlannedSequence>* planned) {
  const int left = static_cast<int>(group->prompt.size()) - group->computed;
  const int now = std::min(left, budget_);
  budget_ -= now;
  StepSequence step;
  step.new_tokens = absl::MakeConstSpan(group->prompt).subspan(group->computed, now);
  step.context_before = group->computed;
  step.blocks = group->blocks;
  step.first_draw = static_cast<int32_t>(plan->draws.size());
  if (now == left) {
    for (const auto& sample : group->samples) {
      if (sample->state != Sequence::State::kFirst) continue;
      ++step.draws;
      plan->draws.push_back(
          TokenDraw{group->draw_id, sample->sample, 0, group->seed,
                    TokenUniform(group->seed, group->draw_id.value(), sample->sample, 0),
                    &group->sampling, group->top_tokens});
    }
  }
  plan->sequences.push_back(step);
  plan->new_tokens += now;
  planned->push_back(PlannedSequence{group, nullptr, now});
}

void Scheduler::Commit(const std::vector<PlannedSequence>& planned) {
  for (const PlannedSequence& item : planned) {
    if (item.sample != nullptr) {
      item.sample->computed += item.new_tokens;
      if (item.new_tokens > 1) prefilled_tokens_ += item.new_tokens;
      continue;
    }
    SequenceGroup* group = item.group;
    prefilled_tokens_ += item.new_tokens;
    group->computed += item.new_tokens;
    if (group->computed < static_cast<int>(group->prompt.size())) continue;
    group->ready = true;
    group->in_prompt_queue = false;
    prompts_.erase(std::find(prompts_.begin(), prompts_.end(), group));
  }
}

}  // namespace crescendo
