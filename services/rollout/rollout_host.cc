#include "services/rollout/rollout_host.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"

namespace crescendo {
namespace {

constexpr size_t kEvents = 65536;
constexpr absl::Duration kIdleWait = absl::Milliseconds(20);
constexpr absl::Duration kPublishEvery = absl::Milliseconds(50);
constexpr absl::Duration kPostWait = absl::Milliseconds(200);
constexpr absl::Duration kGoodbyeMax = absl::Seconds(2);

}  // namespace

RolloutHost::RolloutHost(const RolloutOptions& options, const WorkerIdentity& identity,
                         const PeerAddresses& peers, const Parts& parts)
    : options_(options),
      context_{identity,    peers,         [this](CoreEvent event) { Post(std::move(event)); },
               parts.clock, parts.metrics, parts.trace,
               &stop_,      parts.log},
      parts_(parts),
      events_(kEvents),
      core_(options, parts.runner) {}

RolloutHost::~RolloutHost() {
  stop_.Set();
  events_.Close();
  if (engine_.joinable()) engine_.join();
}

absl::Status RolloutHost::Start(const std::function<bool()>& stopped) {
  const PeerAddresses& peers = context_.peers;
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  struct Wanted {
    std::string who, address;
    Role role;
  };
  const std::vector<Wanted> wanted = {{"coordinator", peers.coordinator, Role::kCoordinator},
                                      {"learner", peers.learner, Role::kLearner},
                                      {"reward service", peers.reward, Role::kReward}};
  const absl::Time deadline = parts_.clock->Now() + peers.connect_timeout;
  for (const auto& [who, address, role] : wanted) {
    ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                     MakeChannel(address, who, peers.transport, {role}));
    const absl::Duration left = std::max(absl::Milliseconds(100), deadline - parts_.clock->Now());
    RETURN_IF_ERROR(AwaitConnected(*channel, who, address, left, stopped));
    channels.push_back(std::move(channel));
  }
  CoordinatorClient::Hooks hooks;
  hooks.progress = [this] {
    absl::MutexLock lock(&mutex_);
    return progress_;
  };
  hooks.on_heartbeat = [this](const v1::HeartbeatResponse& response) { OnHeartbeat(response); };
  hooks.on_finished = [this] { RequestDrain(absl::ZeroDuration()); };
  coordinator_ = std::make_unique<CoordinatorClient>(context_, channels[0], parts_.codec, hooks);
  experience_ =
      std::make_unique<ExperienceClient>(context_, channels[1], [this] { coordinator_->Kick(); });
  reward_ = std::make_unique<RewardClient>(context_, channels[2], parts_.codec);
  weights_ = std::make_unique<WeightsClient>(context_, parts_.weight_bytes_max,
                                             parts_.relay != nullptr ? parts_.relay : &own_relay_,
                                             parts_.stage);
  RETURN_IF_ERROR(coordinator_->Join());
  weights_->Start();
  experience_->Start();
  reward_->Start();
  coordinator_->Start();
  engine_ = std::thread([this] { EngineLoop(); });
  return absl::OkStatus();
}

absl::Status RolloutHost::Run() {
  engine_.join();
  // Completions and leases that were handed back are still on their way.
  coordinator_->StopLeasing();
  coordinator_->FlushReports(kGoodbyeMax);
  coordinator_->Leave(engine_status_.ok() ? "drained" : "the engine failed");
  stop_.Set();
  events_.Close();
  coordinator_->Stop();
  experience_->Stop();
  reward_->Stop();
  weights_->Stop();
  return engine_status_;
}

void RolloutHost::Post(CoreEvent event) {
  while (!stop_.IsSet() && !events_.closed()) {
    // Push leaves the event as it was when it finds no room.
    if (events_.Push(std::move(event), kPostWait)) return;  // NOLINT(bugprone-use-after-move)
  }
}

void RolloutHost::RequestDrain(absl::Duration finish_within) {
  const absl::Time deadline = parts_.clock->Now() + finish_within;
  if (coordinator_ != nullptr) coordinator_->StopLeasing();
  Post([deadline](RolloutCore& core) { core.Drain(deadline); });
}

void RolloutHost::SetServedSink(std::function<void(const ServedToken&)> sink) {
  Post([this, sink = std::move(sink)](RolloutCore&) { served_sink_ = sink; });
}

HostStatus RolloutHost::Status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

void RolloutHost::OnHeartbeat(const v1::HeartbeatResponse& response) {
  weights_->SetSources({response.weight_sources().begin(), response.weight_sources().end()});
}

// The core's thread
// ----------------------------------------------------------------------------------------

void RolloutHost::EngineLoop() {
  bool worked = false;
  while (!stop_.IsSet() && !core_.drained()) {
    for (CoreEvent& event : events_.PopAll(worked ? absl::ZeroDuration() : kIdleWait)) {
      event(core_);
    }
    const absl::Time start = parts_.clock->Now();
    const uint64_t before = core_.generated_tokens();
    const absl::StatusOr<bool> step = core_.Step(start);
    if (!step.ok()) {
      engine_status_ = step.status();
      parts_.log.Error("the engine cannot go on", {{"status", step.status()}});
      break;
    }
    worked = *step;
    for (const auto& [group, sample] : core_.TakeFirstTokens()) {
      context_.Note({.kind = LifeEvent::kFirstToken,
                     .group = group.value(),
                     .sample = static_cast<int32_t>(sample)});
    }
    DispatchAll();
    const absl::Time end = parts_.clock->Now();
    if (worked) {
      parts_.metrics->decode_step_seconds.Observe(absl::ToDoubleSeconds(end - start));
      parts_.metrics->decode_batch_samples.Observe(
          static_cast<double>(core_.generated_tokens() - before));
    }
    Publish(end, /*force=*/false);
  }
  Publish(parts_.clock->Now(), /*force=*/true);
  events_.Close();
}

