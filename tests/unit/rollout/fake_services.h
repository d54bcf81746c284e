// The services around a rollout worker, in this process, over gRPC: for adapter_test.cc.
#ifndef CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_SERVICES_H_
#define CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_SERVICES_H_

#include <atomic>
#include <iterator>
#include <set>
#include <string>

#include "absl/synchronization/mutex.h"
#include "common/base/crc32c.h"
#include "common/convert/convert.h"
#include "crescendo/v1/coordinator.grpc.pb.h"
#include "crescendo/v1/experience.grpc.pb.h"
#include "crescendo/v1/reward.grpc.pb.h"
#include "crescendo/v1/weights.grpc.pb.h"
#include "tests/unit/rollout/fake_learner.h"

namespace crescendo {

inline constexpr absl::Duration kPatience = absl::Seconds(30);

// Leases groups 0..groups-1 once each, knows a worker only after it has joined.
class FakeCoordinator final : public v1::CoordinatorService::Service {
 public:
  FakeCoordinator(int groups, int limit) : groups_(groups), limit_(limit) {}

  grpc::Status Join(grpc::ServerContext*, const v1::JoinRequest* request,
                    v1::JoinResponse* response) override {
    absl::MutexLock lock(&mutex_);
    joined_ = true;
    ++joins_;
    incarnation_ = request->incarnation();
    response->set_run_id("test");
    response->set_heartbeat_interval_ms(20);
    return grpc::Status::OK;
  }
  grpc::Status Lease(grpc::ServerContext*, const v1::LeaseRequest* request,
                     v1::LeaseResponse* response) override {
    absl::MutexLock lock(&mutex_);
    if (!joined_) return {grpc::StatusCode::FAILED_PRECONDITION, "join first"};
    const auto any = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return next_ < groups_; };
    mutex_.AwaitWithTimeout(absl::Condition(&any), absl::Milliseconds(100));
    for (uint32_t i = 0; i < request->groups_max() && next_ < groups_; ++i) {
      GroupLease lease;
      lease.group = GroupId(next_);
      lease.lease = LeaseId(100 + next_++);
      lease.problem_id = "p";
      lease.problem = "1+1=";
      lease.reward = {"math", {"2"}};
      lease.samples = 4;
      lease.context_tokens = limit_;
      lease.seed = 17;
      lease.min_version = min_version;
      *response->add_groups() = ToProto(lease);
    }
    return grpc::Status::OK;
  }
  grpc::Status Heartbeat(grpc::ServerContext*, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    absl::MutexLock lock(&mutex_);
    if (!joined_) return {grpc::StatusCode::FAILED_PRECONDITION, "join first"};
    loaded_ = request->policy_version();
    response->set_policy_version(version);
    response->set_learner_incarnation(learner_incarnation);
    return grpc::Status::OK;
  }
  grpc::Status CompleteGroup(grpc::ServerContext*, const v1::CompleteGroupRequest* request,
                             v1::CompleteGroupResponse* response) override {
    absl::MutexLock lock(&mutex_);
    if (!joined_) return {grpc::StatusCode::FAILED_PRECONDITION, "join first"};
    completed_.insert(request->group_id());
    response->set_accepted(true);
    return grpc::Status::OK;
  }
  grpc::Status Abandon(grpc::ServerContext*, const v1::AbandonRequest* request,
                       v1::AbandonResponse*) override {
    absl::MutexLock lock(&mutex_);
    abandoned_ += request->lease_ids_size();
    return grpc::Status::OK;
  }
  grpc::Status Leave(grpc::ServerContext*, const v1::LeaveRequest*, v1::LeaveResponse*) override {
    absl::MutexLock lock(&mutex_);
    left_ = true;
    return grpc::Status::OK;
  }

  void Forget() {
    absl::MutexLock lock(&mutex_);
    joined_ = false;
  }
  bool AwaitCompleted(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return completed_.size() >= count;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&done), kPatience);
  }
  bool AwaitLoaded(int64_t wanted) {
    absl::MutexLock lock(&mutex_);
    const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return loaded_ == wanted; };
    return mutex_.AwaitWithTimeout(absl::Condition(&done), kPatience);
  }
  bool AwaitJoins(int count) {
    absl::MutexLock lock(&mutex_);
    const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return joins_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&done), kPatience);
  }
  int abandoned() const {
    absl::MutexLock lock(&mutex_);
    return abandoned_;
  }
  bool left() const {
    absl::MutexLock lock(&mutex_);
    return left_;
  }
  std::atomic<int64_t> version{0};
  std::atomic<int64_t> min_version{-1};
  std::string learner_incarnation = "l0";  // set before the worker starts

 private:
  const uint64_t groups_;
  const int limit_;
  mutable absl::Mutex mutex_;
  bool joined_ ABSL_GUARDED_BY(mutex_) = false;
  bool left_ ABSL_GUARDED_BY(mutex_) = false;
  int joins_ ABSL_GUARDED_BY(mutex_) = 0;
  int abandoned_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t loaded_ ABSL_GUARDED_BY(mutex_) = -1;
  std::string incarnation_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> completed_ ABSL_GUARDED_BY(mutex_);
};

