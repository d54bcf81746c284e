#include "services/learner/learner_host.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {

namespace {

// The longest the run's thread sleeps at once; actions that come due wake it earlier.
constexpr absl::Duration kNapMax = absl::Milliseconds(500);

}  // namespace

LearnerHost::LearnerHost(const LearnerHostOptions& options, const LearnerHostDeps& deps,
                         const Logger& log, LearnerRestore restore)
    : options_(options),
      deps_(deps),
      log_(log),
      state_(options.learner, std::move(restore), deps.clock->Now()) {}

LearnerHost::~LearnerHost() {
  if (writer_.joinable()) writer_.join();
}

absl::Status LearnerHost::Run(CoordinatorLink* coordinator) {
  link_ = coordinator;
  {
    absl::MutexLock lock(&mutex_);
    link_to_cancel_ = coordinator;
    if (stopping_) coordinator->Cancel();
  }
  while (true) {
    std::optional<LearnerAction> action = AwaitAction();
    if (!action.has_value()) {
      RETURN_IF_ERROR(deps_.trainer->Check());
      continue;
    }
    if (action->kind == LearnerAction::Kind::kStop) return absl::OkStatus();
    if (action->kind == LearnerAction::Kind::kFail) return action->status;
    RETURN_IF_ERROR(Perform(*std::move(action)));
  }
}

void LearnerHost::RequestStop() {
  stopping_ = true;
  absl::MutexLock lock(&mutex_);
  if (link_to_cancel_ != nullptr) link_to_cancel_->Cancel();
  state_.RequestStop(deps_.clock->Now());
}

bool LearnerHost::ActionDue() const { return state_.NextDue() <= deps_.clock->Now(); }

std::optional<LearnerAction> LearnerHost::AwaitAction() {
  absl::MutexLock lock(&mutex_);
  absl::Time now = deps_.clock->Now();
  const absl::Duration nap = std::clamp(state_.NextDue() - now, absl::ZeroDuration(), kNapMax);
  mutex_.AwaitWithTimeout(absl::Condition(this, &LearnerHost::ActionDue), nap);
  now = deps_.clock->Now();
  LogAwaiting(now);
  return state_.NextAction(now);
}

void LearnerHost::LogAwaiting(absl::Time now) {
  if (state_.WaitingFor(now) < options_.awaited_after ||
      now - awaiting_logged_ < options_.awaited_after) {
    return;
  }
  awaiting_logged_ = now;
  log_.Warn("waiting", {{"step", state_.steps_trained()}, {"for", state_.Awaiting(now)}});
}

absl::Status LearnerHost::Perform(LearnerAction action) {
  using Kind = LearnerAction::Kind;
  switch (action.kind) {
    case Kind::kPublish: {
      const absl::Time start = deps_.clock->Now();
      ASSIGN_OR_RETURN(std::vector<TensorData> weights, deps_.trainer->ExportWeights());
      RETURN_IF_ERROR(deps_.weights->Publish(action.version, std::move(weights)));
      ASSIGN_OR_RETURN(const auto published, deps_.weights->Get(action.version));
      deps_.metrics->weight_delta_ratio.Set(published->DeltaRatio());
      const absl::Time now = deps_.clock->Now();
      deps_.metrics->published_versions_total.Increment();
      deps_.metrics->policy_version.Set(static_cast<double>(action.version.value()));
      deps_.metrics->publish_seconds.Observe(absl::ToDoubleSeconds(now - start));
      Note({.kind = LifeEvent::kPublished, .step = action.version.value() - 1});
      absl::MutexLock lock(&mutex_);
      state_.OnPublished(now - start, now);
      return absl::OkStatus();
    }
    case Kind::kAttach:
      return Attach(action), absl::OkStatus();
    case Kind::kNextStep:
      return NextStep(action), absl::OkStatus();
    case Kind::kTrain:
      return Train(std::move(action)), absl::OkStatus();
    case Kind::kCheckpoint:
      return Checkpoint(action), absl::OkStatus();
    case Kind::kReport:
      return Report(action), absl::OkStatus();
    case Kind::kSavePolicy: {
      const absl::Status status = deps_.trainer->SavePolicy(options_.policy_folder);
      if (status.ok()) {
        log_.Info("run finished",
                  {{"step", action.steps_trained}, {"policy", options_.policy_folder}});
      }
      absl::MutexLock lock(&mutex_);
      state_.OnPolicySaved(status, deps_.clock->Now());
      return absl::OkStatus();
    }
    case Kind::kStop:
    case Kind::kFail:
      break;
  }
  return absl::OkStatus();
}

