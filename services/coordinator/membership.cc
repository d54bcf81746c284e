#include "services/coordinator/membership.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/limits.h"

namespace crescendo {

namespace {
constexpr absl::Duration kForgetAfter = absl::Minutes(10);
constexpr absl::Duration kQuarantineFirst = absl::Seconds(30);
constexpr absl::Duration kQuarantineMax = absl::Minutes(10);
constexpr double kSmoothing = 0.3;  // weight of the newest rate
constexpr double kForget = 0.1;     // of the best rate of a sample
}  // namespace

const char* WorkerHealthName(WorkerHealth health) {
  switch (health) {
    case WorkerHealth::kHealthy:
      return "healthy";
    case WorkerHealth::kSlow:
      return "slow";
    case WorkerHealth::kLost:
      return "lost";
    case WorkerHealth::kDraining:
      return "draining";
    case WorkerHealth::kQuarantined:
      return "quarantined";
  }
  return "unknown";
}

absl::StatusOr<Worker*> Membership::FindOrAdd(const std::string& id, absl::Time now) {
  auto found = workers_.find(id);
  if (found != workers_.end()) return &found->second;
  if (workers_.size() >= static_cast<size_t>(limits::kWorkersMax)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "Join: worker '", id, "' is one too many: ", limits::kWorkersMax, " are known already"));
  }
  Worker& worker = workers_[id];
  worker.id = id;
  worker.heard = now;
  return &worker;
}

Worker* Membership::Find(const std::string& id) {
  auto found = workers_.find(id);
  return found == workers_.end() ? nullptr : &found->second;
}

const Worker* Membership::WeightParent(const std::string& id) const {
  for (auto it = workers_.lower_bound(id); it != workers_.begin();) {
    const Worker& before = (--it)->second;
    if (before.joined && before.health != WorkerHealth::kLost && !before.address.empty()) {
      return &before;
    }
  }
  return nullptr;
}

void Membership::Remove(const std::string& id) { workers_.erase(id); }

void Membership::Heard(Worker& worker, absl::Time now) {
  worker.heard = now;
  if (worker.health == WorkerHealth::kLost) worker.health = HealthOf(worker, 0, now);
}

// What ends or begins between two reports only makes a reading smaller: the best counts.
void Membership::SampleRate(Worker& worker, double tokens_per_second) {
  double& rate = worker.sample_rate;
  rate = std::max(tokens_per_second, rate < 0 ? 0 : rate + kForget * (tokens_per_second - rate));
}

void Membership::Rate(Worker& worker, double tokens_per_second) {
  worker.tokens_per_second = tokens_per_second;
  double& smoothed = worker.smoothed_tokens_per_second;
  smoothed =
      smoothed < 0 ? tokens_per_second : smoothed + kSmoothing * (tokens_per_second - smoothed);
}

void Membership::Incident(Worker& worker, absl::string_view what, absl::Time now,
                          absl::Duration gap) {
  worker.last_incident = std::string(what);
  if (now - worker.incident_at < gap) return;
  worker.incident_at = now;
  ++worker.incidents;
  if (worker.incidents < kIncidentsMax) return;
  const absl::Duration length =
      std::min(kQuarantineMax, kQuarantineFirst * (1 << std::min(worker.quarantines, 8)));
  ++worker.quarantines;
  ++quarantines_;
  worker.incidents = 0;
  worker.quarantined_until = now + length;
}

void Membership::Completed(Worker& worker) {
  worker.incidents = 0;
  worker.quarantines = 0;
}

WorkerHealth Membership::HealthOf(Worker& worker, double median, absl::Time now) {
  worker.reason.clear();
  if (now - worker.heard > lost_after_) {
    worker.reason =
        absl::StrFormat("last heartbeat %.0f s ago", absl::ToDoubleSeconds(now - worker.heard));
    return WorkerHealth::kLost;
  }
  if (now < worker.quarantined_until) {
    worker.reason = absl::StrFormat("%d incidents in a row, the last: %s; for another %.0f s",
                                    kIncidentsMax, worker.last_incident,
                                    absl::ToDoubleSeconds(worker.quarantined_until - now));
    return WorkerHealth::kQuarantined;
  }
  if (worker.draining) return WorkerHealth::kDraining;
  const double rate = worker.smoothed_tokens_per_second;
  if (median > 0 && !worker.leases.empty() && rate >= 0 && rate < kSlowShare * median) {
    worker.reason = absl::StrFormat("%.0f tokens/s, its peers' median is %.0f", rate, median);
    return WorkerHealth::kSlow;
  }
  return WorkerHealth::kHealthy;
}

void Membership::Changed(const Worker& worker, WorkerHealth before) {
  const auto bad = [](WorkerHealth health) {
    return health == WorkerHealth::kLost || health == WorkerHealth::kQuarantined;
  };
  if (worker.health == before || !(bad(worker.health) || bad(before))) return;
  changes_.push_back(
      {worker.id, absl::StrCat("worker ", worker.id, " is ", WorkerHealthName(worker.health),
                               worker.reason.empty() ? "" : ": ", worker.reason)});
}

bool Membership::Refresh(absl::Time now) {
  bool changed = false;
  std::vector<double> rates;
  for (auto it = workers_.begin(); it != workers_.end();) {
    const Worker& worker = it->second;
    if (now - worker.heard > std::max(kForgetAfter, lost_after_) && worker.leases.empty()) {
      it = workers_.erase(it);
      changed = true;
      continue;
    }
    const bool counts = now - worker.heard <= lost_after_ && !worker.leases.empty();
    if (counts && worker.smoothed_tokens_per_second > 0) {
      rates.push_back(worker.smoothed_tokens_per_second);
    }
    ++it;
  }
  double median = 0;
  if (rates.size() >= static_cast<size_t>(kPeersMin)) {
    std::nth_element(rates.begin(), rates.begin() + rates.size() / 2, rates.end());
    median = rates[rates.size() / 2];
  }
  for (auto& [id, worker] : workers_) {
    const bool could = MayLease(worker);
    const WorkerHealth before = worker.health;
    worker.health = HealthOf(worker, median, now);
    Changed(worker, before);
    changed |= MayLease(worker) != could;
  }
  return changed;
}

}  // namespace crescendo
