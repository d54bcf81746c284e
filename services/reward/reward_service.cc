#include "services/reward/reward_service.h"

#include <algorithm>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "common/base/limits.h"
#include "nlohmann/json.hpp"

namespace crescendo {
namespace {

constexpr size_t kWireExtractedBytes = 256;
constexpr int kGoldAnswersMax = 64;
constexpr size_t kOriginBytesShown = 128;
constexpr int kAnswersATurn = 16;  // of one stream, before the next one has its turn

// At most `bytes_max` bytes of valid UTF-8: a proto string must be that. Every byte that is not
// becomes '?'.
std::string ToUtf8(absl::string_view text, size_t bytes_max) {
  std::string out;
  size_t at = 0;
  while (at < text.size() && out.size() < bytes_max) {
    const uint8_t lead = static_cast<uint8_t>(text[at]);
    const size_t length = lead < 0x80                   ? 1
                          : lead >= 0xc2 && lead < 0xe0 ? 2
                          : lead >= 0xe0 && lead < 0xf0 ? 3
                          : lead >= 0xf0 && lead < 0xf5 ? 4
                                                        : 0;
    bool valid = length > 0 && at + length <= text.size();
    for (size_t i = 1; valid && i < length; ++i)
      valid = (static_cast<uint8_t>(text[at + i]) & 0xc0) == 0x80;
    if (valid && length == 3) {
      const uint8_t second = static_cast<uint8_t>(text[at + 1]);
      valid = !(lead == 0xe0 && second < 0xa0) && !(lead == 0xed && second >= 0xa0);
    }
    if (valid && length == 4) {
      const uint8_t second = static_cast<uint8_t>(text[at + 1]);
      valid = !(lead == 0xf0 && second < 0x90) && !(lead == 0xf4 && second >= 0x90);
    }
    if (!valid) {
      out.push_back('?');
      ++at;
    } else if (out.size() + length > bytes_max) {
      break;
    } else {
      out.append(text.data() + at, length);
      at += length;
    }
  }
  return out;
}

bool WithinBounds(const v1::GradeRequest& request) {
  if (request.response().size() > limits::kResponseTextBytesMax) return false;
  if (request.problem().size() > limits::kProblemTextBytesMax) return false;
  if (request.reward().gold_size() > kGoldAnswersMax) return false;
  for (const std::string& gold : request.reward().gold()) {
    if (gold.size() > limits::kGoldTextBytesMax) return false;
  }
  return true;
}

// What is needed to grade it again (audit_log.h).
std::string AuditLine(const v1::GradeRequest& request, const v1::GradeResponse& response,
                      absl::Time now) {
  nlohmann::json line = nlohmann::json::object();
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", now, absl::UTCTimeZone());
  line["id"] = request.id();
  line["kind"] = request.reward().kind();
  line["gold"] =
      std::vector<std::string>(request.reward().gold().begin(), request.reward().gold().end());
  line["problem"] = request.problem().substr(0, kAuditTextBytesMax);
  const std::string& text = request.response();
  const bool cut = text.size() > kAuditTextBytesMax;  // the answer stands at the end
  line["response"] = cut ? text.substr(text.size() - kAuditTextBytesMax) : text;
  if (cut) line["response_cut"] = true;
  line["verdict"] = std::string(VerdictName(static_cast<Verdict>(response.verdict())));
  line["reason"] = response.reason();
  line["reward"] = response.reward();
  line["extracted"] = response.extracted();
  line["micros"] = response.grading_micros();
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

v1::GradeResponse GradeRequestWith(const RewardKinds& kinds, Grader& grader,
                                   const v1::GradeRequest& request) {
  v1::GradeResponse response;
  response.set_id(request.id());
  struct Grade grade;
  if (WithinBounds(request)) {
    RewardQuery query;
    query.grade.kind = request.reward().kind();
    for (const std::string& gold : request.reward().gold()) query.grade.gold.push_back(gold);
    query.grade.response = request.response();
    query.grade.problem = request.problem();
    query.tokens = request.tokens();
    query.context_tokens = request.context_tokens();
    query.truncated = request.truncated();
    grade = kinds.Evaluate(query, grader);
  } else {
    grade.reason = ReasonCode::kRequestInvalid;
  }
  response.set_verdict(static_cast<v1::Verdict>(grade.verdict));
  response.set_reward(grade.reward);
  const absl::string_view reason = ReasonName(grade.reason);
  response.set_reason(reason.data(), reason.size());
  response.set_extracted(ToUtf8(grade.extracted, kWireExtractedBytes));
  return response;
}

// One stream. Deletes itself when gRPC is done with it, which is after Finish, which is called once
// nothing of it is pending, graded or written: so the pool never holds a dead one.
class RewardServiceImpl::Stream final : public RewardServiceImpl::Reactor,
                                        public GradingPool::Source {
 public:
  explicit Stream(RewardServiceImpl* service) : service_(*service) {
    service_.metrics_.streams.Increment();
  }

  void Begin() {
    absl::MutexLock lock(&mutex_);
    StartReadWhenRoom();
    FinishWhenDone();
  }

  void Drain() {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    FinishWhenDone();
  }

  void OnReadDone(bool ok) override {
    bool schedule = false;
    {
      absl::MutexLock lock(&mutex_);
      reading_ = false;
      v1::GradeRequest& request = read_.message;
      if (!ok || finished_ || !read_.status.ok()) {
        read_all_ = true;  // what came before a message that is refused is answered
      } else {
        bytes_ += request.response().size();
        service_.metrics_.response_bytes_total.Increment(
            static_cast<double>(request.response().size()));
        service_.Note(LifeEvent::kArrived, request);
        if (!told_ && request.has_origin()) Tell(request);
        pending_.push_back({std::move(request), service_.clock_.Now()});
        request = v1::GradeRequest();
        ++in_flight_;
        service_.metrics_.queued_answers.Increment();
        schedule = !scheduled_;
        scheduled_ = true;
        StartReadWhenRoom();
      }
      FinishWhenDone();
    }
    if (schedule) service_.pool_.Schedule(this);
  }

  bool GradeSome(Grader& grader) override {
    std::vector<Pending> turn;
    {
      absl::MutexLock lock(&mutex_);
      while (!pending_.empty() && turn.size() < kAnswersATurn) {
        turn.push_back(std::move(pending_.front()));
        pending_.pop_front();
      }
    }
    std::vector<v1::GradeResponse> responses;
    size_t bytes = 0;
    for (Pending& pending : turn) {
      bytes += pending.request.response().size();
      if (ExternalReward* external = service_.ExternalOf(pending.request)) {
        AskExternal(*external, std::move(pending));
      } else {
        responses.push_back(GradeOne(grader, pending));
      }
    }
    absl::MutexLock lock(&mutex_);
    bytes_ -= std::min(bytes, bytes_);
    if (cancelled_) {
      in_flight_ -= static_cast<int>(responses.size());
    } else {
      for (v1::GradeResponse& response : responses) outbox_.push_back(std::move(response));
    }
    WriteNext();
    const bool more = !pending_.empty();
    scheduled_ = more;
    StartReadWhenRoom();
    FinishWhenDone();
    return more;
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    --in_flight_;
    if (!ok) Cancel();
    WriteNext();
    StartReadWhenRoom();
    FinishWhenDone();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    Cancel();
    FinishWhenDone();
  }

  void OnDone() override {
    service_.metrics_.streams.Decrement();
    {
      absl::MutexLock lock(&service_.mutex_);
      service_.streams_.erase(this);
    }
    mutex_.Lock();  // whoever called Finish has let go of it then
    mutex_.Unlock();
    delete this;
  }

 private:
  struct Pending {
    v1::GradeRequest request;
    absl::Time arrived;
  };

  // Of the stream's first answer that says where it comes from.
  void Tell(const v1::GradeRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    told_ = true;
    LogOf(request).Info("answers come");
  }

  Logger LogOf(const v1::GradeRequest& request) const {
    const v1::GradeOrigin& origin = request.origin();
    return service_.log_.With({{"worker", origin.worker_id().substr(0, kOriginBytesShown)},
                               {"run", origin.run_id().substr(0, kOriginBytesShown)}});
  }

  v1::GradeResponse GradeOne(Grader& grader, const Pending& pending) {
    const absl::Time start = service_.clock_.Now();
    service_.Note(LifeEvent::kGradeBegin, pending.request);
    v1::GradeResponse response = GradeRequestWith(service_.kinds_, grader, pending.request);
    Account(pending.request, pending.arrived, start, &response);
    return response;
  }

  // The answer stays in flight until the other server has answered, so this stream stays alive.
  void AskExternal(ExternalReward& external, Pending pending) {
    const absl::Time start = service_.clock_.Now(), arrived = pending.arrived;
    service_.Note(LifeEvent::kGradeBegin, pending.request);
    v1::GradeRequest copy = pending.request;
    external.Submit(std::move(pending.request),
                    [this, request = std::move(copy), start, arrived](v1::GradeResponse response) {
                      response.set_extracted(ToUtf8(response.extracted(), kWireExtractedBytes));
                      Account(request, arrived, start, &response);
                      absl::MutexLock lock(&mutex_);
                      if (cancelled_) {
                        --in_flight_;
                      } else {
                        outbox_.push_back(std::move(response));
                      }
                      WriteNext();
                      StartReadWhenRoom();
                      FinishWhenDone();
                    });
  }

  void Account(const v1::GradeRequest& request, absl::Time arrived, absl::Time start,
               v1::GradeResponse* graded) {
    v1::GradeResponse& response = *graded;
    RewardMetrics& metrics = service_.metrics_;
    const absl::Duration spent = service_.clock_.Now() - start;
    service_.Note(LifeEvent::kGradeEnd, request);
    response.set_grading_micros(static_cast<uint64_t>(absl::ToInt64Microseconds(spent)));
    metrics.queued_answers.Decrement();
    metrics.queue_seconds.Observe(absl::ToDoubleSeconds(start - arrived));
    metrics.grading_seconds.Observe(absl::ToDoubleSeconds(spent));
    if (service_.audit_ != nullptr &&
        service_.audit_->Samples(request.response(), response.reason())) {
      service_.audit_->Write(AuditLine(request, response, service_.clock_.Now()));
    }
    if (response.reason() == ReasonName(ReasonCode::kRequestInvalid)) {
      metrics.refused_total.Increment();
      LogOf(request).Warn(
          "answer refused: over a bound or of no kind",
          {{"group", request.origin().group_id()}, {"sample", request.origin().sample()}});
    }
    metrics.CountReason(response.reason());
    switch (response.verdict()) {
      case v1::VERDICT_CORRECT:
        metrics.correct_total.Increment();
        break;
      case v1::VERDICT_INCORRECT:
        metrics.incorrect_total.Increment();
        break;
      default:
        metrics.undecided_total.Increment();
    }
  }

  void StartReadWhenRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (reading_ || read_all_ || draining_ || cancelled_ || finished_) return;
    if (in_flight_ >= limits::kGradesInFlightMax || bytes_ >= kStreamBytesMax) return;
    reading_ = true;
    StartRead(&read_);
  }

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || outbox_.empty() || cancelled_ || finished_) return;
    writing_ = true;
    response_ = std::move(outbox_.front());
    outbox_.pop_front();
    grpc::WriteOptions options;
    // More follows at once: one packet for many. Not the first of a stream: gRPC 1.51 has been seen
    // to keep it, and all that followed, until the next ping.
    if (begun_ && !outbox_.empty()) options.set_buffer_hint();
    begun_ = true;
    StartWrite(&response_, options);
  }

