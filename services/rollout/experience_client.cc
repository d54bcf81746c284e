#include "services/rollout/experience_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/convert/convert.h"
#include "common/os/posix_env.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"

namespace crescendo {
namespace {

// Above the core's window of chunks, with room for what a reset made void.
constexpr size_t kQueue = 16384;
constexpr absl::Duration kIdleWait = absl::Seconds(1);
constexpr absl::Duration kConnectTry = absl::Seconds(1);
// A stream that lives long is opened anew: every call has a deadline.
constexpr absl::Duration kStreamLifetime = absl::Hours(1);

}  // namespace

struct ExperienceClient::Stream {
  uint64_t number = 0;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SampleChunk, v1::ChunkAck>> calls;
  std::atomic<bool> over{false};     // the reader has seen the end
  std::atomic<bool> closing{false};  // by us: the end is no break
  std::thread reader;
};

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
  Close();
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
  if (chunk.stream < newest_.load() || chunk.stream <= broken_) return;
  if (stream_ == nullptr || stream_->number != chunk.stream) {
    if (!Open(chunk.stream)) return;
  }
  if (stream_->over.load() || !stream_->calls->Write(ToProto(chunk.chunk))) {
    Broken(chunk.stream);
    return;
  }
  context_.metrics->chunks_sent_total.Increment();
}

bool ExperienceClient::Open(uint64_t number) {
  Close();
  while (true) {
    const absl::Status connected =
        AwaitConnected(*channel_, "learner", context_.peers.learner, kConnectTry,
                       [this] { return context_.stop->IsSet(); });
    if (connected.ok()) break;
    if (context_.stop->IsSet() || number < newest_.load()) return false;
    watch_.Failed("to take samples", connected);
  }
  auto stream = std::make_unique<Stream>();
  stream->number = number;
  stream->context.set_deadline(absl::ToChronoTime(RealNow() + kStreamLifetime));
  stream->calls = stub_->StreamSamples(&stream->context);
  Stream* raw = stream.get();
  stream->reader = std::thread([this, raw] { ReadAcks(raw); });
  stream_ = std::move(stream);
  return true;
}

void ExperienceClient::ReadAcks(Stream* stream) {
  v1::ChunkAck message;
  while (stream->calls->Read(&message)) {
    watch_.Ok();
    absl::StatusOr<ChunkAck> ack = FromProto(message);
    if (!ack.ok()) {
      context_.log.Error("an acknowledgement cannot be read", {{"status", ack.status()}});
      break;
    }
    context_.post([number = stream->number, ack = *std::move(ack)](RolloutCore& core) {
      core.OnChunkAck(number, ack);
    });
  }
  stream->over.store(true);
  if (stream->closing.load() || context_.stop->IsSet()) return;
  // The writing thread may have nothing to write for long: the reader tells.
  context_.post([number = stream->number](RolloutCore& core) {
    if (core.stream() == number) core.OnLearnerReset();
  });
  on_broken_();
}

void ExperienceClient::Broken(uint64_t number) {
  broken_ = number;
  Close();
  context_.post([number](RolloutCore& core) {
    if (core.stream() == number) core.OnLearnerReset();
  });
  on_broken_();
}

void ExperienceClient::Close() {
  if (stream_ == nullptr) return;
  const bool broke = stream_->over.load() && !context_.stop->IsSet();
  stream_->closing.store(true);
  if (!broke) stream_->context.TryCancel();  // else it is over, and Finish says why
  stream_->reader.join();
  const grpc::Status status = stream_->calls->Finish();
  if (broke) {
    // Not to open streams to a peer that ends each of them at once without a pause.
    context_.stop->WaitFor(watch_.Failed(
        "to take samples", DescribeFailure(status, watch_.who(), absl::ZeroDuration())));
  }
  stream_.reset();
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
