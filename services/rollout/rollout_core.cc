// Leases, weights and the step. What goes to the learner and the reward service is in
// rollout_streams.cc.
#include "services/rollout/rollout_core.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

// A lease that says the same about what is to be generated: tokens made under the one serve the
// other.
bool SameWork(const GroupState& held, const LeasedPrompt& leased) {
  const GroupLease& a = held.lease;
  const GroupLease& b = leased.lease;
  return a.purpose == b.purpose && a.samples == b.samples && a.context_tokens == b.context_tokens &&
         a.seed == b.seed && a.pinned_version == b.pinned_version &&
         a.sampling.temperature == b.sampling.temperature &&
         held.prompt_tokens == leased.prompt_tokens;
}

}  // namespace

absl::Status RolloutCore::CheckLease(const GroupLease& lease) const {
  if (lease.samples < 1 || lease.samples > limits::kGroupSamplesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("samples is ", lease.samples, ", expected 1 to ", limits::kGroupSamplesMax));
  }
  const SamplingParams& sampling = lease.sampling;
  const bool temperature = sampling.temperature == 0 ||
                           (sampling.temperature >= 1e-3f && sampling.temperature <= 100.0f);
  if (!temperature || sampling.top_k < 0 || !(sampling.top_p > 0 && sampling.top_p <= 1) ||
      !(sampling.min_p >= 0 && sampling.min_p < 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sampling parameters temperature=", sampling.temperature, " top_k=", sampling.top_k,
        " top_p=", sampling.top_p, " min_p=", sampling.min_p,
        ": expected 0 or 0.001 to 100, >= 0, (0, 1], [0, 1)"));
  }
  if (!sampling.stop.empty() && !options_.watch_stops) {
    return absl::UnimplementedError("stop strings are not supported by this worker");
  }
  return absl::OkStatus();
}

RolloutCore::RolloutCore(const RolloutOptions& options, ModelRunner* runner)
    : options_(options),
      runner_(runner),
      engine_(options.engine, runner),
      stop_tokens_(options.engine.stop_tokens.begin(), options.engine.stop_tokens.end()),
      loaded_(options.loaded),
      announced_(options.loaded) {
  CRESCENDO_CHECK(options.chunk_tokens >= 1 && options.chunk_tokens <= limits::kChunkTokensMax);
  CRESCENDO_CHECK(options.unacked_tokens_max >= options.chunk_tokens);
  CRESCENDO_CHECK(options.grades_in_flight_max <= limits::kGradesInFlightMax);
}

RolloutCore::~RolloutCore() = default;

GroupState* RolloutCore::Find(GroupId group) {
  const auto it = groups_.find(group);
  return it == groups_.end() ? nullptr : it->second.get();
}

const GroupState* RolloutCore::group(GroupId group) const {
  const auto it = groups_.find(group);
  return it == groups_.end() ? nullptr : it->second.get();
}

// Leases
// ------------------------------------------------------------------------------------------------

void RolloutCore::OnLeases(std::vector<LeasedPrompt> leases) {
  ask_outstanding_ = false;
  for (LeasedPrompt& leased : leases) Admit(std::move(leased));
}

void RolloutCore::Admit(LeasedPrompt leased) {
  const GroupId id = leased.lease.group;
  GroupState* held = Find(id);
  if (held != nullptr && !SameWork(*held, leased)) {
    Forget(id);
    held = nullptr;
  }
  if (held != nullptr) {
    by_lease_.erase(held->lease.lease);
    by_lease_[leased.lease.lease] = id;
    held->lease = std::move(leased.lease);
    held->completing = false;
    engine_.SetRunnable(id, Runnable(*held));
    if (held->train()) AskResume(*held);
    CompleteIfDone(*held);
    return;
  }
  absl::Status fits = CheckLease(leased.lease);
  if (fits.ok()) {
    fits = engine_.CheckFits(static_cast<int64_t>(leased.prompt_tokens.size()),
                             leased.lease.context_tokens);
  }
  if (!fits.ok()) {
    actions_.push_back(AbandonLease{leased.lease.lease, id, std::string(fits.message())});
    return;
  }
  auto group = std::make_unique<GroupState>();
  group->lease = std::move(leased.lease);
  group->prompt_tokens = std::move(leased.prompt_tokens);
  group->samples.resize(group->lease.samples);
  group_samples_seen_ = group->lease.samples;
  by_lease_[group->lease.lease] = id;
  // A group is leased only when the version that it needs is published.
  announced_ = std::max(announced_, PolicyVersion(group->lease.min_version));
  GroupState& state = *group;
  groups_.emplace(id, std::move(group));
  if (state.train() && state.lease.attempt > 0) {
    AskResume(state);
  } else {
    StartGroup(state);
  }
}

