#include "services/coordinator/coordinator_host.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"

namespace crescendo {

namespace {

constexpr double kSecondsAnHour = 3600;

constexpr size_t kQueueMax = 16 * limits::kWorkersMax;
constexpr size_t kParkedMax = 2 * limits::kWorkersMax;
constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr int kTicksPerExport = 5;
constexpr absl::Duration kTellAwaitedAfter = absl::Seconds(5);

absl::Status Stopping() { return absl::UnavailableError("the coordinator is stopping"); }

}  // namespace

CoordinatorHost::CoordinatorHost(std::unique_ptr<CoordinatorState> state,
                                 std::unique_ptr<Journal> journal, CoordinatorMetrics* metrics,
                                 Clock* clock, Logger log)
    : state_(std::move(state)),
      journal_(std::move(journal)),
      metrics_(metrics),
      clock_(clock),
      log_(std::move(log)),
      queue_(kQueueMax),
      awaiting_since_(clock->Now()),
      thread_([this] { Run(); }) {}

CoordinatorHost::~CoordinatorHost() { Stop(); }

void CoordinatorHost::Submit(Call call) {
  auto done = call.done;
  if (queue_.TryPush(std::move(call))) return;
  if (!queue_.closed()) {
    done(absl::ResourceExhaustedError(
        absl::StrCat("the coordinator has ", kQueueMax, " calls in its queue")));
    return;
  }
  const absl::Status failed = failure();
  done(failed.ok() ? Stopping() : absl::UnavailableError(failed.message()));
}

void CoordinatorHost::Stop() {
  queue_.Close();
  absl::MutexLock lock(&stop_mutex_);
  if (thread_.joinable()) thread_.join();
}

absl::Status CoordinatorHost::failure() const {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

absl::Duration CoordinatorHost::TimeToNextDue(absl::Time now) const {
  absl::Time due = next_tick_;
  for (const Parked& parked : parked_) due = std::min(due, parked.give_up);
  return std::max(absl::ZeroDuration(), due - now);
}

void CoordinatorHost::Run() {
  int ticks = 0;
  while (true) {
    std::vector<Call> calls = queue_.PopAll(TimeToNextDue(clock_->Now()));
    if (calls.empty() && queue_.closed()) break;
    const absl::Time now = clock_->Now();
    for (Call& call : calls) Handle(std::move(call), now);
    const bool tick = now >= next_tick_;
    if (tick) {
      state_->Tick(now);
      next_tick_ = now + kTick;
      if (ticks++ % kTicksPerExport == 0) ExportMetrics(now);
    }
    ServeParked(now, tick);
    if (!Commit()) break;
    Answer();
  }
  queue_.Close();
  for (Call& call : queue_.PopAll(absl::ZeroDuration())) {
    replies_.push_back({std::move(call.done), absl::OkStatus()});
  }
  for (Parked& parked : parked_) {
    replies_.push_back({std::move(parked.call.done), absl::OkStatus()});
  }
  parked_.clear();
  const absl::Status failed = failure();
  for (Reply& reply : replies_) {
    reply.status = failed.ok() ? Stopping() : absl::UnavailableError(failed.message());
  }
  Answer();
  // The clocks up to now.
  if (failed.ok()) {
    state_->Tick(clock_->Now());
    (void)Commit();
  }
  journal_.reset();
}

void CoordinatorHost::Handle(Call call, absl::Time now) {
  if (call.cancelled && call.cancelled()) {
    replies_.push_back({std::move(call.done), absl::CancelledError("the caller is gone")});
    return;
  }
  const bool may_park = call.wait != Wait::kNothing && call.wait_max > absl::ZeroDuration() &&
                        parked_.size() < kParkedMax;
  std::optional<absl::Status> status = call.attempt(*state_, now, !may_park);
  if (status) {
    replies_.push_back({std::move(call.done), *std::move(status)});
  } else {
    const absl::Time give_up = now + call.wait_max;
    parked_.push_back({std::move(call), give_up});
  }
}

// Whether the call is done with.
bool CoordinatorHost::TryParked(Parked& parked, absl::Time now) {
  Call& call = parked.call;
  if (call.cancelled && call.cancelled()) {
    replies_.push_back({std::move(call.done), absl::CancelledError("the caller is gone")});
    return true;
  }
  std::optional<absl::Status> status = call.attempt(*state_, now, now >= parked.give_up);
  if (!status) return false;
  replies_.push_back({std::move(call.done), *std::move(status)});
  return true;
}

void CoordinatorHost::ServeParked(absl::Time now, bool ticked) {
  const bool work =
      state_->HasLeasableWork() && (ticked || state_->work_version() != work_version_served_);
  work_version_served_ = state_->work_version();
  for (auto it = parked_.begin(); it != parked_.end();) {
    const bool due =
        it->give_up <= now || it->call.wait == Wait::kEvent || (work && state_->HasLeasableWork());
    it = due && TryParked(*it, now) ? parked_.erase(it) : std::next(it);
  }
}

bool CoordinatorHost::Commit() {
  const std::vector<JournalRecord> records = state_->TakeRecords();
  if (!records.empty()) {
    const absl::Time begin = clock_->Now();
    const absl::Status status = journal_->Append(records);
    if (metrics_ != nullptr) {
      metrics_->journal_commit_seconds.Observe(absl::ToDoubleSeconds(clock_->Now() - begin));
    }
    if (!status.ok()) {
      log_.Error("the journal failed: stopping, nothing that is not durable was answered",
                 {{"status", status}});
      absl::MutexLock lock(&mutex_);
      failure_ = status;
      return false;
    }
  }
  for (const CoordinatorNote& note : state_->TakeNotes()) {
    Logger log = log_;
    if (!note.of.worker.empty()) log = log.With({{"worker", note.of.worker}});
    if (note.of.group) log = log.With({{"group", *note.of.group}});
    if (note.of.step) log = log.With({{"step", *note.of.step}});
    note.warning ? log.Warn(note.text) : log.Info(note.text);
  }
  return true;
}

void CoordinatorHost::Answer() {
  for (Reply& reply : replies_) {
    if (metrics_ != nullptr && !reply.status.ok()) metrics_->refused_calls_total.Increment();
    reply.done(reply.status);
  }
  replies_.clear();
}

namespace {

void ExportCost(const CostView& cost, CoordinatorMetrics& m) {
  for (const ServiceCostView& service : cost.services) {
    const std::map<std::string, std::string> labels = {{"service", service.service},
                                                       {"gpu_type", service.gpu_type}};
    m.gpu_seconds.Add(labels).Set(kSecondsAnHour * service.used.gpu_hours);
    m.core_seconds.Add(labels).Set(kSecondsAnHour * service.used.core_hours);
    m.cost_money.Add(labels).Set(service.used.money);
  }
  m.projected_gpu_seconds.Set(cost.run_end ? kSecondsAnHour * cost.run_end->used.gpu_hours : 0);
  m.projected_cost_money.Set(cost.run_end ? cost.run_end->used.money : 0);
}

void ExportLabelled(const RunView& view, double waited, CoordinatorMetrics& m) {
  std::map<MetricLabels, double> awaited, quarantined, values, thresholds, ends, passes;
  for (const std::string& from : view.awaited_from) awaited[{{"from", from}}] = waited;
  for (const WorkerView& worker : view.workers) {
    if (worker.state != "quarantined") continue;
    quarantined[{{"worker", worker.worker_id}, {"reason", worker.incident}}] =
        worker.quarantined_seconds;
  }
  for (const RuleReading& rule : view.rules) {
    if (!rule.enabled) continue;
    values[{{"rule", CurriculumRuleName(rule.rule)}}] = rule.value;
    thresholds[{{"rule", CurriculumRuleName(rule.rule)}}] = rule.threshold;
  }
  for (const StageView& stage : view.stages) {
    if (!stage.rule.empty()) ++ends[{{"rule", stage.rule}}];
  }
  for (const EvaluationRow& row : view.last_evaluations) passes[{{"set", row.set}}] = row.pass_at_1;
  m.awaited_seconds.Set(awaited);
  m.quarantined_worker_seconds.Set(quarantined);
  m.rule_value.Set(values);
  m.rule_threshold.Set(thresholds);
  m.stage_ends.Set(ends);
  m.evaluation_pass_at_1_ratio.Set(passes);
}

}  // namespace

void CoordinatorHost::ExportMetrics(absl::Time now) {
  const RunView view = state_->View(now);
  if (view.awaiting.empty()) {
    awaiting_since_ = now;
    awaiting_told_ = false;
  } else if (!awaiting_told_ && now - awaiting_since_ > kTellAwaitedAfter) {
    log_.Warn("blocked", {{"awaiting", view.awaiting}});
    awaiting_told_ = true;
  }
  if (metrics_ == nullptr) return;
  CoordinatorMetrics& m = *metrics_;
  const CoordinatorCounters& c = state_->counters();
  const auto add = [](prometheus::Counter& counter, uint64_t total, uint64_t& exported) {
    counter.Increment(static_cast<double>(total - exported));
    exported = total;
  };
  add(m.leases_granted_total, c.leases_granted, exported_.leases_granted);
  add(m.leases_expired_total, c.leases_expired, exported_.leases_expired);
  add(m.second_leases_total, c.second_leases, exported_.second_leases);
  add(m.quarantines_total, c.quarantines, exported_.quarantines);
  add(m.leases_abandoned_total, c.leases_abandoned, exported_.leases_abandoned);
  add(m.groups_completed_total, c.groups_completed, exported_.groups_completed);
  add(m.late_completions_total, c.late_completions, exported_.late_completions);
  add(m.heartbeats_total, c.heartbeats, exported_.heartbeats);
  add(m.steps_total, c.steps, exported_.steps);
  add(m.steps_rolled_back_total, c.steps_rolled_back, exported_.steps_rolled_back);
  add(m.stage_changes_total, c.stage_changes, exported_.stage_changes);
  add(m.evaluations_total, c.evaluations, exported_.evaluations);
  add(m.generated_tokens_total, c.generated_tokens, exported_.generated_tokens);
  add(m.trained_tokens_total, c.trained_tokens, exported_.trained_tokens);
  const auto in_state = [&view](absl::string_view state) {
    return static_cast<double>(
        std::count_if(view.workers.begin(), view.workers.end(),
                      [state](const WorkerView& worker) { return worker.state == state; }));
  };
  m.healthy_workers.Set(in_state("healthy"));
  m.slow_workers.Set(in_state("slow"));
  m.lost_workers.Set(in_state("lost"));
  m.draining_workers.Set(in_state("draining"));
  m.quarantined_workers.Set(in_state("quarantined"));
  m.pending_groups.Set(view.groups_pending);
  m.leased_groups.Set(view.groups_leased);
  m.buffered_groups.Set(view.groups_buffered);
  m.step.Set(static_cast<double>(view.step));
  m.stage.Set(view.stage);
  if (!view.stages.empty()) m.context_tokens.Set(view.stages.back().context_tokens);
  if (view.last_evaluation) m.pass_at_1_ratio.Set(view.last_evaluation->pass_at_1);
  m.tokens_per_second.Set(view.tokens_per_second);
  ExportCost(view.cost, m);
  const double waited = view.awaiting.empty() ? 0 : absl::ToDoubleSeconds(now - awaiting_since_);
  m.awaiting_seconds.Set(waited);
  ExportLabelled(view, waited, m);
}

}  // namespace crescendo