  void Cancel() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    cancelled_ = true;
    in_flight_ -= static_cast<int>(outbox_.size() + pending_.size());
    service_.metrics_.queued_answers.Decrement(static_cast<double>(pending_.size()));
    outbox_.clear();
    pending_.clear();
    bytes_ = 0;
  }

  void FinishWhenDone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_ || scheduled_ || writing_ || in_flight_ > 0) return;
    if (!read_all_ && !draining_ && !cancelled_) return;
    finished_ = true;
    if (cancelled_) {
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the stream was cancelled"));
    } else if (read_all_) {
      Finish(read_.status);
    } else {
      Finish(grpc::Status(
          grpc::StatusCode::UNAVAILABLE,
          "the reward service is draining: ask another for the answers without a verdict"));
    }
  }

  RewardServiceImpl& service_;
  absl::Mutex mutex_;
  CheckedMessage<v1::GradeRequest> read_;  // of the read that is under way, or the last
  v1::GradeResponse response_;             // of the write that is under way
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::GradeResponse> outbox_ ABSL_GUARDED_BY(mutex_);
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;  // read and not yet written
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool scheduled_ ABSL_GUARDED_BY(mutex_) = false;  // listed in the pool, or being graded
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;  // something was written
  bool told_ ABSL_GUARDED_BY(mutex_) = false;   // who asks was logged
  bool read_all_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

