#include "services/learner/learner_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace crescendo {

namespace {

// Groups that Awaiting names one by one.
constexpr int kGroupsNamed = 3;

bool MayPass(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded ||
         code == absl::StatusCode::kAborted || code == absl::StatusCode::kResourceExhausted ||
         code == absl::StatusCode::kCancelled;
}

}  // namespace

const char* LearnerPhaseName(LearnerPhase phase) {
  switch (phase) {
    case LearnerPhase::kPublish:
      return "publish";
    case LearnerPhase::kAttach:
      return "attach";
    case LearnerPhase::kNextStep:
      return "next step";
    case LearnerPhase::kCollect:
      return "collect";
    case LearnerPhase::kTrain:
      return "train";
    case LearnerPhase::kCheckpoint:
      return "checkpoint";
    case LearnerPhase::kReport:
      return "report";
    case LearnerPhase::kSavePolicy:
      return "save policy";
    case LearnerPhase::kServe:
      return "serve";
    case LearnerPhase::kStop:
      return "stop";
    case LearnerPhase::kFail:
      return "fail";
  }
  return "unknown";
}

LearnerState::LearnerState(const LearnerOptions& options, LearnerRestore restore, absl::Time now)
    : options_(options),
      buffer_(options.experience, std::move(restore.ledger), PolicyVersion(restore.steps_trained)),
      steps_trained_(restore.steps_trained),
      steps_checkpointed_(restore.steps_trained),
      phase_since_(now),
      retry_delay_(options.retry_first),
      last_report_(std::move(restore.last_report)) {
  if (last_report_.has_value()) last_report_->checkpointed = true;
}

void LearnerState::Enter(LearnerPhase phase, absl::Time now) {
  if (phase != phase_) phase_since_ = now;
  phase_ = phase;
}

// What comes after anything that ended, from what is still to be done.
void LearnerState::EnterNext(absl::Time now) {
  if (phase_ == LearnerPhase::kFail || phase_ == LearnerPhase::kStop) return;
  if (!pending_failure_.ok()) return Fail(pending_failure_, now);
  const bool last_one = (stopping_ || finished_) && steps_checkpointed_ < steps_trained_;
  if (checkpoint_due_ || last_one) return Enter(LearnerPhase::kCheckpoint, now);
  if (stopping_) {
    // Who stops a finished run (crescendo train does at once, FINISHED may not have come yet) still
    // wants its policy.
    const bool over =
        finished_ || (options_.steps_total > 0 && steps_trained_ >= options_.steps_total);
    const bool unsaved = over && !policy_saved_;
    return Enter(unsaved ? LearnerPhase::kSavePolicy : LearnerPhase::kStop, now);
  }
  if (published_ < steps_trained_) return Enter(LearnerPhase::kPublish, now);
  if (!attached_) return Enter(LearnerPhase::kAttach, now);
  if (last_report_.has_value() && !reported_) return Enter(LearnerPhase::kReport, now);
  if (!finished_) return Enter(LearnerPhase::kNextStep, now);
  Enter(policy_saved_ ? LearnerPhase::kServe : LearnerPhase::kSavePolicy, now);
}

std::optional<LearnerAction> LearnerState::NextAction(absl::Time now) {
  if (under_way_ || now < NextDue()) return std::nullopt;
  under_way_ = true;
  not_before_ = absl::InfinitePast();
  LearnerAction action;
  action.steps_trained = steps_trained_;
  action.incarnation = incarnation_;
  action.step = StepId(steps_trained_);
  using Kind = LearnerAction::Kind;
  switch (phase_) {
    case LearnerPhase::kPublish:
      action.kind = Kind::kPublish;
      action.version = PolicyVersion(steps_trained_);
      break;
    case LearnerPhase::kAttach:
      action.kind = Kind::kAttach;
      break;
    case LearnerPhase::kNextStep:
    case LearnerPhase::kCollect:
    case LearnerPhase::kServe:
      action.kind = Kind::kNextStep;
      break;
    case LearnerPhase::kTrain:
      action.kind = Kind::kTrain;
      action.plan = plan_;
      action.groups = std::exchange(batch_, {});
      break;
    case LearnerPhase::kCheckpoint:
      action.kind = Kind::kCheckpoint;
      break;
    case LearnerPhase::kReport:
      action.kind = Kind::kReport;
      action.report = *last_report_;
      break;
    case LearnerPhase::kSavePolicy:
      action.kind = Kind::kSavePolicy;
      break;
    case LearnerPhase::kStop:
      action.kind = Kind::kStop;
      break;
    case LearnerPhase::kFail:
      action.kind = Kind::kFail;
      action.status = last_error_;
      break;
  }
  return action;
}

