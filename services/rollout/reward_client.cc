#include "services/rollout/reward_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/convert/convert.h"
#include "common/os/posix_env.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"

namespace crescendo {
namespace {

constexpr size_t kQueue = 2 * limits::kGradesInFlightMax;
constexpr absl::Duration kIdleWait = absl::Seconds(1);
constexpr absl::Duration kConnectTry = absl::Seconds(1);
constexpr absl::Duration kStreamLifetime = absl::Hours(1);

}  // namespace

struct RewardClient::Stream {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::GradeRequest, v1::GradeResponse>> calls;
  std::atomic<bool> over{false};
  std::atomic<bool> closing{false};
  std::atomic<bool> told{false};  // the break has been reported
  std::thread reader;
};

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
  Close();
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
  if (stream_ != nullptr && stream_->over.load()) Close();
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
  (request.truncated ? context_.metrics->samples_truncated_total
                     : context_.metrics->samples_stopped_total)
      .Increment();
  context_.metrics->response_tokens.Observe(static_cast<double>(request.tokens.size()));
  {
    absl::MutexLock lock(&mutex_);
    asked_[request.id] = {context_.clock->Now(), request.group, request.sample};
  }
  if (!stream_->calls->Write(message)) Broken(stream_.get());
}

bool RewardClient::Open() {
  while (true) {
    const absl::Status connected =
        AwaitConnected(*channel_, "reward service", context_.peers.reward, kConnectTry,
                       [this] { return context_.stop->IsSet(); });
    if (connected.ok()) break;
    if (context_.stop->IsSet()) return false;
    watch_.Failed("to grade", connected);
  }
  auto stream = std::make_unique<Stream>();
  stream->context.set_deadline(absl::ToChronoTime(RealNow() + kStreamLifetime));
  stream->calls = stub_->Grade(&stream->context);
  Stream* raw = stream.get();
  stream->reader = std::thread([this, raw] { ReadVerdicts(raw); });
  stream_ = std::move(stream);
  return true;
}

void RewardClient::ReadVerdicts(Stream* stream) {
  v1::GradeResponse message;
  while (stream->calls->Read(&message)) {
    watch_.Ok();
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
  stream->over.store(true);
  if (!stream->closing.load()) Broken(stream);
}

// Reports the break once; the core's new requests get ids that are not void.
void RewardClient::Broken(Stream* stream) {
  stream->over.store(true);
  if (stream->told.exchange(true) || context_.stop->IsSet()) return;
  {
    absl::MutexLock lock(&mutex_);
    asked_.clear();
  }
  context_.post([this](RolloutCore& core) {
    void_below_.store(core.next_grade_id());
    core.OnRewardReset();
  });
}

void RewardClient::Close() {
  if (stream_ == nullptr) return;
  const bool broke = stream_->over.load() && !context_.stop->IsSet();
  stream_->closing.store(true);
  if (!broke) stream_->context.TryCancel();  // else it is over, and Finish says why
  stream_->reader.join();
  const grpc::Status status = stream_->calls->Finish();
  if (broke) {
    // Not to open streams to a peer that ends each of them at once without a pause.
    context_.stop->WaitFor(
        watch_.Failed("to grade", DescribeFailure(status, watch_.who(), absl::ZeroDuration())));
  }
  stream_.reset();
}

}  // namespace crescendo
