#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/sim/sim_services.h"

namespace crescendo::sim {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(2);
constexpr size_t kVersionsKept = 2;

uint64_t Hash(uint64_t hash, uint64_t value) { return MixSeed(hash, value); }

}  // namespace

Verdict TrueVerdict(uint64_t run_seed, const std::vector<int32_t>& tokens) {
  uint64_t hash = run_seed;
  for (int32_t token : tokens) hash = Hash(hash, static_cast<uint64_t>(token));
  if (hash % 13 == 0) return Verdict::kUndecided;
  return hash % 2 == 0 ? Verdict::kCorrect : Verdict::kIncorrect;
}

Verdict SimReward::Grade(const std::vector<int32_t>& tokens) const {
  return TrueVerdict(experiment_->knobs.coordinator.seed, tokens);
}

SimLearner::SimLearner(Experiment* experiment) : experiment_(experiment) {
  LearnerOptions options;
  options.experience.vocabulary_size = experiment_->knobs.model.vocabulary;
  options.checkpoint_every = experiment_->knobs.checkpoint_every;
  batches_ = experiment_->disks.checkpoint.batches;
  state_ = std::make_unique<LearnerState>(options, experiment_->disks.checkpoint.restore, Now());
  experiment_->world->After(experiment_->learner, absl::ZeroDuration(), [this] { Pump(); });
}

std::string SimLearner::IncarnationText() const {
  return absl::StrCat("learner-", experiment_->world->Incarnation(experiment_->learner), "-",
                      incarnation_);
}

void SimLearner::Pump() {
  if (std::exchange(pumping_, true)) return;
  while (auto action = state_->NextAction(Now())) Perform(*std::move(action));
  pumping_ = false;
  const absl::Time due = state_->NextDue();
  if (due == absl::InfiniteFuture() || pump_planned_) return;
  pump_planned_ = true;
  experiment_->world->After(experiment_->learner, std::max(due - Now(), absl::Milliseconds(1)),
                            [this] {
                              pump_planned_ = false;
                              Pump();
                            });
}

void SimLearner::Perform(LearnerAction action) {
  SimWorld& world = *experiment_->world;
  const ProcessId self = experiment_->learner;
  Live* live = experiment_->live;
  switch (action.kind) {
    case LearnerAction::Kind::kPublish:
      versions_.push_back(action.version.value());
      if (versions_.size() > kVersionsKept) versions_.erase(versions_.begin());
      state_->OnPublished(absl::ZeroDuration(), Now());
      return;
    case LearnerAction::Kind::kAttach: {
      incarnation_ = action.incarnation;
      AttachLearnerEvent event{"learner", IncarnationText(), action.steps_trained, "digest"};
      world.Call<LeaseSecret>(
          self, experiment_->coordinator, kCallTimeout,
          [live, event](auto answer) { live->coordinator->Attach(event, answer); },
          [this](absl::StatusOr<LeaseSecret> reply) {
            reply.ok() ? state_->OnAttached(*reply, Now())
                       : state_->OnCallFailed(reply.status(), Now());
            Pump();
          });
      return;
    }
    case LearnerAction::Kind::kNextStep:
      world.Call<NextStepReply>(
          self, experiment_->coordinator, kCallTimeout,
          [live, step = action.step, incarnation = IncarnationText()](auto answer) {
            live->coordinator->NextStep(step, incarnation, answer);
          },
          [this](absl::StatusOr<NextStepReply> reply) {
            reply.ok() ? state_->OnNextStep(reply->directive, reply->plan, Now())
                       : state_->OnCallFailed(reply.status(), Now());
            Pump();
          });
      return;
    case LearnerAction::Kind::kTrain:
      world.After(self, world.Between(absl::Milliseconds(20), absl::Milliseconds(150)),
                  [this, action] {
                    Train(action);
                    Pump();
                  });
      return;
    case LearnerAction::Kind::kCheckpoint: {
      // Copied now and written while the run goes on: a crash before the end leaves the one before.
      const auto copy = std::make_shared<SimCheckpoint>(SimCheckpoint{
          {action.steps_trained, state_->LedgerForCheckpoint(), state_->last_report()}, batches_});
      state_->OnCheckpointBegun(absl::ZeroDuration(), Now());
      world.After(self, world.Between(absl::Milliseconds(1), absl::Milliseconds(100)),
                  [this, copy] {
                    experiment_->disks.checkpoint = *copy;
                    state_->OnCheckpointed(absl::Milliseconds(5), Now());
                    Pump();
                  });
      return;
    }
    case LearnerAction::Kind::kReport: {
      ReportStepEvent event{action.report.step, IncarnationText(), action.report.metrics,
                            action.report.groups};
      world.Call<bool>(
          self, experiment_->coordinator, kCallTimeout,
          [live, event](auto answer) { live->coordinator->Report(event, answer); },
          [this](absl::StatusOr<bool> reply) {
            reply.ok() ? state_->OnReported(Now()) : state_->OnCallFailed(reply.status(), Now());
            Pump();
          });
      return;
    }
    case LearnerAction::Kind::kSavePolicy:
      experiment_->finished = true;
      experiment_->final_batches = batches_;
      state_->OnPolicySaved(absl::OkStatus(), Now());
      return;
    case LearnerAction::Kind::kStop:
      return;
    case LearnerAction::Kind::kFail:
      experiment_->Violate("the learner gave up: " + action.status.ToString());
      return;
  }
}