absl::Time LearnerState::NextDue() const {
  // One checkpoint at a time: the next, or the end, waits for the one in the background.
  const bool waits = phase_ == LearnerPhase::kCheckpoint && checkpoint_begun_ >= 0;
  return under_way_ || waits ? absl::InfiniteFuture() : not_before_;
}

void LearnerState::Reached() {
  failing_since_ = absl::InfiniteFuture();
  retry_delay_ = options_.retry_first;
  last_error_ = absl::OkStatus();
}

void LearnerState::Fail(const absl::Status& status, absl::Time now) {
  last_error_ = status;
  not_before_ = absl::InfinitePast();
  Enter(LearnerPhase::kFail, now);
}

void LearnerState::OnPublished(absl::Duration took, absl::Time now) {
  under_way_ = false;
  published_ = steps_trained_;
  buffer_.SetPublished(PolicyVersion(published_));
  if (last_report_.has_value() && !reported_) {
    last_report_->metrics.publish_seconds = absl::ToDoubleSeconds(took);
  }
  EnterNext(now);
}

void LearnerState::OnAttached(const LeaseSecret& leases, absl::Time now) {
  under_way_ = false;
  attached_ = true;
  ever_attached_ = true;
  reported_ = false;
  buffer_.BeginLeases(leases);
  EnterNext(now);
}

void LearnerState::OnReported(absl::Time now) {
  under_way_ = false;
  reported_ = true;
  Reached();
  EnterNext(now);
}

void LearnerState::OnNextStep(LearnerDirective directive, const StepPlan& plan, absl::Time now) {
  under_way_ = false;
  Reached();
  if (stopping_ || !pending_failure_.ok()) return EnterNext(now);
  switch (directive) {
    case LearnerDirective::kFinished:
      finished_ = true;
      missing_.clear();
      not_before_ = policy_saved_ ? now + options_.ask_again : absl::InfinitePast();
      return EnterNext(now);
    case LearnerDirective::kTrain:
      finished_ = false;
      if (plan.step != StepId(steps_trained_)) {
        return OnCallFailed(absl::FailedPreconditionError(
                                absl::StrCat("NextStep: expected a plan of step ", steps_trained_,
                                             ", found one of step ", plan.step.value())),
                            now);
      }
      if (absl::Status valid = CheckPlan(plan); !valid.ok()) return Fail(valid, now);
      return EnterCollect(plan, now);
    default:
      not_before_ = now + options_.wait_again;
      missing_.clear();
      return Enter(LearnerPhase::kNextStep, now);
  }
}

absl::Status LearnerState::CheckPlan(const StepPlan& plan) const {
  const auto bad = [&](absl::string_view field, absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan of step ", plan.step.value(), ": ", field, ": ", why));
  };
  if (plan.groups.empty() || plan.groups.size() > static_cast<size_t>(limits::kGroupsPerStepMax)) {
    return bad("group_ids", absl::StrCat("expected 1 to ", limits::kGroupsPerStepMax, ", found ",
                                         plan.groups.size()));
  }
  if (plan.max_staleness < 0) return bad("max_staleness", "expected 0 or more");
  absl::flat_hash_set<GroupId> seen;
  for (GroupId group : plan.groups) {
    if (!seen.insert(group).second) {
      return bad("group_ids", absl::StrCat("group ", group.value(), " stands twice"));
    }
    if (buffer_.ledger().Contains(group)) {
      return bad("group_ids", absl::StrCat("group ", group.value(), " was consumed by step ",
                                           buffer_.ledger().StepOf(group).value()));
    }
  }
  return absl::OkStatus();
}

void LearnerState::EnterCollect(const StepPlan& plan, absl::Time now) {
  plan_ = plan;
  buffer_.SetWanted(plan.groups);
  missing_.clear();
  for (GroupId group : plan.groups) {
    if (!buffer_.Complete(group)) missing_.insert(group);
  }
  Enter(LearnerPhase::kCollect, now);
  not_before_ = now + options_.ask_again;
  CollectOrTrain(now);
}

