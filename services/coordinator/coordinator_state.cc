// Workers and leases.
#include "services/coordinator/coordinator_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "services/coordinator/evaluation.h"

namespace crescendo {

namespace {

constexpr size_t kNameBytesMax = 256;
constexpr int kSlotsMax = 1 << 20;
constexpr size_t kHeartbeatLeasesMax = 1 << 16;
constexpr absl::Duration kScalarsEvery = absl::Seconds(5);

absl::Status CheckWorkerId(const std::string& id) {
  const bool good = !id.empty() && id.size() <= 63 && std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-';
  });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "Join: worker_id: expected [a-z0-9-]{1,63}, found '", id.substr(0, kNameBytesMax), "'"));
}

absl::Status CheckBound(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": expected ", low, " to ", high, ", found ", value));
}

absl::Status CheckName(absl::string_view field, const std::string& value, size_t least) {
  if (value.size() >= least && value.size() <= kNameBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": expected ", least, " to ", kNameBytesMax,
                                                 " bytes, found ", value.size()));
}

}  // namespace

// Time and records
// ------------------------------------------------------------------------------------------------------

void CoordinatorState::Advance(absl::Time now) {
  if (now <= now_) return;
  const double seconds = absl::ToDoubleSeconds(now - now_);
  now_ = now;
  if (finished()) return;
  scalars_.elapsed_seconds += seconds;
  if (round_) {
    scalars_.evaluation_seconds += seconds;
  } else if (learner_attached_) {
    scalars_.train_elapsed_seconds += seconds;
  }
}

std::vector<JournalRecord> CoordinatorState::TakeRecords() {
  if (scalars_dirty_ || !records_.empty() || now_ - written_ > kScalarsEvery) {
    scalars_.cost = cost_.Save();
    records_.push_back(scalars_);
    scalars_dirty_ = false;
    written_ = now_;
  }
  return std::exchange(records_, {});
}

std::vector<CoordinatorNote> CoordinatorState::TakeNotes() { return std::exchange(notes_, {}); }

void CoordinatorState::Note(bool warning, std::string text, NoteOf of) {
  notes_.push_back({warning, std::move(text), std::move(of)});
}

// Groups
// ------------------------------------------------------------------------------------------------------

CoordinatorState::Group& CoordinatorState::AddGroup(GroupRow row, absl::Time now) {
  const uint64_t id = row.group.value();
  auto [it, added] = groups_.emplace(id, Group{});
  CRESCENDO_CHECK(added);
  Group& group = it->second;
  group.row = std::move(row);
  group.row.state = GroupRowState::kPending;
  group.changed = now;
  PendingOf(id).insert(id);
  ++work_version_;
  Record(group.row);
  return group;
}

void CoordinatorState::Detach(Group& group) {
  const uint64_t id = group.row.group.value();
  if (group.row.state == GroupRowState::kPending) PendingOf(id).erase(id);
  if (group.row.state == GroupRowState::kLeased) {
    lease_group_.erase(group.row.lease.value());
    if (IsEvaluationGroup(group.row.group)) --leased_evaluate_;
    if (Worker* worker = members_.Find(group.row.worker); worker != nullptr) {
      worker->leases.erase(id);
    }
  }
  group.row.lease = LeaseId();
  group.row.worker.clear();
  group.row.incarnation.clear();
  group.tokens = 0;
  group.pace = {};
}

void CoordinatorState::EraseGroup(uint64_t id) {
  auto found = groups_.find(id);
  CRESCENDO_CHECK(found != groups_.end());
  DropOvertaken(found->second);
  Detach(found->second);
  groups_.erase(found);
}

void CoordinatorState::Release(Group& group, absl::Time now) {
  DropOvertaken(group);
  Detach(group);
  group.row.state = GroupRowState::kPending;
  group.changed = now;
  PendingOf(group.row.group.value()).insert(group.row.group.value());
  ++work_version_;
  Record(group.row);
}

int CoordinatorState::ReleaseAllOf(const Worker& worker, absl::Time now) {
  const std::vector<uint64_t> held(worker.leases.begin(), worker.leases.end());
  for (const uint64_t id : held) Release(groups_.at(id), now);
  const std::vector<uint64_t> overtaken(worker.overtaken.begin(), worker.overtaken.end());
  for (const uint64_t id : overtaken) DropOvertaken(groups_.at(id));
  return static_cast<int>(held.size() + overtaken.size());
}

