// Which tokens the next step computes: continuous batching over paged blocks.
//
// A step takes, in this order: one token of every running sample; then, as far as slots, free
// blocks and the step's budget of new tokens go, prefill: samples that wait with tokens of their
// own (preempted or resumed; the longest first, for they are the tail of the batch), then the
// prompts of new groups in order of arrival, each once for its whole group, in chunks that fit the
// budget.
//
// When the pool runs dry, running samples are preempted, the one that is cheapest to compute again
// first: its blocks are freed, its tokens stay.
//
// Invariants: at most `slots` samples run; a planned token has its block; blocks shared by two
// sequences are written by none. Deterministic. Not thread-safe.
#ifndef CRESCENDO_SERVICES_ROLLOUT_SCHEDULER_H_
#define CRESCENDO_SERVICES_ROLLOUT_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "services/rollout/block_manager.h"
#include "services/rollout/model_runner.h"
#include "services/rollout/sequence.h"

namespace crescendo {

struct SchedulerOptions {
  int slots = 256;
  int step_tokens = 2048;  // new tokens of a step, prefill and decode together
};

// What a planned StepSequence stands for: a sample, or (sample == nullptr) a group's prompt.
struct PlannedSequence {
  SequenceGroup* group = nullptr;
  Sequence* sample = nullptr;
  int new_tokens = 0;
};

class Scheduler {
 public:
  // `blocks` outlives the scheduler. Requires 0 < slots <= step_tokens.
  Scheduler(const SchedulerOptions& options, BlockManager* blocks);

  // A group whose samples are in state kFirst or kWaiting, counters at zero. It stays the caller's.
  void Add(SequenceGroup* group);
  // Takes the group out and frees all it holds.
  void Remove(SequenceGroup* group);
  // Takes one sample out for good: it becomes kFinished.
  void Finish(Sequence* sample);
  // kFirst becomes kWaiting: it has its first token.
  void FirstDrawn(Sequence* sample);
  // Takes a group's samples out of their slots; they wait.
  void PreemptGroup(SequenceGroup* group);

  // Plans a step. False when there is nothing that can be computed.
  bool Plan(BatchPlan* plan, std::vector<PlannedSequence>* planned);
  // After the step: counts its tokens as computed. Call it before the draws go to the samples.
  void Commit(const std::vector<PlannedSequence>& planned);

  // All cached tokens are forgotten; samples in slots wait for their turn to be computed anew.
  void DropCache();
  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return waiting_; }
  uint64_t preemptions() const { return preemptions_; }
  // Tokens computed of prompts, and of what was resumed or preempted.
  uint64_t prefilled_tokens() const { return prefilled_tokens_; }

 private:
  void PlanRunning(BatchPlan* plan, std::vector<PlannedSequence>* planned);
  void PlanWaiting(BatchPlan* plan, std::vector<PlannedSequence>* planned);
  void PlanPrompts(BatchPlan* plan, std::vector<PlannedSequence>* planned);
  // Gives the sample its slot and blocks for all its tokens; false when there is no room.
  bool Start(Sequence* sample, BatchPlan* plan);
  void Emit(Sequence* sample, BatchPlan* plan, std::vector<PlannedSequence>* planned);
  void EmitPrompt(SequenceGroup* group, BatchPlan* plan, std::vector<PlannedSequence>* planned);
  void MakeRoomForRunning();
  // Frees the prompt of the newest group that has nothing running, other than `keep`.
  bool ReclaimPrompt(const SequenceGroup* keep);
  void Preempt(Sequence* sample);
  void QueuePrompt(SequenceGroup* group, bool front);
  // Frees the partly filled last block of a prompt that no sample waits for.
  void TrimPrompt(SequenceGroup* group);
  void Move(Sequence* sample, Sequence::State state);
  void LeaveRunning(Sequence* sample);
  // Free blocks that prefill leaves to the running samples' growth.
  int SpareBlocks() const;
  bool NeedsBlock(const Sequence& sample) const;

  SchedulerOptions options_;
  BlockManager* blocks_;
  std::vector<Sequence*> running_;
  std::vector<SequenceGroup*> groups_;  // in order of arrival
  std::deque<SequenceGroup*> prompts_;  // whose prompt is to be computed
  std::vector<Sequence*> ready_;        // scratch of PlanWaiting
  int waiting_ = 0;                     // samples in kFirst and kWaiting
  int budget_ = 0;                      // new tokens left in the step
  uint64_t arrivals_ = 0;
  uint64_t preemptions_ = 0;
  uint64_t prefilled_tokens_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_SCHEDULER_H_
