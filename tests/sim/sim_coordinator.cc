#include <algorithm>
#include <utility>

#include "tests/sim/sim_services.h"

namespace crescendo::sim {
namespace {

constexpr absl::Duration kLongPoll = absl::Milliseconds(500);
constexpr absl::Duration kTick = absl::Milliseconds(50);

}  // namespace

SimCoordinator::SimCoordinator(Experiment* experiment) : experiment_(experiment) {
  CoordinatorOptions options = experiment_->knobs.coordinator;
  if (experiment_->knobs.broken == BrokenRule::kLeasesNeverExpire) {
    options.lease = absl::Hours(100000);
  }
  // Every process draws one; only that of the run's first counts.
  options.lease_secret = {
      0x5ec3e7, static_cast<uint64_t>(experiment_->world->Incarnation(experiment_->coordinator))};
  auto state = CoordinatorState::Create(options, experiment_->disks.journal, Now());
  if (!state.ok()) {
    experiment_->Violate("the coordinator cannot read its own journal: " +
                         state.status().ToString());
    return;
  }
  state_ = *std::move(state);
  Commit();
  TickLater();
}

bool SimCoordinator::Commit() {
  std::vector<JournalRecord> records = state_->TakeRecords();
  state_->TakeNotes();
  if (dying_) return false;
  dying_ = experiment_->world->Chance(experiment_->knobs.crash_before_durable);
  if (dying_) {
    Experiment* experiment = experiment_;
    experiment->world->AfterInWorld(absl::ZeroDuration(), [experiment] {
      experiment->world->Crash(experiment->coordinator);
      experiment->world->AfterInWorld(absl::Milliseconds(300), [experiment] {
        experiment->world->Start(experiment->coordinator);
      });
    });
    // The rule broken: the reply leaves although nothing was written.
    return experiment_->knobs.broken == BrokenRule::kReplyBeforeDurable;
  }
  for (const JournalRecord& record : records) experiment_->disks.journal.Apply(record);
  return true;
}

void SimCoordinator::ServeParked() {
  for (size_t i = 0; i < parked_.size();) {
    if (parked_[i].retry()) {
      parked_.erase(parked_.begin() + static_cast<int64_t>(i));
    } else {
      ++i;
    }
  }
}

void SimCoordinator::TickLater() {
  experiment_->world->After(experiment_->coordinator, kTick, [this] {
    state_->Tick(Now());
    CountUp();
    Commit();
    ServeParked();
    TickLater();
  });
}

// What the test wants to have seen, over all lives of the coordinator.
void SimCoordinator::CountUp() {
  const CoordinatorCounters& counters = state_->counters();
  experiment_->second_leases += counters.second_leases - counted_.second_leases;
  experiment_->quarantines += counters.quarantines - counted_.quarantines;
  counted_ = counters;
}

void SimCoordinator::Join(const JoinEvent& event, Answer<JoinReply> answer) {
  auto reply = state_->Join(event, Now());
  if (Commit()) answer(std::move(reply));
  ServeParked();
}

void SimCoordinator::Lease(const std::string& worker, const std::string& incarnation,
                           int groups_max, Answer<std::vector<GroupLease>> answer) {
  const absl::Time give_up = Now() + kLongPoll;
  auto attempt = [this, worker, incarnation, groups_max, answer, give_up] {
    auto leases = state_->Lease(worker, incarnation, groups_max, Now());
    if (leases.ok() && leases->empty() && Now() < give_up) return false;
    if (leases.ok() && experiment_->knobs.broken == BrokenRule::kForgetsMinVersion) {
      for (GroupLease& lease : *leases) lease.min_version = lease.pinned_version = -1;
    }
    if (Commit()) answer(std::move(leases));
    return true;
  };
  if (!attempt()) parked_.push_back({attempt});
}

void SimCoordinator::Heartbeat(const HeartbeatEvent& event, Answer<HeartbeatReply> answer) {
  auto reply = state_->Heartbeat(event, Now());
  if (Commit()) answer(std::move(reply));
  ServeParked();
}

void SimCoordinator::Complete(const GroupCompletion& completion, Answer<bool> answer) {
  auto reply = state_->CompleteGroup(completion, Now());
  if (Commit()) answer(std::move(reply));
  ServeParked();
}

void SimCoordinator::Abandon(const std::string& worker, LeaseId lease, const std::string& reason) {
  (void)state_->Abandon(worker, absl::MakeConstSpan(&lease, 1), reason, Now());
  Commit();
  ServeParked();
}

void SimCoordinator::Attach(const AttachLearnerEvent& event, Answer<LeaseSecret> answer) {
  const auto reply = state_->AttachLearner(event, Now());
  if (Commit()) {
    answer(reply.ok() ? absl::StatusOr<LeaseSecret>(state_->lease_secret())
                      : absl::StatusOr<LeaseSecret>(reply.status()));
  }
  ServeParked();
}

void SimCoordinator::NextStep(StepId step, const std::string& incarnation,
                              Answer<NextStepReply> answer) {
  const absl::Time give_up = Now() + kLongPoll;
  auto attempt = [this, step, incarnation, answer, give_up] {
    auto reply = state_->NextStep(step, incarnation, Now());
    if (reply.ok() && reply->directive == LearnerDirective::kWait && Now() < give_up) return false;
    if (Commit()) answer(std::move(reply));
    return true;
  };
  if (!attempt()) parked_.push_back({attempt});
  ServeParked();
}

void SimCoordinator::Report(const ReportStepEvent& event, Answer<bool> answer) {
  const absl::Status status = state_->ReportStep(event, Now());
  if (Commit()) answer(status.ok() ? absl::StatusOr<bool>(true) : absl::StatusOr<bool>(status));
  ServeParked();
}

}  // namespace crescendo::sim