CoordinatorState::Group* CoordinatorState::FindLease(LeaseId lease, const std::string& worker_id) {
  auto found = lease_group_.find(lease.value());
  if (found == lease_group_.end()) return nullptr;
  Group& group = groups_.at(found->second);
  return group.row.worker == worker_id ? &group : nullptr;
}

void CoordinatorState::ExpireLeases(absl::Time now) {
  std::map<std::string, int> expired;
  std::vector<uint64_t> ids;
  for (const auto& [lease, id] : lease_group_) {
    if (now > groups_.at(id).deadline) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  counters_.leases_expired += ids.size();
  for (const uint64_t id : ids) {
    Group& group = groups_.at(id);
    ++expired[group.row.worker];
    Release(group, now);
  }
  for (const uint64_t id : std::vector<uint64_t>(overtaken_.begin(), overtaken_.end())) {
    Group& group = groups_.at(id);
    if (now <= group.overtaken->deadline) continue;
    ++expired[group.overtaken->worker];
    DropOvertaken(group);
  }
  for (const auto& [worker_id, count] : expired) {
    const std::string what = absl::StrCat(count, " leases ran out");
    Note(true, absl::StrCat("worker ", worker_id, ": ", what), {.worker = worker_id});
    if (Worker* worker = members_.Find(worker_id); worker != nullptr) {
      members_.Incident(*worker, what, now);
    }
  }
}

// Events of workers
// ------------------------------------------------------------------------------------------------------

absl::StatusOr<Worker*> CoordinatorState::KnownWorker(const std::string& worker_id,
                                                      absl::string_view operation) {
  Worker* worker = members_.Find(worker_id);
  if (worker == nullptr || !worker->joined) {
    return absl::FailedPreconditionError(absl::StrCat(
        operation, ": worker '", worker_id.substr(0, kNameBytesMax), "' is not known: Join first"));
  }
  return worker;
}

absl::StatusOr<Worker*> CoordinatorState::KnownWorker(const std::string& worker_id,
                                                      const std::string& incarnation,
                                                      absl::string_view operation) {
  ASSIGN_OR_RETURN(Worker * worker, KnownWorker(worker_id, operation));
  if (worker->incarnation != incarnation) {
    return absl::FailedPreconditionError(
        absl::StrCat(operation, ": worker '", worker_id, "' has joined as incarnation ",
                     worker->incarnation, ", this is ", incarnation, ": Join first"));
  }
  return worker;
}

absl::StatusOr<JoinReply> CoordinatorState::Join(const JoinEvent& event, absl::Time now) {
  RETURN_IF_ERROR(CheckWorkerId(event.worker_id));
  RETURN_IF_ERROR(CheckName("Join: incarnation", event.incarnation, 1));
  RETURN_IF_ERROR(CheckName("Join: address", event.address, 0));
  RETURN_IF_ERROR(CheckBound("Join: slots", event.slots, 1, kSlotsMax));
  Advance(now);
  ASSIGN_OR_RETURN(Worker * worker, members_.FindOrAdd(event.worker_id, now));
  if (worker->incarnation != event.incarnation) {
    if (const int freed = ReleaseAllOf(*worker, now); freed > 0) {
      const std::string what = absl::StrCat("restarted while it held ", freed, " groups");
      Note(true, absl::StrCat("worker ", event.worker_id, ": ", what), {.worker = event.worker_id});
      members_.Incident(*worker, what, now);
    }
    worker->incarnation = event.incarnation;
    worker->draining = false;
    worker->smoothed_tokens_per_second = -1;
    worker->policy_version = -1;
    worker->generated_tokens = 0;
  }
  if (!worker->joined)
    Note(false, absl::StrCat("worker ", worker->id, " joined"), {.worker = worker->id});
  worker->joined = true;
  worker->address = event.address;
  worker->slots = event.slots;
  worker->resources = event.resources;
  members_.Heard(*worker, now);
  members_.Refresh(now);
  CapacitiesChanged();
  return JoinReply{options_.heartbeat, options_.lease, PublishedVersion()};
}

absl::StatusOr<std::vector<GroupLease>> CoordinatorState::Lease(const std::string& worker_id,
                                                                const std::string& incarnation,
                                                                int groups_max, absl::Time now) {
  RETURN_IF_ERROR(CheckBound("Lease: groups_max", groups_max, 1, limits::kLeasesPerRequestMax));
  ASSIGN_OR_RETURN(Worker * worker, KnownWorker(worker_id, incarnation, "Lease"));
  Advance(now);
  if (worker->health == WorkerHealth::kLost) CapacitiesChanged();
  members_.Heard(*worker, now);
  std::vector<GroupLease> leases;
  if (!members_.MayLease(*worker) || PublishedVersion() < 0) return leases;
  const int count = MayTake(*worker, groups_max, now);
  leases.reserve(count);
  const absl::btree_set<uint64_t>& pending = round_ ? pending_evaluate_ : pending_train_;
  for (int i = 0; i < count; ++i) {
    leases.push_back(GrantLease(groups_.at(*pending.begin()), *worker, now));
  }
  if (Group* group = leases.empty() ? SecondLeaseFor(*worker, now) : nullptr; group != nullptr) {
    leases.push_back(GrantLease(*group, *worker, now));
    RefreshSecondLeases(now);
  }
  return leases;
}

absl::StatusOr<HeartbeatReply> CoordinatorState::Heartbeat(const HeartbeatEvent& event,
                                                           absl::Time now) {
  RETURN_IF_ERROR(CheckBound("Heartbeat: leases: count", static_cast<int64_t>(event.leases.size()),
                             0, kHeartbeatLeasesMax));
  ASSIGN_OR_RETURN(Worker * worker, KnownWorker(event.worker_id, event.incarnation, "Heartbeat"));
  Advance(now);
  if (worker->health == WorkerHealth::kLost) CapacitiesChanged();
  members_.Heard(*worker, now);
  members_.Rate(*worker, event.tokens_per_second >= 0 ? event.tokens_per_second : 0);
  worker->policy_version = event.policy_version;
  worker->generated_tokens = event.generated_tokens;
  ++counters_.heartbeats;
  HeartbeatReply reply;
  for (const LeaseProgressEvent& progress : event.leases) {
    Group* group = FindLease(progress.lease, event.worker_id);
    if (group == nullptr) {
      if (!RenewOvertaken(*worker, progress, now)) reply.revoked.push_back(progress.lease);
      continue;
    }
    group->deadline = now + options_.lease;
    MeasurePace(*group, *worker, progress, now);
    if (progress.tokens > group->tokens) group->changed = now;
    group->tokens = progress.tokens;
  }
  reply.policy_version = PublishedVersion();
  reply.learner_address = scalars_.learner_address;
  reply.learner_incarnation = scalars_.learner_incarnation;
  if (const Worker* parent = members_.WeightParent(event.worker_id); parent != nullptr) {
    reply.weight_sources.push_back(parent->address);
  }
  if (!scalars_.learner_address.empty()) reply.weight_sources.push_back(scalars_.learner_address);
  reply.finished = finished();
  return reply;
}

absl::StatusOr<bool> CoordinatorState::CompleteGroup(const GroupCompletion& completion,
                                                     absl::Time now) {
  ASSIGN_OR_RETURN(Worker * worker, KnownWorker(completion.worker_id, "CompleteGroup"));
  if (completion.lease.value() == 0 || completion.lease.value() >= scalars_.next_lease) {
    return absl::InvalidArgumentError(
        absl::StrCat("CompleteGroup: lease_id ", completion.lease.value(), " was never granted"));
  }
  const bool evaluate = IsEvaluationGroup(completion.group);
  if (evaluate != (completion.purpose == GroupPurpose::kEvaluate)) {
    return absl::InvalidArgumentError(absl::StrCat("CompleteGroup: purpose of group ",
                                                   completion.group.value(), ": expected ",
                                                   evaluate ? "evaluate" : "train"));
  }
  Advance(now);
  auto accepted = evaluate ? CompleteEvaluation(*worker, completion, now)
                           : CompleteTraining(*worker, completion, now);
  if (accepted.ok()) ++(*accepted ? counters_.groups_completed : counters_.late_completions);
  return accepted;
}

absl::StatusOr<bool> CoordinatorState::CompleteTraining(Worker& worker,
                                                        const GroupCompletion& completion,
                                                        absl::Time now) {
  auto found = groups_.find(completion.group.value());
  if (found == groups_.end() || found->second.row.state == GroupRowState::kComplete) return false;
  Group& group = found->second;
  if (!completion.learner_incarnation.empty() &&
      completion.learner_incarnation != scalars_.learner_incarnation) {
    if (group.row.lease == completion.lease) Release(group, now);
    return false;
  }
  Ended(group);
  DropOvertaken(group);
  Detach(group);
  group.row.state = GroupRowState::kComplete;
  group.changed = now;
  if (group.row.step == scalars_.trained) step_changed_ = now;
  Record(group.row);
  members_.Completed(worker);
  return true;
}

absl::StatusOr<bool> CoordinatorState::CompleteEvaluation(Worker& worker,
                                                          const GroupCompletion& completion,
                                                          absl::Time now) {
  auto found = groups_.find(completion.group.value());
  if (!round_ || found == groups_.end() || completion.lease < round_->row.lease_floor) return false;
  Group& group = found->second;
  ASSIGN_OR_RETURN(EvaluationOutcomeRow outcome,
                   ToOutcome(group.row.group, group.row.problem,
                             EvaluationOf(group.row.problem).samples, completion.results));
  if (completion.version_min.value() != group.row.step ||
      completion.version_max.value() != group.row.step) {
    Note(true,
         absl::StrCat("worker ", worker.id, " evaluated version ", group.row.step,
                      " with versions ", completion.version_min.value(), " to ",
                      completion.version_max.value(), ": the group is granted again"),
         {.worker = worker.id, .group = completion.group.value(), .step = group.row.step});
    if (group.row.lease == completion.lease) Release(group, now);
    // Each is a broken promise of its own, not one cause that hit many groups.
    members_.Incident(worker, "evaluated another version than asked", now, absl::ZeroDuration());
    return false;
  }
  const uint64_t id = group.row.group.value();
  Ended(group);
  EraseGroup(id);
  Record(EraseGroupOp{GroupId(id)});
  Record(outcome);
  round_->outcomes[id] = outcome;
  step_changed_ = now;
  members_.Completed(worker);
  if (groups_.lower_bound(kEvaluationGroupBit) == groups_.end()) {
    FinishRound();
    MoveOn(now);
  }
  return true;
}

absl::Status CoordinatorState::Abandon(const std::string& worker_id,
                                       absl::Span<const LeaseId> leases, absl::string_view reason,
                                       absl::Time now) {
  ASSIGN_OR_RETURN(Worker * worker, KnownWorker(worker_id, "Abandon"));
  Advance(now);
  int freed = 0;
  for (const LeaseId lease : leases) {
    if (Group* older = FindOvertaken(lease, *worker); older != nullptr) DropOvertaken(*older);
    Group* group = FindLease(lease, worker_id);
    if (group == nullptr) continue;
    Release(*group, now);
    group->handed_back = absl::StrCat(worker_id, ": ", reason.substr(0, kNameBytesMax));
    ++freed;
  }
  counters_.leases_abandoned += freed;
  const bool draining = absl::StrContains(absl::AsciiStrToLower(reason), "drain");
  worker->draining |= draining;
  if (freed > 0 && !draining) {
    members_.Incident(*worker, absl::StrCat("handed back ", freed, " groups: ", reason), now);
  }
  if (freed > 0) {
    Note(!draining, absl::StrCat("worker ", worker_id, " handed back ", freed, " groups: ", reason),
         {.worker = worker_id});
  }
  RefreshMembers(now);
  return absl::OkStatus();
}

absl::Status CoordinatorState::Leave(const std::string& worker_id, const std::string& incarnation,
                                     absl::string_view reason, absl::Time now) {
  Worker* worker = members_.Find(worker_id);
  if (worker == nullptr || worker->incarnation != incarnation) return absl::OkStatus();
  Advance(now);
  const int freed = ReleaseAllOf(*worker, now);
  Note(false,
       absl::StrCat("worker ", worker_id, " left",
                    freed > 0 ? absl::StrCat(", ", freed, " groups are handed back") : "",
                    reason.empty() ? "" : ": ", reason),
       {.worker = worker_id});
  members_.Remove(worker_id);
  CapacitiesChanged();
  return absl::OkStatus();
}

void CoordinatorState::Tick(absl::Time now) {
  Advance(now);
  CountCost();
  ExpireLeases(now);
  RefreshMembers(now);
  RefreshSecondLeases(now);
}

}  // namespace crescendo
