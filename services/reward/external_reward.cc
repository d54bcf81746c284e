#include "services/reward/external_reward.h"

#include <grpcpp/grpcpp.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "services/reward/grade.h"

namespace crescendo {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kConnectTry = absl::Milliseconds(200);

v1::GradeResponse Unavailable() {
  v1::GradeResponse response;
  response.set_verdict(v1::VERDICT_UNDECIDED);
  const absl::string_view reason = ReasonName(ReasonCode::kUnavailable);
  response.set_reason(reason.data(), reason.size());
  return response;
}

}  // namespace

struct ExternalReward::Stream {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::GradeRequest, v1::GradeResponse>> calls;
  std::atomic<bool> over{false};
  std::thread reader;
};

absl::StatusOr<std::unique_ptr<ExternalReward>> ExternalReward::Make(const RewardKind& kind,
                                                                     Clock* clock) {
  ASSIGN_OR_RETURN(
      auto channel,
      MakeChannel(kind.address, absl::StrCat("reward service of kind ", kind.name), kind.insecure));
  return std::unique_ptr<ExternalReward>(new ExternalReward(kind, std::move(channel), clock));
}

ExternalReward::ExternalReward(RewardKind kind, std::shared_ptr<grpc::Channel> channel,
                               Clock* clock)
    : kind_(std::move(kind)),
      channel_(std::move(channel)),
      clock_(*clock),
      stub_(v1::RewardService::NewStub(channel_)),
      queue_(2 * kExternalInFlightMax) {
  thread_ = std::thread([this] { Loop(); });
}

ExternalReward::~ExternalReward() {
  queue_.Close();
  thread_.join();
  CloseStream();
  ExpireOverdue(true);
}

void ExternalReward::Submit(v1::GradeRequest request, Done done) {
  Asked asked;
  asked.caller_id = request.id();
  asked.done = std::move(done);
  asked.deadline = clock_.Now() + kind_.timeout;
  asked.request = std::move(request);
  {
    absl::MutexLock lock(&mutex_);
    const uint64_t id = next_id_++;
    asked.request.set_id(id);
    // Known before it is queued: the loop may take it at once.
    const auto at = asked_.emplace(id, std::move(asked)).first;
    if (asked_.size() <= kExternalInFlightMax && queue_.TryPush(uint64_t{id})) return;
    asked = std::move(at->second);
    asked_.erase(at);
  }
  Complete(std::move(asked), Unavailable());
}

void ExternalReward::Complete(Asked asked, v1::GradeResponse response) {
  response.set_id(asked.caller_id);
  asked.done(std::move(response));
}

void ExternalReward::ExpireOverdue(bool all) {
  std::vector<Asked> overdue;
  {
    const absl::Time now = clock_.Now();
    absl::MutexLock lock(&mutex_);
    // Deadlines rise with ids.
    while (!asked_.empty() && (all || asked_.begin()->second.deadline <= now)) {
      overdue.push_back(std::move(asked_.begin()->second));
      asked_.erase(asked_.begin());
    }
  }
  for (Asked& asked : overdue) Complete(std::move(asked), Unavailable());
}

void ExternalReward::Loop() {
  while (!queue_.closed()) {
    const auto id = queue_.Pop(kTick);
    ExpireOverdue(false);
    if (stream_ != nullptr && stream_->over.load()) CloseStream();
    if (id.has_value()) Write(*id);
  }
}

void ExternalReward::Write(uint64_t id) {
  absl::Time deadline;
  {
    absl::MutexLock lock(&mutex_);
    const auto at = asked_.find(id);
    if (at == asked_.end()) return;
    deadline = at->second.deadline;
  }
  while (EnsureStream(deadline)) {
    v1::GradeRequest request;
    {
      absl::MutexLock lock(&mutex_);
      const auto at = asked_.find(id);
      if (at == asked_.end()) return;
      request = at->second.request;
      at->second.written = true;
    }
    if (stream_->calls->Write(request)) return;
    {
      absl::MutexLock lock(&mutex_);
      const auto at = asked_.find(id);
      if (at != asked_.end()) at->second.written = false;  // this loop asks again, not CloseStream
    }
    CloseStream();
  }
}

// False when there is none by the deadline, or when this object ends.
bool ExternalReward::EnsureStream(absl::Time deadline) {
  while (stream_ == nullptr) {
    if (queue_.closed() || clock_.Now() >= deadline) return false;
    ExpireOverdue(false);
    const absl::Status connected = AwaitConnected(*channel_, kind_.name, kind_.address, kConnectTry,
                                                  [this] { return queue_.closed(); });
    if (!connected.ok()) continue;
    auto stream = std::make_unique<Stream>();
    stream->calls = stub_->Grade(&stream->context);
    Stream* raw = stream.get();
    stream->reader = std::thread([this, raw] { Read(raw); });
    stream_ = std::move(stream);
  }
  return true;
}

// What was written on it without a verdict is queued again.
void ExternalReward::CloseStream() {
  if (stream_ == nullptr) return;
  stream_->context.TryCancel();
  stream_->reader.join();
  stream_->calls->Finish();
  stream_.reset();
  std::vector<uint64_t> again;
  {
    absl::MutexLock lock(&mutex_);
    for (auto& [id, asked] : asked_) {
      if (!asked.written) continue;
      asked.written = false;
      again.push_back(id);
    }
  }
  for (uint64_t id : again)
    queue_.TryPush(uint64_t{id});  // one that finds no room runs out of time
}

void ExternalReward::Read(Stream* stream) {
  v1::GradeResponse response;
  while (stream->calls->Read(&response)) {
    Asked asked;
    {
      absl::MutexLock lock(&mutex_);
      const auto at = asked_.find(response.id());
      if (at == asked_.end()) continue;
      asked = std::move(at->second);
      asked_.erase(at);
    }
    Complete(std::move(asked), response);
  }
  stream->over.store(true);
}

}  // namespace crescendo
