#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "tests/sim/sim_services.h"

namespace crescendo::sim {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(1);
constexpr absl::Duration kBeat = absl::Milliseconds(100);
constexpr absl::Duration kRetry = absl::Milliseconds(40);
constexpr absl::Duration kDecodeStep = absl::Milliseconds(2);
constexpr absl::Duration kIdleStep = absl::Milliseconds(8);

RolloutOptions OptionsOf(const Experiment& experiment) {
  RolloutOptions options;
  options.engine.slots = 12;
  options.engine.step_tokens = 64;
  options.engine.blocks = 96;  // tight: preemption happens
  options.engine.block_tokens = experiment.knobs.model.block_tokens;
  options.engine.stop_tokens = {experiment.knobs.model.stop_token};
  options.chunk_tokens = 4;
  options.chunks_in_flight_max = 16;
  options.unacked_tokens_max = 32;
  return options;
}

std::vector<int32_t> PromptOf(const GroupLease& lease) {
  std::vector<int32_t> prompt;
  for (char c : lease.problem) prompt.push_back(2 + c % 30);
  return prompt;
}

}  // namespace

SimWorker::SimWorker(Experiment* experiment, int index)
    : experiment_(experiment), index_(index), self_(experiment->workers[index]) {
  model_ = std::make_unique<ScriptedModel>(experiment_->knobs.model);
  core_ = std::make_unique<RolloutCore>(OptionsOf(*experiment_), model_.get());
  JoinLater(absl::ZeroDuration());
  StepLater(absl::ZeroDuration());
  BeatLater();
}

std::string SimWorker::IncarnationText() const {
  return absl::StrCat(Id(), "-", experiment_->world->Incarnation(self_));
}

void SimWorker::JoinLater(absl::Duration delay) {
  joined_ = false;
  experiment_->world->After(self_, delay, [this] {
    if (joined_) return;
    JoinEvent event{Id(), Id(), IncarnationText(), 12};
    experiment_->world->Call<JoinReply>(
        self_, experiment_->coordinator, kCallTimeout,
        [live = experiment_->live, event](auto answer) { live->coordinator->Join(event, answer); },
        [this](absl::StatusOr<JoinReply> reply) {
          joined_ = reply.ok();
          if (!joined_) JoinLater(kRetry);
        });
  });
}

void SimWorker::BeatLater() {
  experiment_->world->After(self_, kBeat, [this] {
    HeartbeatEvent event;
    event.worker_id = Id();
    event.incarnation = IncarnationText();
    event.policy_version = core_->loaded().value();
    for (const LeaseTokens& held : core_->Leases()) {
      event.leases.push_back({held.lease, held.tokens, held.unfinished});
    }
    const uint64_t generated = core_->stats().generated_tokens;
    event.tokens_per_second =
        static_cast<double>(generated - told_tokens_) / absl::ToDoubleSeconds(kBeat);
    told_tokens_ = generated;
    experiment_->world->Call<HeartbeatReply>(
        self_, experiment_->coordinator, kCallTimeout,
        [live = experiment_->live, event](auto answer) {
          live->coordinator->Heartbeat(event, answer);
        },
        [this](absl::StatusOr<HeartbeatReply> reply) { OnBeat(reply); });
    BeatLater();
  });
}

void SimWorker::OnBeat(const absl::StatusOr<HeartbeatReply>& reply) {
  if (!reply.ok()) {
    if (reply.status().code() == absl::StatusCode::kFailedPrecondition && joined_) {
      JoinLater(absl::ZeroDuration());
    }
    return;
  }
  if (reply->policy_version >= 0) {
    core_->OnPublished(PolicyVersion(reply->policy_version), reply->learner_incarnation);
  }
  for (LeaseId lease : reply->revoked) core_->OnRevoked(lease);
}

void SimWorker::StepLater(absl::Duration delay) {
  experiment_->world->After(self_, delay, [this] {
    auto decoded = core_->Step(Now());
    if (!decoded.ok()) {
      experiment_->Violate(Id() + ": " + decoded.status().ToString());
      return;
    }
    for (RolloutAction& action : core_->TakeActions()) Perform(std::move(action));
    StepLater((*decoded ? kDecodeStep : kIdleStep) / experiment_->knobs.worker_speed[index_]);
  });
}

void SimWorker::Perform(RolloutAction action) {
  std::visit([this](const auto& one) { Do(one); }, action);
}

void SimWorker::Do(const AskLeases& action) {
  experiment_->world->Call<std::vector<GroupLease>>(
      self_, experiment_->coordinator, kCallTimeout,
      [live = experiment_->live, id = Id(), incarnation = IncarnationText(),
       groups = action.groups_max](auto answer) {
        live->coordinator->Lease(id, incarnation, groups, answer);
      },
      [this](absl::StatusOr<std::vector<GroupLease>> leases) {
        std::vector<LeasedPrompt> prompts;
        if (leases.ok()) {
          for (GroupLease& lease : *leases) {
            std::vector<int32_t> prompt = PromptOf(lease);
            prompts.push_back({std::move(lease), std::move(prompt)});
          }
          core_->OnLeases(std::move(prompts));
          return;
        }
        if (leases.status().code() == absl::StatusCode::kFailedPrecondition && joined_) {
          JoinLater(absl::ZeroDuration());
        }
        experiment_->world->After(self_, kRetry, [this] { core_->OnLeases({}); });
      });
}