void LearnerState::CollectOrTrain(absl::Time now) {
  if (phase_ != LearnerPhase::kCollect || under_way_ || !missing_.empty()) return;
  if (stopping_) return EnterNext(now);
  const std::vector<GroupId> unfit = buffer_.Unfit(plan_);
  if (!unfit.empty()) {
    // The coordinator makes what is not consumed pending again for a learner that comes anew.
    for (GroupId group : unfit) buffer_.Drop(group);
    stale_groups_ += unfit.size();
    ++incarnation_;
    return AttachAnew(now);
  }
  absl::StatusOr<std::vector<GroupExperience>> batch = buffer_.Take(plan_);
  if (!batch.ok()) return Fail(batch.status(), now);
  batch_ = *std::move(batch);
  waited_ = now - phase_since_;
  buffer_.SetWanted({});
  not_before_ = absl::InfinitePast();
  Enter(LearnerPhase::kTrain, now);
}

void LearnerState::AttachAnew(absl::Time now) {
  attached_ = false;
  not_before_ = absl::InfinitePast();
  missing_.clear();
  EnterNext(now);
}

void LearnerState::OnCallFailed(const absl::Status& status, absl::Time now) {
  under_way_ = false;
  if (stopping_ || !pending_failure_.ok()) return EnterNext(now);
  failing_since_ = std::min(failing_since_, now);
  last_error_ = status;
  const bool unknown_to_it = absl::IsFailedPrecondition(status);
  if (phase_ == LearnerPhase::kServe && !unknown_to_it) {
    not_before_ = now + options_.retry_max;  // the run is over; the coordinator may be gone
    return;
  }
  if ((!unknown_to_it && !MayPass(status.code())) ||
      (unknown_to_it && phase_ == LearnerPhase::kAttach)) {
    return Fail(Annotate(status, absl::StrCat("coordinator, for ", LearnerPhaseName(phase_))), now);
  }
  if (now - failing_since_ > (ever_attached_ ? options_.unreachable_max : options_.connect_max)) {
    return Fail(absl::UnavailableError(absl::StrCat(
                    "coordinator did not serve the learner (", LearnerPhaseName(phase_), ") for ",
                    absl::FormatDuration(absl::Trunc(now - failing_since_, absl::Milliseconds(10))),
                    ": is it running, and is the address right? Last: ", status.message())),
                now);
  }
  if (unknown_to_it) AttachAnew(now);
  not_before_ = now + retry_delay_;
  retry_delay_ = std::min(retry_delay_ * 2, options_.retry_max);
  CollectOrTrain(now);
}

void LearnerState::OnTrained(const StepMetrics& metrics, std::vector<GroupOutcome> outcomes,
                             absl::Time now) {
  under_way_ = false;
  StepReport report;
  report.step = StepId(steps_trained_);
  report.metrics = metrics;
  report.metrics.wait_seconds = absl::ToDoubleSeconds(waited_);
  report.groups = std::move(outcomes);
  last_report_ = std::move(report);
  reported_ = false;
  ++steps_trained_;
  nonfinite_in_a_row_ = metrics.skipped ? nonfinite_in_a_row_ + 1 : 0;
  if (nonfinite_in_a_row_ >= options_.nonfinite_steps_max) {
    return Fail(absl::InternalError(
                    absl::StrCat("training: loss or gradients were not finite in ",
                                 nonfinite_in_a_row_, " steps in a row, the last of them step ",
                                 steps_trained_ - 1, " (learner.nonfinite_steps_max)")),
                now);
  }
  checkpoint_due_ = checkpoint_due_ || steps_trained_ % options_.checkpoint_every == 0;
  EnterNext(now);
}

void LearnerState::OnTrainFailed(const absl::Status& status, absl::Time now) {
  under_way_ = false;
  if (stopping_ && absl::IsCancelled(status)) return EnterNext(now);
  Fail(Annotate(status, absl::StrCat("step ", steps_trained_)), now);
}

void LearnerState::OnCheckpointBegun(absl::Duration pause, absl::Time now) {
  under_way_ = false;
  checkpoint_due_ = false;
  checkpoint_begun_ = steps_trained_;
  if (last_report_.has_value() && !reported_) {
    last_report_->metrics.checkpoint_seconds = absl::ToDoubleSeconds(pause);
  }
  EnterNext(now);
}

void LearnerState::OnCheckpointed(absl::Duration took, absl::Time now) {
  const bool in_background = checkpoint_begun_ >= 0;
  if (!in_background) OnCheckpointBegun(took, now);
  steps_checkpointed_ = std::exchange(checkpoint_begun_, -1);
  checkpoint_failures_in_a_row_ = 0;
  if (last_report_.has_value() && last_report_->step.value() < steps_checkpointed_) {
    last_report_->checkpointed = true;
  }
  if (phase_ == LearnerPhase::kCheckpoint) EnterNext(now);
}