void SimLearner::Train(LearnerAction action) {
  StepMetrics metrics;
  std::vector<GroupOutcome> outcomes;
  batches_[action.step.value()] = CheckBatch(action, metrics, outcomes);
  state_->OnTrained(metrics, std::move(outcomes), Now());
}

// The invariants of what trains: once each, whole, true, not too old.
TrainedBatch SimLearner::CheckBatch(const LearnerAction& action, StepMetrics& metrics,
                                    std::vector<GroupOutcome>& outcomes) {
  TrainedBatch batch;
  batch.groups = action.plan.groups;
  if (action.groups.size() != action.plan.groups.size()) {
    experiment_->Violate("a batch of another size than its plan");
  }
  double samples = 0;
  for (size_t i = 0; i < action.groups.size(); ++i) {
    const GroupExperience& group = action.groups[i];
    if (group.group != action.plan.groups[i]) experiment_->Violate("a batch out of order");
    for (const auto& [step, earlier] : batches_) {
      if (step < action.step.value() &&
          std::count(earlier.groups.begin(), earlier.groups.end(), group.group) > 0) {
        experiment_->Violate(absl::StrCat("group ", group.group.value(), " trains twice: steps ",
                                          step, " and ", action.step.value()));
      }
    }
    GroupOutcome outcome;
    outcome.group = group.group;
    for (uint32_t s = 0; s < group.samples.size(); ++s) {
      const SampleExperience& sample = group.samples[s];
      CheckSample(action, group, s);
      outcome.correct += sample.verdict == Verdict::kCorrect;
      outcome.incorrect += sample.verdict == Verdict::kIncorrect;
      outcome.undecided += sample.verdict == Verdict::kUndecided;
      outcome.truncated += sample.finish == FinishReason::kTruncated;
      outcome.tokens += sample.tokens.size();
      outcome.reward += sample.reward / static_cast<double>(group.samples.size());
      for (int32_t token : sample.tokens) batch.content = Hash(batch.content, token);
      for (const VersionRun& run : sample.versions) {
        batch.content = Hash(Hash(batch.content, run.version.value()), run.tokens);
      }
      batch.content = Hash(batch.content, static_cast<uint64_t>(sample.verdict));
      metrics.response_tokens_mean += static_cast<double>(sample.tokens.size());
      metrics.truncation_ratio += sample.finish == FinishReason::kTruncated;
      samples += 1;
    }
    metrics.generated_tokens += outcome.tokens;
    outcomes.push_back(outcome);
  }
  metrics.response_tokens_mean /= samples;
  metrics.truncation_ratio /= samples;
  return batch;
}

void SimLearner::CheckSample(const LearnerAction& action, const GroupExperience& group,
                             uint32_t index) {
  const SampleExperience& sample = group.samples[index];
  const std::string where = absl::StrCat("step ", action.step.value(), ", group ",
                                         group.group.value(), ", sample ", index, ": ");
  if (!sample.closed || sample.tokens.empty()) experiment_->Violate(where + "not closed");
  if (sample.log_probs.size() != sample.tokens.size()) {
    experiment_->Violate(where + "a token without log-probability");
  }
  uint32_t position = 0;
  for (const VersionRun& run : sample.versions) {
    const int64_t staleness = action.step.value() - run.version.value();
    if (staleness < 0 || staleness > action.plan.max_staleness) {
      experiment_->Violate(
          absl::StrCat(where, "staleness ", staleness, ", at most ", action.plan.max_staleness));
    }
    for (uint32_t i = 0; i < run.tokens && position < sample.tokens.size(); ++i, ++position) {
      const int32_t expected =
          ScriptedModel::TokenAt(experiment_->knobs.model, experiment_->knobs.coordinator.seed,
                                 group.group.value(), index, position, run.version.value());
      if (sample.tokens[position] != expected) {
        experiment_->Violate(absl::StrCat(where, "token ", position, " is ",
                                          sample.tokens[position], ", version ",
                                          run.version.value(), " makes ", expected));
        return;
      }
    }
  }
  if (position != sample.tokens.size()) experiment_->Violate(where + "a token without version");
  if (sample.verdict != TrueVerdict(experiment_->knobs.coordinator.seed, sample.tokens)) {
    experiment_->Violate(where + "a verdict that the grader did not give");
  }
}

void SimLearner::OnChunk(const SampleChunk& chunk, const std::shared_ptr<Stream>& stream,
                         std::function<void(ChunkAck)> ack) {
  if (!state_->HasRoomFor(chunk)) {
    // Back-pressure: the stream waits.
    experiment_->world->After(experiment_->learner, absl::Milliseconds(5),
                              [this, chunk, stream, ack] { OnChunk(chunk, stream, ack); });
    return;
  }
  ChunkAck answer = state_->Accept(chunk, Now());
  answer.learner_incarnation = IncarnationText();
  stream->Send(experiment_->learner, [ack, answer] { ack(answer); });
  Pump();
}

absl::StatusOr<std::string> SimLearner::Pull(PolicyVersion version) const {
  if (std::count(versions_.begin(), versions_.end(), version.value()) == 0) {
    return absl::NotFoundError("that version is not held");
  }
  return IncarnationText();
}

}  // namespace crescendo::sim