class FakeExperience final : public v1::ExperienceService::Service {
 public:
  grpc::Status StreamSamples(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::ChunkAck, v1::SampleChunk>* stream) override {
    const uint64_t number = ++streams_;
    v1::SampleChunk message;
    while (stream->Read(&message)) {
      const auto chunk = FromProto(message);
      absl::MutexLock lock(&mutex_);
      if (!chunk.ok()) {
        learner_.error = chunk.status().ToString();
        return grpc::Status::OK;
      }
      const ChunkAck ack = learner_.Accept(number, *chunk);
      // Break off in the middle, as often as asked, when a chunk has been taken.
      if (breaks > 0 && learner_.chunks_accepted % 5 == 4) {
        --breaks;
        return {grpc::StatusCode::UNAVAILABLE, "killed"};
      }
      if (!stream->Write(ToProto(ack))) break;
    }
    return grpc::Status::OK;
  }
  grpc::Status Resume(grpc::ServerContext*, const v1::ResumeRequest* request,
                      v1::ResumeResponse* response) override {
    absl::MutexLock lock(&mutex_);
    ++resumes_;
    *response = ToProto(learner_.Resume(GroupId(request->group_id())));
    return grpc::Status::OK;
  }
  FakeLearner learner() const {
    absl::MutexLock lock(&mutex_);
    return learner_;
  }
  void Publish(int64_t version) {
    absl::MutexLock lock(&mutex_);
    learner_.published = version;
  }
  // The learner is another process, which holds nothing of what was not complete.
  void LoseOpenGroups() {
    absl::MutexLock lock(&mutex_);
    for (auto it = learner_.held.begin(); it != learner_.held.end();) {
      it = it->second.complete() ? std::next(it) : learner_.held.erase(it);
    }
  }
  int resumes() const {
    absl::MutexLock lock(&mutex_);
    return resumes_;
  }
  std::atomic<int> breaks{0};

 private:
  std::atomic<uint64_t> streams_{0};
  mutable absl::Mutex mutex_;
  FakeLearner learner_ ABSL_GUARDED_BY(mutex_);
  int resumes_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FakeReward final : public v1::RewardService::Service {
 public:
  grpc::Status Grade(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::GradeResponse, v1::GradeRequest>* stream) override {
    v1::GradeRequest request;
    while (stream->Read(&request)) {
      {
        absl::MutexLock lock(&mutex_);
        origin_ = request.origin();
      }
      if (breaks > 0 && ++seen_ % 3 == 2) {
        --breaks;
        return {grpc::StatusCode::UNAVAILABLE, "killed"};
      }
      v1::GradeResponse response;
      response.set_id(request.id());
      response.set_verdict(request.response().size() % 2 == 0 ? v1::VERDICT_CORRECT
                                                              : v1::VERDICT_INCORRECT);
      if (!stream->Write(response)) break;
    }
    return grpc::Status::OK;
  }
  // Of the last answer.
  v1::GradeOrigin origin() const {
    absl::MutexLock lock(&mutex_);
    return origin_;
  }
  std::atomic<int> breaks{0};

 private:
  std::atomic<int> seen_{0};
  mutable absl::Mutex mutex_;
  v1::GradeOrigin origin_ ABSL_GUARDED_BY(mutex_);
};

// Version v is 40 bytes of v in chunks of 16. The first `corrupt` chunks sent have a flipped bit,
// the first `short_streams` streams end after a chunk.
class FakeWeights final : public v1::WeightsService::Service {
 public:
  grpc::Status GetManifest(grpc::ServerContext*, const v1::GetManifestRequest* request,
                           v1::WeightManifest* response) override {
    if (request->version() > newest) return {grpc::StatusCode::NOT_FOUND, "not held"};
    const std::string bytes = Bytes(request->version());
    response->set_version(request->version());
    v1::WeightTensor* tensor = response->add_tensors();
    tensor->set_name("w");
    tensor->set_dtype("F32");
    tensor->add_shape(10);
    tensor->set_bytes(bytes.size());
    response->set_total_bytes(bytes.size());
    response->set_chunk_bytes(16);
    for (int i = 0; i < 3; ++i) response->add_chunk_crc32c(Crc32c(bytes.substr(i * 16, 16)));
    response->set_learner_incarnation("l0");
    return grpc::Status::OK;
  }
  grpc::Status PullChunks(grpc::ServerContext*, const v1::PullChunksRequest* request,
                          grpc::ServerWriter<v1::WeightChunk>* writer) override {
    const std::string bytes = Bytes(request->version());
    for (uint32_t i = 0; i < request->chunks(); ++i) {
      v1::WeightChunk chunk;
      chunk.set_version(request->version());
      chunk.set_index(request->first_chunk() + i);
      std::string data = bytes.substr(chunk.index() * 16, 16);
      chunk.set_crc32c(Crc32c(data));
      if (corrupt-- > 0) data[3] ^= 0x10;
      chunk.set_data(data);
      writer->Write(chunk);
      if (short_streams > 0) {
        --short_streams;
        return {grpc::StatusCode::UNAVAILABLE, "gone"};
      }
    }
    return grpc::Status::OK;
  }
  static std::string Bytes(int64_t version) {
    return std::string(40, static_cast<char>('a' + version));
  }
  std::atomic<int64_t> newest{0};
  std::atomic<int> corrupt{0};
  std::atomic<int> short_streams{0};
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_UNIT_ROLLOUT_FAKE_SERVICES_H_