LearnerHost::Progress LearnerHost::RequestCheckpoint() {
  absl::MutexLock lock(&mutex_);
  state_.RequestCheckpoint(deps_.clock->Now());
  return {state_.steps_trained(), state_.steps_checkpointed()};
}

std::string LearnerHost::incarnation() const {
  absl::MutexLock lock(&mutex_);
  return IncarnationLocked();
}

std::string LearnerHost::IncarnationLocked() const {
  return incarnation_ == 0 ? options_.incarnation
                           : absl::StrCat(options_.incarnation, "-", incarnation_);
}

void LearnerHost::CallFailed(const LearnerAction& action, const absl::Status& status) {
  deps_.metrics->coordinator_failures_total.Increment();
  if (!stopping_) {
    log_.Warn("call to the coordinator failed",
              {{"step", action.step.value()}, {"status", status}});
  }
  absl::MutexLock lock(&mutex_);
  state_.OnCallFailed(status, deps_.clock->Now());
}

void LearnerHost::Attach(const LearnerAction& action) {
  {
    absl::MutexLock lock(&mutex_);
    incarnation_ = action.incarnation;
  }
  const std::string name = incarnation();
  const absl::StatusOr<AttachAnswer> answer = link_->Attach(action.steps_trained, name);
  if (!answer.ok()) return CallFailed(action, answer.status());
  log_.SetRun(link_->run_id());
  log_.Info("attached to the coordinator", {{"step", action.steps_trained},
                                            {"incarnation", name},
                                            {"steps_rolled_back", answer->steps_rolled_back}});
  absl::MutexLock lock(&mutex_);
  state_.OnAttached(answer->leases, deps_.clock->Now());
}

void LearnerHost::NextStep(const LearnerAction& action) {
  absl::Duration wait = options_.long_poll;
  {
    // While groups are awaited, or the run is over, the call only asks whether that still holds.
    absl::MutexLock lock(&mutex_);
    if (state_.phase() != LearnerPhase::kNextStep) wait = absl::ZeroDuration();
  }
  const absl::StatusOr<NextStepAnswer> answer = link_->NextStep(action.step, incarnation(), wait);
  if (!answer.ok()) return CallFailed(action, answer.status());
  absl::MutexLock lock(&mutex_);
  state_.OnNextStep(answer->directive, answer->plan, deps_.clock->Now());
}

void LearnerHost::Train(LearnerAction action) {
  const absl::Time start = deps_.clock->Now();
  Note({.kind = LifeEvent::kTrainBegin, .step = action.plan.step.value()});
  absl::StatusOr<BatchSummary> summary =
      TrainStep(options_.step, action.plan, action.groups, *deps_.trainer,
                [this] { return stopping_.load(); });
  const absl::Time now = deps_.clock->Now();
  if (!summary.ok()) {
    absl::MutexLock lock(&mutex_);
    return state_.OnTrainFailed(summary.status(), now);
  }
  stage_ = action.plan.stage;
  summary->metrics.train_seconds = absl::ToDoubleSeconds(now - start);
  for (const GroupOutcome& outcome : summary->outcomes) {
    Note({.kind = LifeEvent::kTrained,
          .group = outcome.group.value(),
          .step = action.plan.step.value()});
  }
  StepMetrics metrics;
  {
    absl::MutexLock lock(&mutex_);
    state_.OnTrained(summary->metrics, std::move(summary->outcomes), now);
    metrics = state_.last_report()->metrics;
    ShowBuffer();
  }
  ShowDistributions(*summary);
  ShowStep(metrics, action.plan.step);
}