bool SimWorker::AdvanceTo(uint64_t number) {
  if (number < stream_number_) return false;
  if (number > stream_number_) {
    if (learner_stream_) learner_stream_->Break();
    learner_stream_ = nullptr;
    stream_number_ = number;
  }
  return true;
}

bool SimWorker::EnsureLearnerStream() {
  if (learner_stream_) return !learner_stream_->broken();
  const auto reset = [this, number = stream_number_] {
    if (number == stream_number_) core_->OnLearnerReset();
  };
  learner_stream_ = experiment_->world->Connect(self_, experiment_->learner, reset, nullptr);
  if (learner_stream_) return true;
  experiment_->world->After(self_, kRetry, reset);
  return false;
}

void SimWorker::Do(const SendChunk& action) {
  if (!AdvanceTo(action.stream) || !EnsureLearnerStream()) return;
  SampleChunk chunk = action.chunk;
  if (experiment_->knobs.broken == BrokenRule::kStampsWrongVersion) {
    for (VersionRun& run : chunk.versions) {
      if (run.version.value() > 0 && run.tokens % 3 == 0)
        run.version = PolicyVersion(run.version.value() - 1);
    }
  }
  const uint64_t number = action.stream;
  learner_stream_->Send(self_, [live = experiment_->live, chunk, number, stream = learner_stream_,
                                core = core_.get()] {
    live->learner->OnChunk(chunk, stream,
                           [core, number](const ChunkAck& ack) { core->OnChunkAck(number, ack); });
  });
}

void SimWorker::Do(const RequestResume& action) {
  if (!AdvanceTo(action.stream)) return;
  experiment_->world->Call<ResumeReply>(
      self_, experiment_->learner, kCallTimeout,
      [live = experiment_->live, group = action.group](auto answer) {
        answer(live->learner->Resume(group));
      },
      [this, action](absl::StatusOr<ResumeReply> reply) {
        if (reply.ok()) {
          core_->OnResume(action.stream, action.group, *std::move(reply));
        } else {
          experiment_->world->After(self_, kRetry, [this, action] { Do(action); });
        }
      });
}

void SimWorker::Do(const RequestGrade& action) {
  if (!reward_stream_ || reward_stream_->broken()) {
    reward_stream_ = experiment_->world->Connect(
        self_, experiment_->reward, [this] { core_->OnRewardReset(); }, nullptr);
    if (!reward_stream_) {
      // Once for all answers that have no stream now.
      if (!std::exchange(reward_reset_pending_, true)) {
        experiment_->world->After(self_, kRetry, [this] {
          reward_reset_pending_ = false;
          core_->OnRewardReset();
        });
      }
      return;
    }
  }
  // What runs at the other end must not touch this worker, which may be gone by then.
  reward_stream_->Send(
      self_, [action, stream = reward_stream_, experiment = experiment_, core = core_.get()] {
        // Graded after a while, in any order.
        SimWorld& world = *experiment->world;
        world.After(experiment->reward, world.Between(absl::ZeroDuration(), absl::Milliseconds(5)),
                    [action, stream, experiment, core] {
                      const Verdict verdict = experiment->live->reward->Grade(action.tokens);
                      stream->Send(experiment->reward, [action, verdict, core] {
                        core->OnVerdict(action.id, verdict,
                                        verdict == Verdict::kCorrect ? 1.0 : 0.0, "extracted");
                      });
                    });
      });
}

void SimWorker::Do(const CompleteGroup& action) {
  GroupCompletion completion = action.completion;
  completion.worker_id = Id();
  experiment_->world->Call<bool>(
      self_, experiment_->coordinator, kCallTimeout,
      [live = experiment_->live, completion](auto answer) {
        live->coordinator->Complete(completion, answer);
      },
      [this, action](absl::StatusOr<bool> reply) {
        if (reply.ok()) {
          core_->OnCompleted(action.completion.lease);
          return;
        }
        if (reply.status().code() == absl::StatusCode::kInvalidArgument) {
          experiment_->Violate("a completion was refused: " + reply.status().ToString());
        }
        if (reply.status().code() == absl::StatusCode::kFailedPrecondition && joined_) {
          JoinLater(absl::ZeroDuration());
        }
        experiment_->world->After(self_, kRetry, [this, action] { Do(action); });
      });
}

void SimWorker::Do(const AbandonLease& action) {
  experiment_->world->Call<bool>(
      self_, experiment_->coordinator, kCallTimeout,
      [live = experiment_->live, id = Id(), action](auto answer) {
        live->coordinator->Abandon(id, action.lease, action.reason);
        answer(true);
      },
      [](const absl::StatusOr<bool>&) {});
}

void SimWorker::Do(const PullWeights& action) {
  experiment_->world->Call<std::string>(
      self_, experiment_->learner, kCallTimeout,
      [live = experiment_->live, version = action.version](auto answer) {
        answer(live->learner->Pull(version));
      },
      [this, action](absl::StatusOr<std::string> incarnation) {
        SimWorld& world = *experiment_->world;
        world.After(self_, world.Between(absl::Milliseconds(1), absl::Milliseconds(20)),
                    [this, action, incarnation] {
                      if (incarnation.ok()) {
                        core_->OnWeightsReady(action.version, *incarnation);
                      } else {
                        core_->OnWeightsUnavailable(action.version, incarnation.status().message());
                      }
                    });
      });
}

}  // namespace crescendo::sim
