// ExperienceService, WeightsService and LearnerService on the wire (proto/crescendo/v1/
// experience.proto, weights.proto, learner.proto): protos in and out, nothing else. Thread-safe;
// `host` outlives the services.
#ifndef CRESCENDO_SERVICES_LEARNER_LEARNER_SERVICE_H_
#define CRESCENDO_SERVICES_LEARNER_LEARNER_SERVICE_H_

#include <functional>
#include <string>
#include <utility>

#include "common/rpc/message_size.h"
#include "crescendo/v1/experience.grpc.pb.h"
#include "crescendo/v1/learner.grpc.pb.h"
#include "crescendo/v1/weights.grpc.pb.h"
#include "prometheus/counter.h"
#include "services/learner/learner_host.h"
#include "services/learner/weight_store.h"

namespace crescendo {

class ExperienceServiceImpl final : public v1::ExperienceService::Service {
 public:
  explicit ExperienceServiceImpl(LearnerHost* host);

  grpc::Status Resume(grpc::ServerContext* context, const v1::ResumeRequest* request,
                      v1::ResumeResponse* response) override;

 private:
  using ChunkStream = grpc::ServerReaderWriter<v1::ChunkAck, CheckedMessage<v1::SampleChunk>>;

  // StreamSamples. One ack a chunk, in order. A stream whose chunk finds no room is not read
  // further until it does. RESOURCE_EXHAUSTED and INTERNAL as of CheckedMessage.
  grpc::Status Stream(grpc::ServerContext* context, ChunkStream* stream);

  LearnerHost* host_;
};

class LearnerServiceImpl final : public v1::LearnerService::Service {
 public:
  explicit LearnerServiceImpl(LearnerHost* host) : host_(host) {}

  grpc::Status Checkpoint(grpc::ServerContext* context, const v1::CheckpointRequest* request,
                          v1::CheckpointResponse* response) override;

 private:
  LearnerHost* host_;
};

class WeightsServiceImpl final : public v1::WeightsService::Service {
 public:
  // `incarnation` says which learner's versions these are; `sent_bytes` counts what is sent,
  // `sent_delta_bytes` those of them that are deltas. All outlive it.
  WeightsServiceImpl(const WeightStore* weights, std::function<std::string()> incarnation,
                     prometheus::Counter* sent_bytes, prometheus::Counter* sent_delta_bytes)
      : weights_(weights),
        incarnation_(std::move(incarnation)),
        sent_bytes_(sent_bytes),
        sent_delta_bytes_(sent_delta_bytes) {}

  grpc::Status GetManifest(grpc::ServerContext* context, const v1::GetManifestRequest* request,
                           v1::WeightManifest* response) override;
  // OUT_OF_RANGE names the chunks that the version has.
  grpc::Status PullChunks(grpc::ServerContext* context, const v1::PullChunksRequest* request,
                          grpc::ServerWriter<v1::WeightChunk>* writer) override;

 private:
  const WeightStore* const weights_;
  const std::function<std::string()> incarnation_;
  prometheus::Counter* const sent_bytes_;
  prometheus::Counter* const sent_delta_bytes_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_LEARNER_SERVICE_H_