void LearnerState::OnCheckpointFailed(const absl::Status& status, absl::Time now) {
  if (checkpoint_begun_ < 0) {
    under_way_ = false;
    checkpoint_due_ = false;
  }
  const int64_t steps = checkpoint_begun_ < 0 ? steps_trained_ : checkpoint_begun_;
  checkpoint_begun_ = -1;
  ++checkpoint_failures_in_a_row_;
  if (stopping_ || finished_ || checkpoint_failures_in_a_row_ >= options_.checkpoint_failures_max) {
    pending_failure_ = Annotate(status, absl::StrCat("checkpoint of ", steps, " steps"));
    if (under_way_) return;
    return EnterNext(now);
  }
  if (phase_ == LearnerPhase::kCheckpoint && !under_way_) EnterNext(now);
}

void LearnerState::OnPolicySaved(const absl::Status& status, absl::Time now) {
  under_way_ = false;
  if (!status.ok()) return Fail(Annotate(status, "writing the trained policy"), now);
  policy_saved_ = true;
  not_before_ = stopping_ ? absl::InfinitePast() : now + options_.ask_again;
  EnterNext(now);
}

ChunkAck LearnerState::Accept(SampleChunk chunk, absl::Time now) {
  const GroupId group = chunk.group;
  ChunkAck ack = buffer_.Accept(std::move(chunk));
  if (ack.group_complete && ack.outcome == ChunkOutcome::kAccepted && missing_.erase(group) > 0) {
    CollectOrTrain(now);
  }
  return ack;
}

void LearnerState::RequestCheckpoint(absl::Time now) {
  const bool training = phase_ == LearnerPhase::kTrain;
  const int64_t kept = std::max(steps_checkpointed_, checkpoint_begun_);
  if (!training && kept >= steps_trained_) return;
  checkpoint_due_ = true;
  const bool waits = phase_ == LearnerPhase::kNextStep || phase_ == LearnerPhase::kCollect ||
                     phase_ == LearnerPhase::kServe;
  if (!waits || under_way_) return;
  // Not when the coordinator was to be asked again, but now. The plan is asked for anew after it.
  not_before_ = absl::InfinitePast();
  EnterNext(now);
}

void LearnerState::RequestStop(absl::Time now) {
  stopping_ = true;
  not_before_ = absl::InfinitePast();
  if (!under_way_) EnterNext(now);
}

Ledger LearnerState::LedgerForCheckpoint() const {
  Ledger ledger = buffer_.ledger();
  ledger.Truncate(StepId(steps_trained_));
  return ledger;
}

std::string LearnerState::AwaitedGroups() const {
  std::string text = absl::StrCat("step ", plan_.step.value(), " waits for ", missing_.size(),
                                  " of ", plan_.groups.size(), " groups");
  int named = 0;
  for (GroupId group : plan_.groups) {
    if (!missing_.contains(group)) continue;
    absl::StrAppend(&text, named == 0 ? ": " : ", ");
    if (named++ == kGroupsNamed) {
      absl::StrAppend(&text, "...");
      break;
    }
    const GroupProgress progress = buffer_.Progress(group);
    if (!progress.known) {
      absl::StrAppend(&text, "group ", group.value(), " (nothing of it yet)");
    } else {
      absl::StrAppend(&text, "group ", group.value(), " (", progress.closed, " of ",
                      progress.samples, " samples closed, ", progress.tokens, " tokens, lease ",
                      progress.lease.value(), ")");
    }
  }
  return text;
}

std::string LearnerState::Awaiting(absl::Time now) const {
  std::string text;
  switch (phase_) {
    case LearnerPhase::kAttach:
      text = "the coordinator, to attach";
      break;
    case LearnerPhase::kNextStep:
      text = absl::StrCat("the coordinator, for the plan of step ", steps_trained_);
      break;
    case LearnerPhase::kReport:
      text = absl::StrCat("the coordinator, to report step ", steps_trained_ - 1);
      break;
    case LearnerPhase::kCollect:
      text = AwaitedGroups();
      break;
    default:
      return text;
  }
  absl::StrAppend(&text, ", since ",
                  absl::FormatDuration(absl::Trunc(WaitingFor(now), absl::Milliseconds(100))));
  if (!last_error_.ok()) absl::StrAppend(&text, "; last error: ", last_error_.ToString());
  return text;
}

absl::Duration LearnerState::WaitingFor(absl::Time now) const {
  switch (phase_) {
    case LearnerPhase::kAttach:
    case LearnerPhase::kNextStep:
    case LearnerPhase::kReport:
    case LearnerPhase::kCollect:
      return now - phase_since_;
    default:
      return absl::ZeroDuration();
  }
}

}  // namespace crescendo