void LearnerHost::Checkpoint(const LearnerAction& action) {
  const absl::Time start = deps_.clock->Now();
  auto checkpoint = std::make_shared<crescendo::Checkpoint>();
  checkpoint->steps_trained = action.steps_trained;
  checkpoint->stage = stage_;
  checkpoint->config_toml = options_.config_toml;
  // The core begins no checkpoint before the last one has ended: this does not wait.
  if (writer_.joinable()) writer_.join();
  absl::StatusOr<TrainerState> trainer = CheckpointState(action.steps_trained);
  const absl::Time now = deps_.clock->Now();
  absl::MutexLock lock(&mutex_);
  if (!trainer.ok()) return state_.OnCheckpointFailed(trainer.status(), now);
  checkpoint->trainer = *std::move(trainer);
  checkpoint->ledger = state_.LedgerForCheckpoint();
  checkpoint->last_report = state_.last_report();
  state_.OnCheckpointBegun(now - start, now);
  deps_.metrics->checkpoint_pause_seconds.Observe(absl::ToDoubleSeconds(now - start));
  writer_ = std::thread([this, checkpoint] { WriteCheckpoint(*checkpoint); });
}

// Of rank 0; the other ranks write theirs.
absl::StatusOr<TrainerState> LearnerHost::CheckpointState(int64_t steps) {
  if (deps_.trainer->ranks() == 1) return deps_.trainer->ExportState();
  ASSIGN_OR_RETURN(const std::string folder, deps_.checkpoints->Begin(steps));
  return deps_.trainer->BeginCheckpoint(folder);
}

void LearnerHost::WriteCheckpoint(const crescendo::Checkpoint& checkpoint) {
  const absl::Time start = deps_.clock->Now();
  const absl::Status status =
      deps_.checkpoints->Write(checkpoint, [this] { return deps_.trainer->AwaitParts(); });
  const absl::Time now = deps_.clock->Now();
  if (status.ok()) {
    deps_.metrics->checkpoints_total.Increment();
    deps_.metrics->checkpoint_seconds.Observe(absl::ToDoubleSeconds(now - start));
    deps_.metrics->checkpoint_age_seconds.Set(0);
  } else {
    log_.Error("checkpoint failed", {{"step", checkpoint.steps_trained}, {"status", status}});
  }
  absl::MutexLock lock(&mutex_);
  if (!status.ok()) return state_.OnCheckpointFailed(status, now);
  checkpointed_at_ = now;
  state_.OnCheckpointed(now - start, now);
}

void LearnerHost::Report(const LearnerAction& action) {
  const absl::Status status = link_->Report(action.report, incarnation());
  if (!status.ok()) return CallFailed(action, status);
  absl::MutexLock lock(&mutex_);
  state_.OnReported(deps_.clock->Now());
}

void LearnerHost::ShowDistributions(const BatchSummary& summary) {
  LearnerMetrics& m = *deps_.metrics;
  m.forward_seconds.Observe(summary.phases.forward);
  m.backward_seconds.Observe(summary.phases.backward);
  m.optimizer_seconds.Observe(summary.phases.optimizer);
  for (const auto& [versions, tokens] : summary.tokens_by_staleness) {
    m.ObserveStaleness(versions, tokens);
  }
  for (const uint32_t tokens : summary.stopped_lengths) m.stopped_response_tokens.Observe(tokens);
  for (const uint32_t tokens : summary.truncated_lengths) {
    m.truncated_response_tokens.Observe(tokens);
  }
}

