// The rollout worker as a state machine: leases and answers in, actions out; Step runs one engine
// iteration. No thread, clock, socket, text or tensor.
//
// Flow of a training group: OnLeases -> (attempt > 0: RequestResume, OnResume) -> decode; SendChunk
// every chunk_tokens -> a sample ends: RequestGrade, OnVerdict -> closing SendChunk -> its ack says
// group_complete: CompleteGroup, OnCompleted -> forgotten. An evaluation group sends no chunks; it
// is complete when all its samples have a verdict.
//
// Invariants
//  1. Every token of a group that is held stays in memory until the group is completed, abandoned
//     or revoked: whatever the learner lost can be sent again.
//  2. A sample's chunks leave in order and without gaps on one stream; what the learner reports
//     after a reset is where they go on. Its report wins over what the worker holds.
//  3. No token of a group is drawn with a version below its min_version or other than its
//     pinned_version, nor with weights of a learner incarnation that is gone. A swap happens
//     between two steps only; what runs goes on, each token keeps its version.
//  4. Sent but not acknowledged chunks, answers without a verdict and unacknowledged tokens of a
//     sample are bounded.
//
// Not thread-safe: one thread owns it. `runner` outlives it.
#ifndef CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_CORE_H_
#define CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_CORE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/domain.h"
#include "common/base/ids.h"
#include "services/rollout/engine.h"
#include "services/rollout/group_state.h"
#include "services/rollout/model_runner.h"
#include "services/rollout/rollout_actions.h"
#include "services/rollout/served_request.h"
#include "services/rollout/stop_watch.h"

namespace crescendo {

struct RolloutOptions {
  EngineOptions engine;
  int chunk_tokens = 32;              // in [1, limits::kChunkTokensMax]
  int unacked_tokens_max = 16384;     // of one sample; decoding of it pauses above
  int chunks_in_flight_max = 2048;    // sent, not acknowledged, over all samples
  int grades_in_flight_max = 1024;    // at most limits::kGradesInFlightMax
  int held_samples_per_slot_max = 8;  // no more leases are asked for above this
  int shown_samples = 0;              // of each group, completions that go along for people
  PolicyVersion loaded;               // what the runner holds at the start: the base is 0
  bool recompute_cache = false;       // at a swap
  StopWatchFactory watch_stops;       // empty: leases with stop strings are handed back
};

// A lease with its prompt as tokens (the adapter renders and tokenises it).
struct LeasedPrompt {
  GroupLease lease;
  std::vector<int32_t> prompt_tokens;
};

struct LeaseTokens {
  LeaseId lease;
  uint64_t tokens = 0;  // held, over all samples of its group
  int unfinished = 0;   // samples that are still decoded
};

struct RolloutStats {
  int groups = 0;   // held
  int running = 0;  // samples in a slot
  int waiting = 0;  // samples that wait for one
  int grading = 0;  // answers without a verdict
  int chunks_in_flight = 0;
  int served = 0;                      // requests from outside the run
  uint64_t unacknowledged_tokens = 0;  // sent to the learner, not acknowledged
  int blocks_used = 0;
  int blocks_total = 0;
  uint64_t generated_tokens = 0;
  uint64_t prefilled_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t completed_groups = 0;
  uint64_t resumes = 0;
  uint64_t resumed_tokens = 0;  // taken over from the learner
  uint64_t swaps = 0;
};

class RolloutCore {
 public:
  RolloutCore(const RolloutOptions& options, ModelRunner* runner);
  ~RolloutCore();
  RolloutCore(const RolloutCore&) = delete;
  RolloutCore& operator=(const RolloutCore&) = delete;

  // Events. Those of groups, leases or ids that are not held any more do nothing.
  //
  // The answer to AskLeases. A lease of a group that is held already (it was granted again)
  // replaces the old one and keeps the tokens. A group that can never fit is abandoned at once.
  void OnLeases(std::vector<LeasedPrompt> leases);
  void OnResume(uint64_t stream, GroupId group, ResumeReply reply);
  void OnChunkAck(uint64_t stream, const ChunkAck& ack);
  void OnVerdict(uint64_t id, Verdict verdict, double reward, std::string extracted,
                 std::string reason = "");
  // The coordinator has the completion.
  void OnCompleted(LeaseId lease);
  // The coordinator says that the lease is not this worker's any more. Whether it was still held
  // (one that was just completed is named too, when a heartbeat crossed the completion).
  bool OnRevoked(LeaseId lease);
  // From each heartbeat: the newest version and the learner process that published it. Another
  // incarnation than before voids weights above version 0 and tokens newer than `version`, and
  // resets the stream.
  void OnPublished(PolicyVersion version, const std::string& learner_incarnation);
  // `incarnation` is that of the manifest; another one than the last announced is ignored.
  void OnWeightsReady(PolicyVersion version, const std::string& incarnation);
  // Nobody holds the version: groups pinned to it are abandoned, else it is asked for again after
  // the next OnPublished.
  void OnWeightsUnavailable(PolicyVersion version, absl::string_view reason);
  // The stream to the learner ended: all groups ask what the learner holds and go on from there.
  void OnLearnerReset();
  // The stream to the reward service ended.
  void OnRewardReset();
  // A request from outside the run (the HTTP endpoint): its tokens come as ServedToken actions, in
  // order, with the weights that are loaded at the time. RESOURCE_EXHAUSTED or INVALID_ARGUMENT:
  // it does not fit. It shares slots and blocks with the run's groups.
  absl::Status Serve(ServedRequest request);
  // Ends a request; does nothing when it has ended.
  void StopServing(uint64_t request);
  // Takes no more leases; what is not complete at `deadline` is handed back then.
  void Drain(absl::Time deadline);

