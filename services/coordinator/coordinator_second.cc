// Second leases: near the end of a step a group that its worker is slow with goes to an idle worker
// too. Both go on until one ends the group or the second has overtaken the first; the learner takes
// the newer lease's tokens where they differ (experience_buffer.h), so a group ends once whoever
// wins. The older lease is not journaled: after a restart of the coordinator it is revoked.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/coordinator/coordinator_state.h"

namespace crescendo {

namespace {

constexpr int kReadingsMin = 3;     // of a group's pace before it can be called slow
constexpr double kSmoothing = 0.5;  // weight of the newest reading
constexpr double kWorth = 1.5;      // the first is to need that many times as long
constexpr double kTail = 0.25;      // what is at least still to come, as a share of a sample so far

}  // namespace

// Tokens/s of one unfinished sample, from one report to the next.
void CoordinatorState::MeasurePace(Group& group, Worker& worker, const LeaseProgressEvent& progress,
                                   absl::Time now) {
  Pace& pace = group.pace;
  const double seconds = absl::ToDoubleSeconds(now - pace.at);
  if (pace.at != absl::InfinitePast() && seconds > 0 && pace.unfinished > 0) {
    const double grown =
        progress.tokens > pace.tokens ? static_cast<double>(progress.tokens - pace.tokens) : 0;
    const double rate = grown / seconds / pace.unfinished;
    pace.rate = pace.readings == 0 ? rate : kSmoothing * rate + (1 - kSmoothing) * pace.rate;
    ++pace.readings;
    members_.SampleRate(worker, rate);
  }
  pace.at = now;
  pace.tokens = progress.tokens;
  pace.unfinished = progress.unfinished;
}

void CoordinatorState::Ended(const Group& group) {
  const auto tokens = static_cast<double>(std::max(group.tokens, group.pace.tokens));
  double& typical = typical_tokens_[IsEvaluationGroup(group.row.group) ? 1 : 0];
  if (tokens > 0) typical = typical == 0 ? tokens : 0.9 * typical + 0.1 * tokens;
}

int CoordinatorState::SamplesOf(const GroupRow& row) const {
  return IsEvaluationGroup(row.group) ? EvaluationOf(row.problem).samples
                                      : options_.stages[plans_[row.step].stage].group_samples;
}

// Seconds that a second worker of `rate` tokens/s a sample would end the group earlier; nullopt
// when that is not worth it, or not known.
std::optional<double> CoordinatorState::SecondLeaseGain(const Group& group, double rate,
                                                        absl::Time now) const {
  const Pace& pace = group.pace;
  if (group.row.state != GroupRowState::kLeased || group.overtaken || rate <= 0 ||
      pace.readings < kReadingsMin || pace.unfinished <= 0) {
    return std::nullopt;
  }
  const bool evaluate = IsEvaluationGroup(group.row.group);
  const absl::Duration silent = now - pace.at;
  const absl::Duration usual = 2 * options_.heartbeat;
  const double decay = silent > usual ? absl::FDivDuration(usual, silent) : 1.0;
  const double per_sample = static_cast<double>(pace.tokens) / SamplesOf(group.row);
  const double to_come = std::max(
      {1.0, kTail * per_sample,
       (typical_tokens_[evaluate ? 1 : 0] - static_cast<double>(pace.tokens)) / pace.unfinished});
  const double first = pace.rate > 0 ? to_come / (pace.rate * decay) : 1e9;
  // What an evaluation has so far is nowhere to be had.
  const double second =
      absl::ToDoubleSeconds(usual) + (to_come + (evaluate ? per_sample : 0)) / rate;
  if (second * kWorth >= first) return std::nullopt;
  return first - second;
}

// Of what blocks the run, the group that gains most; nullptr for none.
CoordinatorState::Group* CoordinatorState::SecondLeaseFor(const Worker& worker, absl::Time now) {
  const bool idle = worker.leases.empty() && worker.overtaken.empty();
  if (!options_.second_leases || !idle || HasPendingWork()) return nullptr;
  uint64_t first = kEvaluationGroupBit;
  uint64_t last = std::numeric_limits<uint64_t>::max();
  if (!round_) {
    if (scalars_.trained >= NextUnplannedStep()) return nullptr;
    const PlanRow& plan = plans_[scalars_.trained];
    first = plan.first_group;
    last = plan.first_group + plan.groups - 1;
  }
  Group* best = nullptr;
  double most = 0;
  for (auto it = groups_.lower_bound(first); it != groups_.end() && it->first <= last; ++it) {
    const auto gain = SecondLeaseGain(it->second, worker.sample_rate, now);
    if (!gain || *gain <= most) continue;
    most = *gain;
    best = &it->second;
  }
  return best;
}

// The present lease becomes the older of two.
void CoordinatorState::Overtake(Group& group) {
  const uint64_t id = group.row.group.value();
  group.overtaken = Overtaken{group.row.lease, group.row.worker, group.deadline, group.tokens};
  overtaken_.insert(id);
  Worker* worker = members_.Find(group.row.worker);
  if (worker != nullptr) worker->overtaken.insert(id);
  ++counters_.second_leases;
  Note(false,
       absl::StrFormat("group %d goes to a second worker: %s generates %.0f tokens/s a "
                       "sample of it",
                       id, group.row.worker, std::max(0.0, group.pace.rate)),
       {.worker = group.row.worker, .group = id});
}

void CoordinatorState::DropOvertaken(Group& group) {
  if (!group.overtaken) return;
  const uint64_t id = group.row.group.value();
  Worker* worker = members_.Find(group.overtaken->worker);
  if (worker != nullptr) worker->overtaken.erase(id);
  overtaken_.erase(id);
  group.overtaken.reset();
}

CoordinatorState::Group* CoordinatorState::FindOvertaken(LeaseId lease, const Worker& worker) {
  for (const uint64_t id : worker.overtaken) {
    Group& group = groups_.at(id);
    if (group.overtaken && group.overtaken->lease == lease) return &group;
  }
  return nullptr;
}

// A report on the older of two leases; whether it goes on.
bool CoordinatorState::RenewOvertaken(const Worker& worker, const LeaseProgressEvent& progress,
                                      absl::Time now) {
  Group* group = FindOvertaken(progress.lease, worker);
  if (group == nullptr) return false;
  group->overtaken->deadline = now + options_.lease;
  group->overtaken->tokens = progress.tokens;
  if (group->tokens == 0 || group->tokens < progress.tokens) return true;
  DropOvertaken(*group);
  return false;
}

// Whether some idle worker would get a second lease: parked calls are then asked again.
void CoordinatorState::RefreshSecondLeases(absl::Time now) {
  second_due_ = false;
  const Worker* best = nullptr;
  for (const auto& [id, worker] : members_.workers()) {
    const bool idle = worker.leases.empty() && worker.overtaken.empty();
    if (!idle || !members_.MayLease(worker)) continue;
    if (best == nullptr || worker.sample_rate > best->sample_rate) best = &worker;
  }
  second_due_ = best != nullptr && SecondLeaseFor(*best, now) != nullptr;
}

}  // namespace crescendo
