// The rollout workers that the coordinator knows, and how each is doing.
//
//   healthy      heartbeats come, tokens/s like its peers'
//   slow         while it holds leases its smoothed tokens/s is below half the median of its peers
//   draining     it said so when it handed groups back; gets no more leases
//   lost         no heartbeat for a lease time; gets no more leases until it is heard from
//   quarantined  kIncidentsMax incidents (leases that ran out, were handed back, or died with the
//                process) in a row without a completed group between them; gets no leases for a
//                time that doubles from 30 s to 10 min. What happens within kIncidentGap is one
//                incident: sixteen groups handed back for one cause are no sixteen causes
//
// Not thread-safe: part of the coordinator's state. Pointers to a Worker stay valid until it is
// removed.
#ifndef CRESCENDO_SERVICES_COORDINATOR_MEMBERSHIP_H_
#define CRESCENDO_SERVICES_COORDINATOR_MEMBERSHIP_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/domain.h"

namespace crescendo {

enum class WorkerHealth : uint8_t { kHealthy, kSlow, kLost, kDraining, kQuarantined };
const char* WorkerHealthName(WorkerHealth health);

struct Worker {
  std::string id;
  std::string address;
  std::string incarnation;
  int slots = 0;
  Resources resources;  // that its process holds
  WorkerHealth health = WorkerHealth::kHealthy;
  std::string reason;   // of its health, when it is not healthy
  bool joined = false;  // false: only known from the journal's leases, must Join
  bool draining = false;
  absl::Time heard;  // Join, heartbeat or any other call
  double tokens_per_second = 0;
  double smoothed_tokens_per_second = -1;  // < 0: none yet
  int64_t policy_version = -1;
  uint64_t generated_tokens = 0;
  int incidents = 0;
  absl::Time incident_at = absl::InfinitePast();
  int quarantines = 0;  // in a row
  absl::Time quarantined_until = absl::InfinitePast();
  std::string last_incident;
  absl::flat_hash_set<uint64_t> leases;     // of groups: their ids
  absl::flat_hash_set<uint64_t> overtaken;  // groups that a second worker decodes too
  double sample_rate = -1;  // tokens/s of one sample, the best of late; < 0: none yet
};

class Membership {
 public:
  static constexpr int kIncidentsMax = 3;
  static constexpr absl::Duration kIncidentGap = absl::Seconds(5);
  static constexpr double kSlowShare = 0.5;
  static constexpr int kPeersMin = 3;  // workers with a rate before one can be called slow

  explicit Membership(absl::Duration lost_after) : lost_after_(lost_after) {}

  // The worker of this name, added when it is new. RESOURCE_EXHAUSTED at limits::kWorkersMax.
  absl::StatusOr<Worker*> FindOrAdd(const std::string& id, absl::Time now);
  Worker* Find(const std::string& id);
  void Remove(const std::string& id);

  // A worker that was lost and is heard from is healthy again.
  void Heard(Worker& worker, absl::Time now);
  void Rate(Worker& worker, double tokens_per_second);
  // Tokens/s of one sample, from one report to the next.
  void SampleRate(Worker& worker, double tokens_per_second);
  // `gap`: zero for what is wrong each time by itself.
  void Incident(Worker& worker, absl::string_view what, absl::Time now,
                absl::Duration gap = kIncidentGap);
  void Completed(Worker& worker);

  // Brings every worker's health up to date. Workers that were lost for ten minutes and hold
  // nothing are forgotten. Returns whether any worker may lease that could not, or the other way
  // round.
  bool Refresh(absl::Time now);
  // "worker a is quarantined: ...", for what Refresh found since the last call: who is lost, in
  // quarantine, or back from there.
  struct Change {
    std::string worker;
    std::string text;
  };
  std::vector<Change> TakeChanges() { return std::exchange(changes_, {}); }
  uint64_t quarantines() const { return quarantines_; }
  bool MayLease(const Worker& worker) const {
    return worker.joined &&
           (worker.health == WorkerHealth::kHealthy || worker.health == WorkerHealth::kSlow);
  }

  // Whom the worker pulls weights from, so that all together are a chain: the one before it in the
  // order of names that is there. Null: it is the first, and pulls from the learner.
  const Worker* WeightParent(const std::string& id) const;

  const std::map<std::string, Worker>& workers() const { return workers_; }
  std::map<std::string, Worker>& workers() { return workers_; }

 private:
  WorkerHealth HealthOf(Worker& worker, double median, absl::Time now);

  void Changed(const Worker& worker, WorkerHealth before);

  absl::Duration lost_after_;
  uint64_t quarantines_ = 0;
  std::vector<Change> changes_;
  std::map<std::string, Worker> workers_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_MEMBERSHIP_H_