  // One iteration: swap weights when due, decode one step, follow up. True when it decoded. An
  // error is the runner's and final.
  absl::StatusOr<bool> Step(absl::Time now);
  // What was asked since the last call, in order.
  std::vector<RolloutAction> TakeActions();
  // The samples that spoke their first token since the last call.
  std::vector<std::pair<GroupId, uint32_t>> TakeFirstTokens() {
    return std::exchange(first_tokens_, {});
  }

  // Leases to renew.
  std::vector<LeaseTokens> Leases() const;
  bool draining() const { return drain_deadline_.has_value(); }
  // Draining, and nothing is held any more.
  bool drained() const { return draining() && groups_.empty(); }
  // Number of the present stream to the learner.
  uint64_t stream() const { return stream_; }
  // The id that the next RequestGrade gets; those before are out.
  uint64_t next_grade_id() const { return next_grade_id_; }
  PolicyVersion loaded() const { return loaded_; }
  // The weights are those of a learner that is still there.
  bool weights_valid() const { return weights_valid_; }
  bool holds(GroupId group) const { return groups_.contains(group); }
  uint64_t generated_tokens() const { return engine_.drawn_tokens(); }
  // What is held of a group, for tests; nullptr when it is not.
  const GroupState* group(GroupId group) const;
  RolloutStats stats() const;

 private:
  using Key = std::pair<GroupId, uint32_t>;

  // rollout_serving.cc: requests from outside the run, stop strings.
  struct Served {
    ServedRequest request;
    std::vector<std::shared_ptr<StopWatch>> watches;  // a sample each, or none
    int left = 0;                                     // samples that go on
  };
  void OnServedToken(const EngineOutput& output);
  std::shared_ptr<StopWatch> WatchOver(const SamplingParams& sampling,
                                       absl::Span<const int32_t> tokens, bool* stopped) const;
  absl::Status CheckLease(const GroupLease& lease) const;

  // rollout_core.cc: leases, weights, the step.
  void Admit(LeasedPrompt leased);
  void StartGroup(GroupState& group);
  void Forget(GroupId group);
  void Abandon(GroupId group, absl::string_view reason);
  void AskForLeases();
  bool Runnable(const GroupState& group) const;
  void UpdateRunnable();
  PolicyVersion WantedVersion() const;
  void AskForWeights();
  absl::Status SwapIfDue();
  bool SwapNeeded() const;
  void DiscardNewerThan(PolicyVersion version);
  void HandOverAtDeadline(absl::Time now);
  void OnToken(const EngineOutput& output);

  // rollout_streams.cc: what goes to learner and reward service and what comes back.
  void ResetStream();
  void AskResume(GroupState& group);
  void RetryResumes(absl::Time now);
  bool Adopt(GroupState& group, PartialSample held);
  FinishReason FinishOf(const GroupState& group, const SampleState& sample) const;
  void OnGroupEnded(GroupState& group);
  void OnRefused(GroupState& group, absl::string_view why);
  void Flush(GroupState& group, uint32_t sample, bool force);
  void FlushGroup(GroupState& group, bool force);
  void FlushBacklog();
  void EmitChunk(GroupState& group, uint32_t sample, uint32_t tokens, bool close);
  void QueueGrade(GroupState& group, uint32_t sample);
  void FlushGrades();
  void DropGrade(SampleState& sample);
  void DropGrades(GroupState& group);
  void UpdateFlowControl(GroupState& group, uint32_t sample);
  void CompleteIfDone(GroupState& group);
  void AddShown(const GroupState& group, CompleteGroup* complete) const;
  void EmitCompletion(GroupState& group);

  GroupState* Find(GroupId group);

  RolloutOptions options_;
  ModelRunner* runner_;
  Engine engine_;
  absl::flat_hash_set<int32_t> stop_tokens_;
  absl::btree_map<GroupId, std::unique_ptr<GroupState>> groups_;
  absl::flat_hash_map<LeaseId, GroupId> by_lease_;
  absl::flat_hash_map<GroupId, Served> served_;
  std::vector<RolloutAction> actions_;
  std::vector<std::pair<GroupId, uint32_t>> first_tokens_;

  bool ask_outstanding_ = false;
  int group_samples_seen_ = 1;  // G of the last lease

  uint64_t stream_ = 1;
  int chunks_in_flight_ = 0;
  std::deque<Key> backlog_;  // samples with something to send, when the window was full
  uint64_t next_grade_id_ = 1;
  absl::flat_hash_map<uint64_t, Key> grades_;  // without a verdict, by id
  std::deque<Key> grade_backlog_;              // finished samples that are not requested yet

  PolicyVersion loaded_;
  bool weights_valid_ = true;
  PolicyVersion announced_;  // newest version known to be published
  std::string incarnation_;  // of the learner; empty: not known yet
  std::optional<PolicyVersion> pulling_;
  std::optional<PolicyVersion> ready_;
  std::optional<PolicyVersion> unavailable_;  // not asked for again before the next OnPublished

  absl::Time now_ = absl::InfinitePast();  // of the last step
  std::optional<absl::Time> drain_deadline_;
  uint64_t completed_groups_ = 0;
  uint64_t resumes_ = 0;
  uint64_t resumed_tokens_ = 0;
  uint64_t swaps_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_ROLLOUT_CORE_H_