void RolloutHost::DispatchAll() {
  std::vector<RolloutAction> actions = std::move(deferred_);
  deferred_.clear();
  for (RolloutAction& action : core_.TakeActions()) {
    NoteAction(action);
    actions.push_back(std::move(action));
  }
  for (RolloutAction& action : actions) {
    if (!Dispatch(action)) deferred_.push_back(std::move(action));
  }
}

void RolloutHost::NoteAction(const RolloutAction& action) const {
  if (const auto* send = std::get_if<SendChunk>(&action)) {
    const SampleChunk& chunk = send->chunk;
    if (chunk.tokens.empty()) return;
    context_.Note({.kind = LifeEvent::kChunk,
                   .group = chunk.group.value(),
                   .sample = static_cast<int32_t>(chunk.sample),
                   .tokens = static_cast<int64_t>(chunk.tokens.size())});
  } else if (const auto* grade = std::get_if<RequestGrade>(&action)) {
    context_.Note({.kind = LifeEvent::kFinished,
                   .group = grade->group.value(),
                   .sample = static_cast<int32_t>(grade->sample)});
  } else if (const auto* complete = std::get_if<CompleteGroup>(&action)) {
    context_.Note({.kind = LifeEvent::kCompleted, .group = complete->completion.group.value()});
  }
}

// False when the queue that it belongs into is full: it is tried again after the next step. The
// bounds of the core keep that rare.
bool RolloutHost::Dispatch(RolloutAction& action) {
  if (const auto* ask = std::get_if<AskLeases>(&action)) return coordinator_->Ask(*ask);
  if (auto* chunk = std::get_if<SendChunk>(&action)) {
    return chunk->stream < core_.stream() || experience_->Send(std::move(*chunk));
  }
  if (const auto* resume = std::get_if<RequestResume>(&action)) {
    return resume->stream < core_.stream() || experience_->Resume(*resume);
  }
  if (auto* grade = std::get_if<RequestGrade>(&action)) return reward_->Grade(std::move(*grade));
  if (auto* complete = std::get_if<CompleteGroup>(&action)) return coordinator_->Report(*complete);
  if (auto* abandon = std::get_if<AbandonLease>(&action)) return coordinator_->Report(*abandon);
  if (const auto* token = std::get_if<ServedToken>(&action)) {
    if (served_sink_) served_sink_(*token);
    return true;
  }
  weights_->Pull(std::get<PullWeights>(action));
  return true;
}

void RolloutHost::Publish(absl::Time now, bool force) {
  const absl::Duration since = now - published_;
  if (since < kPublishEvery && !force) return;
  const RolloutStats stats = core_.stats();
  RolloutMetrics& metrics = *parts_.metrics;
  const auto grown = [](uint64_t now_count, uint64_t before) {
    return static_cast<double>(now_count - before);
  };
  metrics.generated_tokens_total.Increment(
      grown(stats.generated_tokens, last_stats_.generated_tokens));
  metrics.prefilled_tokens_total.Increment(
      grown(stats.prefilled_tokens, last_stats_.prefilled_tokens));
  metrics.resumed_tokens_total.Increment(grown(stats.resumed_tokens, last_stats_.resumed_tokens));
  metrics.weight_swaps_total.Increment(grown(stats.swaps, last_stats_.swaps));
  metrics.leased_groups.Set(stats.groups);
  metrics.running_samples.Set(stats.running);
  metrics.waiting_samples.Set(stats.waiting);
  metrics.ungraded_samples.Set(stats.grading);
  metrics.unacknowledged_tokens.Set(static_cast<double>(stats.unacknowledged_tokens));
  metrics.kv_blocks_used_ratio.Set(static_cast<double>(stats.blocks_used) / stats.blocks_total);
  PublishMemory(*parts_.runner, metrics);
  metrics.policy_version.Set(static_cast<double>(core_.loaded().value()));
  metrics.draining.Set(core_.draining() ? 1 : 0);
  {
    absl::MutexLock lock(&mutex_);
    progress_.leases = core_.Leases();
    progress_.loaded = core_.loaded();
    progress_.generated_tokens = stats.generated_tokens;
    if (published_ != absl::InfinitePast() && since > absl::ZeroDuration()) {
      // Smoothed over about a second.
      const double rate = grown(stats.generated_tokens, last_stats_.generated_tokens) /
                          absl::ToDoubleSeconds(since);
      const double weight = std::min(1.0, absl::ToDoubleSeconds(since));
      status_.tokens_per_second += weight * (rate - status_.tokens_per_second);
    }
    status_.stats = stats;
    status_.loaded = core_.loaded();
    status_.draining = core_.draining();
  }
  last_stats_ = stats;
  published_ = now;
}

}  // namespace crescendo