// (Re)starts the decoding of what is not finished, behind the tokens that are held.
void RolloutCore::StartGroup(GroupState& group) {
  engine_.RemoveGroup(group.lease.group);
  group.started = true;
  GroupRequest request;
  request.id = group.lease.group;
  request.seed = group.lease.seed;
  request.sampling = group.lease.sampling;
  request.limit = group.lease.context_tokens;
  request.prompt = group.prompt_tokens;
  request.runnable = Runnable(group);
  for (uint32_t i = 0; i < group.samples.size(); ++i) {
    SampleState& sample = group.samples[i];
    sample.paused = false;
    if (sample.finished() || sample.closed) continue;
    bool stopped = false;
    sample.watch = WatchOver(group.lease.sampling, sample.tokens, &stopped);
    request.samples.push_back(SampleStart{i, sample.tokens});
  }
  if (request.samples.empty()) return;
  engine_.AddGroup(std::move(request));
  for (uint32_t i = 0; i < group.samples.size(); ++i) UpdateFlowControl(group, i);
}

void RolloutCore::Forget(GroupId id) {
  const auto it = groups_.find(id);
  if (it == groups_.end()) return;
  engine_.RemoveGroup(id);
  DropGrades(*it->second);
  by_lease_.erase(it->second->lease.lease);
  groups_.erase(it);
}

void RolloutCore::Abandon(GroupId id, absl::string_view reason) {
  const GroupState* group = Find(id);
  if (group == nullptr) return;
  actions_.push_back(AbandonLease{group->lease.lease, id, std::string(reason)});
  Forget(id);
}

void RolloutCore::OnCompleted(LeaseId lease) {
  const auto it = by_lease_.find(lease);
  if (it == by_lease_.end()) return;
  const GroupState* group = Find(it->second);
  // After a reset of the learner the group may be open again: then another completion follows.
  if (!group->completing) return;
  ++completed_groups_;
  Forget(GroupId(it->second));
}

bool RolloutCore::OnRevoked(LeaseId lease) {
  const auto it = by_lease_.find(lease);
  if (it == by_lease_.end()) return false;
  Forget(GroupId(it->second));
  return true;
}

void RolloutCore::AskForLeases() {
  if (ask_outstanding_ || draining()) return;
  int unfinished = 0;
  int held = 0;
  for (const auto& [id, group] : groups_) {
    held += group->lease.samples;
    // What waits for a version that is not published yet takes no room: others may have to go first
    // for it to be published at all.
    if (PolicyVersion(group->lease.min_version) > announced_) continue;
    unfinished += group->started ? engine_.live_samples(id) : group->lease.samples;
  }
  const int slots = options_.engine.slots;
  if (unfinished >= slots || held >= slots * options_.held_samples_per_slot_max) return;
  const auto groups_of = [&](int samples) {
    return (samples + group_samples_seen_ - 1) / group_samples_seen_;
  };
  // In portions of a quarter of the slots, so that workers who ask at the same time share a batch.
  const int wanted = std::min(groups_of(slots - unfinished), groups_of((slots + 3) / 4));
  actions_.push_back(AskLeases{std::clamp(wanted, 1, limits::kLeasesPerRequestMax)});
  ask_outstanding_ = true;
}