RewardServiceImpl::RewardServiceImpl(GradingPool* pool, RewardMetrics* metrics, Clock* clock,
                                     const RewardServiceParts& parts, const Logger& log)
    : pool_(*pool),
      metrics_(*metrics),
      clock_(*clock),
      kinds_(parts.kinds != nullptr ? *parts.kinds : built_in_),
      external_(parts.external),
      audit_(parts.audit),
      trace_(parts.trace),
      log_(log) {
  // The method's own handler reads messages that are not checked.
  using Handler =
      grpc::internal::CallbackBidiHandler<CheckedMessage<v1::GradeRequest>, v1::GradeResponse>;
  MarkMethodCallback(0,
                     new Handler([this](grpc::CallbackServerContext*) { return BeginStream(); }));
}

ExternalReward* RewardServiceImpl::ExternalOf(const v1::GradeRequest& request) const {
  if (external_ == nullptr || !WithinBounds(request)) return nullptr;
  const auto at = external_->find(request.reward().kind());
  return at == external_->end() ? nullptr : at->second.get();
}

void RewardServiceImpl::Note(LifeEvent kind, const v1::GradeRequest& request) const {
  if (trace_ == nullptr || !request.has_origin()) return;
  trace_->Note({.kind = kind,
                .group = request.origin().group_id(),
                .sample = static_cast<int32_t>(
                    std::min<uint32_t>(request.origin().sample(), limits::kGroupSamplesMax))});
}

RewardServiceImpl::~RewardServiceImpl() = default;

RewardServiceImpl::Reactor* RewardServiceImpl::BeginStream() {
  auto* stream = new Stream(this);  // deletes itself in OnDone
  bool draining = false;
  {
    absl::MutexLock lock(&mutex_);
    streams_.insert(stream);
    draining = draining_;
  }
  if (draining) {
    stream->Drain();
  } else {
    stream->Begin();
  }
  return stream;
}

void RewardServiceImpl::Drain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  for (Stream* stream : streams_) stream->Drain();
}

}  // namespace crescendo
