// Who gets how many groups, and what a lease says.
#include <algorithm>
#include <utility>

#include "common/base/limits.h"
#include "services/coordinator/coordinator_state.h"

namespace crescendo {

int CoordinatorState::SamplesOfNextGroup() const {
  if (!round_) return options_.stages[stages_.back().stage].group_samples;
  const auto next = groups_.lower_bound(kEvaluationGroupBit);
  return next == groups_.end() ? 1 : EvaluationOf(next->second.row.problem).samples;
}

// The level L at which the workers' capacities, each cut at L, hold all unfinished groups: no
// worker is given more while another has room for it.
int CoordinatorState::FairShare(int unfinished) {
  if (capacities_dirty_) {
    const int samples = SamplesOfNextGroup();
    capacities_.clear();
    for (const auto& [id, worker] : members_.workers()) {
      if (members_.MayLease(worker)) capacities_.push_back((worker.slots + samples - 1) / samples);
    }
    std::sort(capacities_.begin(), capacities_.end());
    capacity_sums_.assign(1, 0);
    for (const int capacity : capacities_) {
      capacity_sums_.push_back(capacity_sums_.back() + capacity);
    }
    capacities_dirty_ = false;
  }
  const auto workers = static_cast<int64_t>(capacities_.size());
  if (workers == 0 || capacity_sums_.back() <= unfinished) return limits::kGroupsPerStepMax;
  // The first worker in ascending order that the level cuts: with those before it full, the rest
  // share what remains.
  int64_t low = 0;
  int64_t high = workers - 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    const int64_t rest = unfinished - capacity_sums_[middle];
    if (static_cast<int64_t>(capacities_[middle]) * (workers - middle) >= rest) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const int64_t rest = unfinished - capacity_sums_[low];
  return static_cast<int>((rest + workers - low - 1) / (workers - low));
}

// How many groups the worker gets of those that are pending now.
int CoordinatorState::MayTake(const Worker& worker, int groups_max, absl::Time now) {
  const absl::btree_set<uint64_t>& pending = round_ ? pending_evaluate_ : pending_train_;
  if (pending.empty()) return 0;
  const auto waiting = static_cast<int>(pending.size());
  const int leased =
      round_ ? leased_evaluate_ : static_cast<int>(lease_group_.size()) - leased_evaluate_;
  int share = FairShare(waiting + leased) - static_cast<int>(worker.leases.size());
  // What nobody took for two heartbeats goes to whoever asks.
  if (share <= 0 && now - groups_.at(*pending.begin()).changed > 2 * options_.heartbeat) {
    const int live = std::max<int>(1, static_cast<int>(capacities_.size()));
    share = (waiting + live - 1) / live;
  }
  return std::clamp(share, 0, std::min(groups_max, waiting));
}

void CoordinatorState::RefreshMembers(absl::Time now) {
  if (members_.Refresh(now)) CapacitiesChanged();
  counters_.quarantines = members_.quarantines();
  for (Membership::Change& change : members_.TakeChanges()) {
    Note(true, std::move(change.text), {.worker = std::move(change.worker)});
  }
}

GroupLease CoordinatorState::GrantLease(Group& group, Worker& worker, absl::Time now) {
  GroupRow& row = group.row;
  const uint64_t id = row.group.value();
  if (row.state == GroupRowState::kLeased) Overtake(group);
  Detach(group);
  row.state = GroupRowState::kLeased;
  row.lease = LeaseId(scalars_.next_lease++);
  row.worker = worker.id;
  row.incarnation = worker.incarnation;
  group.deadline = now + options_.lease;
  group.changed = now;
  lease_group_[row.lease.value()] = id;
  worker.leases.insert(id);

  GroupLease lease;
  lease.lease = row.lease;
  lease.group = row.group;
  lease.key = LeaseKey(run_.lease_secret, row.lease, row.group);
  lease.seed = options_.seed;
  lease.attempt = row.attempts++;
  ++counters_.leases_granted;
  const bool evaluate = IsEvaluationGroup(row.group);
  const Problem& problem =
      (evaluate ? options_.evaluation_problems : options_.problems)[row.problem];
  lease.problem_id = problem.id;
  lease.problem = problem.text;
  lease.reward = problem.reward;
  if (evaluate) {
    ++leased_evaluate_;
    lease.purpose = GroupPurpose::kEvaluate;
    const EvaluationOptions& set = EvaluationOf(row.problem);
    lease.samples = set.samples;
    lease.sampling = set.sampling;
    lease.context_tokens = set.context_tokens;
    lease.stage = stages_.back().stage;
    lease.pinned_version = row.step;
    lease.min_version = row.step;
  } else {
    const int stage_index = plans_[row.step].stage;
    const StageOptions& stage = options_.stages[stage_index];
    lease.purpose = GroupPurpose::kTrain;
    lease.samples = stage.group_samples;
    lease.sampling = stage.sampling;
    lease.context_tokens = stage.context_tokens;
    lease.stage = stage_index;
    lease.min_version = row.step - options_.max_staleness;
  }
  Record(row);
  return lease;
}

bool CoordinatorState::HasLeasableWork() const { return HasPendingWork() || second_due_; }

}  // namespace crescendo