void RolloutCore::Drain(absl::Time deadline) {
  drain_deadline_ = drain_deadline_.has_value() ? std::min(*drain_deadline_, deadline) : deadline;
}

void RolloutCore::HandOverAtDeadline(absl::Time now) {
  if (!draining() || now < *drain_deadline_ || groups_.empty()) return;
  std::vector<GroupId> held;
  for (const auto& [id, group] : groups_) held.push_back(id);
  for (const GroupId id : held) {
    GroupState& group = *Find(id);
    if (group.completing) continue;  // its completion is on its way
    FlushGroup(group, /*force=*/true);
    Abandon(id, "the worker drains");
  }
  for (const GroupId id : held) Forget(id);
}

std::vector<LeaseTokens> RolloutCore::Leases() const {
  std::vector<LeaseTokens> leases;
  leases.reserve(groups_.size());
  for (const auto& [id, group] : groups_) {
    const auto unfinished =
        std::count_if(group->samples.begin(), group->samples.end(),
                      [](const SampleState& sample) { return !sample.finished(); });
    leases.push_back(
        LeaseTokens{group->lease.lease, group->tokens(), static_cast<int>(unfinished)});
  }
  return leases;
}

// Weights
// -----------------------------------------------------------------------------------------------

bool RolloutCore::Runnable(const GroupState& group) const {
  const GroupLease& lease = group.lease;
  return weights_valid_ && loaded_ >= PolicyVersion(lease.min_version) &&
         (lease.pinned_version < 0 || loaded_ == PolicyVersion(lease.pinned_version));
}

void RolloutCore::UpdateRunnable() {
  for (const auto& [id, group] : groups_) engine_.SetRunnable(id, Runnable(*group));
}

// A group that is pinned and decoding holds its version; one that waits gets its own next.
PolicyVersion RolloutCore::WantedVersion() const {
  std::optional<PolicyVersion> pinned;
  for (const auto& [id, group] : groups_) {
    if (group->lease.pinned_version < 0 || !engine_.holds(id)) continue;
    const PolicyVersion version(group->lease.pinned_version);
    if (version == loaded_) return loaded_;
    if (!pinned.has_value()) pinned = version;
  }
  return pinned.value_or(announced_);
}

bool RolloutCore::SwapNeeded() const { return !weights_valid_ || WantedVersion() != loaded_; }

void RolloutCore::AskForWeights() {
  if (!SwapNeeded()) return;
  const PolicyVersion wanted = WantedVersion();
  if (pulling_ == wanted || ready_ == wanted || unavailable_ == wanted) return;
  pulling_ = wanted;
  ready_.reset();
  actions_.push_back(PullWeights{wanted});
}

absl::Status RolloutCore::SwapIfDue() {
  if (!ready_.has_value() || !SwapNeeded() || *ready_ != WantedVersion()) return absl::OkStatus();
  RETURN_IF_ERROR(runner_->SwapWeights(*ready_));
  if (options_.recompute_cache) engine_.DropCache();
  loaded_ = *ready_;
  weights_valid_ = true;
  ready_.reset();
  ++swaps_;
  UpdateRunnable();
  return absl::OkStatus();
}

void RolloutCore::OnPublished(PolicyVersion version, const std::string& learner_incarnation) {
  unavailable_.reset();
  if (version < PolicyVersion(0)) return;
  if (learner_incarnation == incarnation_ || incarnation_.empty()) {
    incarnation_ = learner_incarnation;
    announced_ = std::max(announced_, version);
    return;
  }
  // Another learner process: it goes on from its checkpoint, and what was made with versions that
  // it does not have was made by weights that no longer exist. The base is the same for all.
  incarnation_ = learner_incarnation;
  announced_ = version;
  weights_valid_ = loaded_ == PolicyVersion(0);
  pulling_.reset();
  ready_.reset();
  DiscardNewerThan(version);
  ResetStream();
  UpdateRunnable();
}

