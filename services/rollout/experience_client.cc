#include "services/rollout/experience_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/convert/convert.h"
#include "common/rpc/deadline.h"

namespace crescendo {
namespace {

// Above the core's window of chunks, with room for what a reset made void.
constexpr size_t kQueue = 16384;
constexpr absl::Duration kIdleWait = absl::Seconds(1);

}  // namespace

ExperienceClient::ExperienceClient(const WorkerContext& context,
                                   std::shared_ptr<grpc::Channel> channel,
                                   std::function<void()> on_broken)
    : context_(context),
      channel_(channel),
      stub_(v1::ExperienceService::NewStub(channel)),
      on_broken_(std::move(on_broken)),
      watch_(absl::StrCat("learner ", context.peers.learner), context.clock, context.log,
             &context.metrics->learner_failures_total),
      queue_(kQueue) {}

ExperienceClient::~ExperienceClient() { Stop(); }

void ExperienceClient::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void ExperienceClient::Stop() {
  queue_.Close();
  if (thread_.joinable()) thread_.join();
  stream_.reset();
}

void ExperienceClient::Newest(uint64_t number) {
  uint64_t seen = newest_.load();
  while (seen < number && !newest_.compare_exchange_weak(seen, number)) {
  }
}

bool ExperienceClient::Send(SendChunk chunk) {
  Newest(chunk.stream);
  return queue_.TryPush(std::move(chunk));
}

bool ExperienceClient::Resume(const RequestResume& request) {
  Newest(request.stream);
  return queue_.TryPush(RequestResume(request));
}

void ExperienceClient::Loop() {
  while (true) {
    std::optional<std::variant<SendChunk, RequestResume>> item = queue_.Pop(kIdleWait);
    if (!item.has_value()) {
      if (queue_.closed()) return;
      continue;
    }
    if (const auto* chunk = std::get_if<SendChunk>(&*item)) {
      Write(*chunk);
    } else {
      CallResume(std::get<RequestResume>(*item));
    }
  }
}

void ExperienceClient::Write(const SendChunk& chunk) {
  if (chunk.stream < newest_.load()) return;
  if ((stream_ == nullptr || number_ != chunk.stream) && !Open(chunk.stream)) return;
  if (stream_->Write(ToProto(chunk.chunk))) {
    context_.metrics->chunks_sent_total.Increment();
  } else {
    stream_->Close();  // it stays: what else is of its number is dropped
  }
}

bool ExperienceClient::Open(uint64_t number) {
  stream_.reset();
  const PeerLine line = {channel_.get(),    "learner", context_.peers.learner,
                         "to take samples", &watch_,   context_.stop};
  if (!AwaitPeer(line, [this, number] { return number < newest_.load(); })) return false;
  number_ = number;
  stream_ = std::make_unique<SampleStream>(
      line, [this](grpc::ClientContext* context) { return stub_->StreamSamples(context); },
      SampleStream::Events{
          [this, number](v1::ChunkAck& message) { return TakeAck(number, message); },
          [this, number] { OnBreak(number); }});
  return true;
}

bool ExperienceClient::TakeAck(uint64_t number, const v1::ChunkAck& message) {
  absl::StatusOr<ChunkAck> ack = FromProto(message);
  if (!ack.ok()) {
    context_.log.Error(
        "an acknowledgement cannot be read",
        {{"group", message.group_id()}, {"sample", message.sample()}, {"status", ack.status()}});
    return false;
  }
  context_.post(
      [number, ack = *std::move(ack)](RolloutCore& core) { core.OnChunkAck(number, ack); });
  return true;
}

void ExperienceClient::OnBreak(uint64_t number) {
  context_.post([number](RolloutCore& core) {
    if (core.stream() == number) core.OnLearnerReset();
  });
  on_broken_();
}

void ExperienceClient::CallResume(const RequestResume& request) {
  v1::ResumeRequest message;
  message.set_group_id(request.group.value());
  while (request.stream >= newest_.load() && !context_.stop->IsSet()) {
    v1::ResumeResponse response;
    absl::Status status = Call(
        context_.peers.rpc_timeout,
        absl::StrCat(watch_.who(), " to resume group ", request.group.value()),
        [&](grpc::ClientContext* context) { return stub_->Resume(context, message, &response); });
    if (status.ok()) {
      absl::StatusOr<ResumeReply> reply = FromProto(response);
      if (reply.ok()) {
        watch_.Ok();
        context_.post([request, reply = *std::move(reply)](RolloutCore& core) mutable {
          core.OnResume(request.stream, request.group, std::move(reply));
        });
        return;
      }
      status = reply.status();
    }
    context_.stop->WaitFor(watch_.Failed("to say what it holds of a group", status));
  }
}

}  // namespace crescendo