void LearnerHost::ShowStep(const StepMetrics& metrics, StepId step) {
  LearnerMetrics& m = *deps_.metrics;
  m.steps_total.Increment();
  if (metrics.skipped) m.skipped_steps_total.Increment();
  m.trained_tokens_total.Increment(static_cast<double>(metrics.trained_tokens));
  m.reward_mean.Set(metrics.reward_mean);
  m.pass_ratio.Set(metrics.pass_rate);
  m.truncation_ratio.Set(metrics.truncation_ratio);
  m.response_tokens_mean.Set(metrics.response_tokens_mean);
  m.loss.Set(metrics.loss);
  m.kl_nats.Set(metrics.kl);
  m.entropy_nats.Set(metrics.entropy);
  m.grad_norm.Set(metrics.grad_norm);
  m.clip_ratio.Set(metrics.clip_ratio);
  m.learning_rate.Set(metrics.learning_rate);
  m.mismatch_max_nats.Set(metrics.mismatch_max);
  m.mismatch_mean_nats.Set(metrics.mismatch_mean);
  m.mismatch_p99_nats.Set(metrics.mismatch_p99);
  m.mismatch_kl_nats.Set(metrics.mismatch_kl);
  m.kl_coefficient.Set(metrics.kl_coefficient);
  m.staleness_max_versions.Set(static_cast<double>(metrics.staleness_max));
  m.zero_variance_groups.Set(metrics.zero_variance_groups);
  {
    absl::MutexLock lock(&mutex_);
    if (checkpointed_at_ > absl::InfinitePast()) {
      m.checkpoint_age_seconds.Set(absl::ToDoubleSeconds(deps_.clock->Now() - checkpointed_at_));
    }
  }
  m.generation_wait_seconds.Observe(metrics.wait_seconds);
  m.train_seconds.Observe(metrics.train_seconds);
  log_.Info("step trained", {{"step", step.value()},
                             {"stage", stage_},
                             {"reward", metrics.reward_mean},
                             {"truncated", metrics.truncation_ratio},
                             {"tokens_mean", metrics.response_tokens_mean},
                             {"loss", metrics.loss},
                             {"grad_norm", metrics.grad_norm},
                             {"mismatch_max", metrics.mismatch_max},
                             {"staleness_max", metrics.staleness_max},
                             {"skipped", metrics.skipped},
                             {"wait_s", metrics.wait_seconds},
                             {"train_s", metrics.train_seconds}});
}

void LearnerHost::ShowBuffer() {
  deps_.metrics->buffered_groups.Set(state_.buffer().groups());
  deps_.metrics->buffered_tokens.Set(static_cast<double>(state_.buffer().tokens()));
}

absl::StatusOr<ChunkAck> LearnerHost::Accept(SampleChunk chunk,
                                             const std::function<bool()>& cancelled) {
  const double tokens = static_cast<double>(chunk.tokens.size());
  ChunkAck ack;
  {
    absl::MutexLock lock(&mutex_);
    absl::Time now = deps_.clock->Now();
    const absl::Time until = now + options_.room_wait_max;
    while (!state_.HasRoomFor(chunk)) {
      if (stopping_ || cancelled()) return absl::CancelledError("the learner is stopping");
      if (now >= until) {
        return absl::ResourceExhaustedError(
            absl::StrCat("experience buffer: group ", chunk.group.value(), " found no room for ",
                         absl::FormatDuration(options_.room_wait_max), ": ",
                         state_.buffer().bytes(), " bytes in ", state_.buffer().groups(),
                         " groups are held, ", options_.learner.experience.bytes_max, " allowed"));
      }
      const auto has_room = [this, &chunk]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        return stopping_ || state_.HasRoomFor(chunk);
      };
      mutex_.AwaitWithTimeout(absl::Condition(&has_room), kNapMax);
      now = deps_.clock->Now();
    }
    ack = state_.Accept(std::move(chunk), now);
    if (ack.group_complete) ShowBuffer();
    if (ack.sample_closed || ack.group_complete || ack.outcome == ChunkOutcome::kGroupEnded) {
      ack.learner_incarnation = IncarnationLocked();
    }
  }
  LearnerMetrics& m = *deps_.metrics;
  switch (ack.outcome) {
    case ChunkOutcome::kAccepted:
      m.accepted_chunks_total.Increment();
      m.accepted_tokens_total.Increment(tokens);
      if (ack.group_complete) {
        m.groups_total.Increment();
        Note({.kind = LifeEvent::kAccepted, .group = ack.group.value()});
      }
      break;
    case ChunkOutcome::kDuplicate:
    case ChunkOutcome::kGroupEnded:
      m.duplicate_chunks_total.Increment();
      break;
    case ChunkOutcome::kGap:
    case ChunkOutcome::kNeedHeader:
      m.gap_chunks_total.Increment();
      break;
    default:
      m.refused_chunks_total.Increment();
      log_.Warn("sample chunk refused",
                {{"group", ack.group.value()}, {"sample", ack.sample}, {"why", ack.message}});
  }
  return ack;
}

ResumeReply LearnerHost::Resume(GroupId group) {
  absl::MutexLock lock(&mutex_);
  ResumeReply reply = state_.Resume(group);
  reply.learner_incarnation = IncarnationLocked();
  return reply;
}

}  // namespace crescendo
