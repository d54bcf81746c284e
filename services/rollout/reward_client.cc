#include "services/rollout/reward_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/convert/convert.h"

namespace crescendo {
namespace {

constexpr size_t kQueue = 2 * limits::kGradesInFlightMax;
constexpr absl::Duration kIdleWait = absl::Seconds(1);

}  // namespace

RewardClient::RewardClient(const WorkerContext& context, std::shared_ptr<grpc::Channel> channel,
                           const PromptCodec* codec)
    : context_(context),
      codec_(codec),
      channel_(channel),
      stub_(v1::RewardService::NewStub(channel)),
      watch_(absl::StrCat("reward service ", context.peers.reward), context.clock, context.log,
             &context.metrics->reward_failures_total),
      queue_(kQueue) {}

RewardClient::~RewardClient() { Stop(); }

void RewardClient::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void RewardClient::Stop() {
  queue_.Close();
  if (thread_.joinable()) thread_.join();
  stream_.reset();
}

bool RewardClient::Grade(RequestGrade request) { return queue_.TryPush(std::move(request)); }

void RewardClient::Loop() {
  while (true) {
    std::optional<RequestGrade> request = queue_.Pop(kIdleWait);
    if (request.has_value()) {
      Write(*request);
    } else if (queue_.closed()) {
      return;
    }
  }
}

void RewardClient::Write(const RequestGrade& request) {
  if (stream_ != nullptr && stream_->ended()) stream_.reset();
  if (request.id < void_below_.load()) return;
  if (stream_ == nullptr && !Open()) return;
  v1::GradeRequest message;
  message.set_id(request.id);
  *message.mutable_reward() = ToProto(request.reward);
  message.set_problem(request.problem);
  message.set_response(codec_->DecodeAnswer(request.tokens, limits::kResponseTextBytesMax));
  message.set_tokens(static_cast<uint32_t>(request.tokens.size()));
  message.set_context_tokens(request.context_tokens);
  message.set_truncated(request.truncated);
  v1::GradeOrigin& origin = *message.mutable_origin();
  origin.set_run_id(context_.log.run());
  origin.set_worker_id(context_.identity.worker_id);
  origin.set_group_id(request.group.value());
  origin.set_sample(request.sample);
  (request.truncated ? context_.metrics->samples_truncated_total
                     : context_.metrics->samples_stopped_total)
      .Increment();
  context_.metrics->response_tokens.Observe(static_cast<double>(request.tokens.size()));
  {
    absl::MutexLock lock(&mutex_);
    asked_[request.id] = {context_.clock->Now(), request.group, request.sample};
  }
  stream_->Write(message);
}

bool RewardClient::Open() {
  const PeerLine line = {channel_.get(), "reward service", context_.peers.reward,
                         "to grade",     &watch_,          context_.stop};
  if (!AwaitPeer(line, [] { return false; })) return false;
  stream_ = std::make_unique<GradeStream>(
      line, [this](grpc::ClientContext* context) { return stub_->Grade(context); },
      GradeStream::Events{[this](v1::GradeResponse& message) {
                            TakeVerdict(message);
                            return true;
                          },
                          [this] { OnBreak(); }});
  return true;
}

void RewardClient::TakeVerdict(const v1::GradeResponse& message) {
  const uint64_t id = message.id();
  const absl::StatusOr<Verdict> verdict = FromProto(message.verdict());
  {
    absl::MutexLock lock(&mutex_);
    const auto it = asked_.find(id);
    if (it != asked_.end()) {
      context_.metrics->verdict_wait_seconds.Observe(
          absl::ToDoubleSeconds(context_.clock->Now() - it->second.time));
      context_.Note({.kind = LifeEvent::kGraded,
                     .group = it->second.group.value(),
                     .sample = static_cast<int32_t>(it->second.sample)});
      asked_.erase(it);
    }
  }
  context_.post([id, verdict = verdict.ok() ? *verdict : Verdict::kUndecided,
                 reward = message.reward(), extracted = message.extracted().substr(0, 256),
                 reason = message.reason().substr(0, 256)](RolloutCore& core) {
    core.OnVerdict(id, verdict, reward, extracted, reason);
  });
}

// The core's new requests get ids that are not void.
void RewardClient::OnBreak() {
  {
    absl::MutexLock lock(&mutex_);
    asked_.clear();
  }
  context_.post([this](RolloutCore& core) {
    void_below_.store(core.next_grade_id());
    core.OnRewardReset();
  });
}

}  // namespace crescendo