void RolloutCore::DiscardNewerThan(PolicyVersion version) {
  for (const auto& [id, group] : groups_) {
    bool changed = false;
    for (SampleState& sample : group->samples) {
      const uint32_t kept = sample.TokensUpTo(version);
      if (kept == sample.tokens.size()) continue;
      DropGrade(sample);
      sample.Truncate(kept);
      changed = true;
    }
    if (!changed) continue;
    group->completing = false;
    if (group->started) StartGroup(*group);
  }
}

void RolloutCore::OnWeightsReady(PolicyVersion version, const std::string& incarnation) {
  if (pulling_ != version) return;
  pulling_.reset();
  if (!incarnation_.empty() && incarnation != incarnation_) {
    unavailable_ = version;  // the next heartbeat tells who is right
    return;
  }
  ready_ = version;
}

void RolloutCore::OnWeightsUnavailable(PolicyVersion version, absl::string_view reason) {
  if (pulling_ != version) return;
  pulling_.reset();
  unavailable_ = version;
  std::vector<GroupId> pinned;
  for (const auto& [id, group] : groups_) {
    if (PolicyVersion(group->lease.pinned_version) == version && engine_.holds(id)) {
      pinned.push_back(id);
    }
  }
  for (const GroupId id : pinned) {
    Abandon(id, absl::StrCat("weights of version ", version.value(), ": ", reason));
  }
}

// The step
// ----------------------------------------------------------------------------------------------

absl::StatusOr<bool> RolloutCore::Step(absl::Time now) {
  now_ = now;
  HandOverAtDeadline(now);
  RetryResumes(now);
  RETURN_IF_ERROR(SwapIfDue());
  ASSIGN_OR_RETURN(const absl::Span<const EngineOutput> outputs, engine_.Step());
  for (const EngineOutput& output : outputs) OnToken(output);
  FlushGrades();
  AskForLeases();
  AskForWeights();
  return engine_.worked();
}

void RolloutCore::OnToken(const EngineOutput& output) {
  if (IsServed(output.group)) return OnServedToken(output);
  GroupState& group = *Find(output.group);
  SampleState& sample = group.samples[output.sample];
  if (sample.tokens.empty()) first_tokens_.emplace_back(output.group, output.sample);
  sample.Append(output.token, output.log_prob, loaded_);
  sample.finish = output.finish;
  if (sample.watch != nullptr && sample.watch->Push(output.token) && !sample.finished()) {
    sample.finish = FinishReason::kStop;
    engine_.RemoveSample(output.group, output.sample);
  }
  if (sample.finished()) QueueGrade(group, output.sample);
  Flush(group, output.sample, /*force=*/false);
  UpdateFlowControl(group, output.sample);
}

std::vector<RolloutAction> RolloutCore::TakeActions() {
  std::vector<RolloutAction> actions;
  actions.swap(actions_);
  return actions;
}

RolloutStats RolloutCore::stats() const {
  RolloutStats stats;
  stats.groups = static_cast<int>(groups_.size());
  stats.running = engine_.running();
  stats.waiting = engine_.waiting();
  stats.grading = static_cast<int>(grades_.size() + grade_backlog_.size());
  stats.chunks_in_flight = chunks_in_flight_;
  stats.served = static_cast<int>(served_.size());
  stats.resumed_tokens = resumed_tokens_;
  for (const auto& [id, group] : groups_) {
    if (!group->train()) continue;
    for (const SampleState& sample : group->samples) {
      stats.unacknowledged_tokens += sample.sent - sample.acked;
    }
  }
  stats.blocks_used = engine_.blocks().used_blocks();
  stats.blocks_total = engine_.blocks().blocks();
  stats.generated_tokens = engine_.drawn_tokens();
  stats.prefilled_tokens = engine_.prefilled_tokens();
  stats.preemptions = engine_.preemptions();
  stats.completed_groups = completed_groups_;
  stats.resumes = resumes_;
  stats.swaps = swaps_;
  return stats;
}

}  // namespace crescendo
