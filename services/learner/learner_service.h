// ExperienceService and WeightsService on the wire (proto/crescendo/v1/experience.proto,
// weights.proto): protos in and out, nothing else. Thread-safe; `host` outlives the services.
#ifndef CRESCENDO_SERVICES_LEARNER_LEARNER_SERVICE_H_
#define CRESCENDO_SERVICES_LEARNER_LEARNER_SERVICE_H_

#include "crescendo/v1/experience.grpc.pb.h"
#include "crescendo/v1/weights.grpc.pb.h"
#include "services/learner/learner_host.h"

namespace crescendo {

class ExperienceServiceImpl final : public v1::ExperienceService::Service {
 public:
  explicit ExperienceServiceImpl(LearnerHost* host) : host_(host) {}

  // One ack a chunk, in order. A stream whose chunk finds no room is not read further until it
  // does.
  grpc::Status StreamSamples(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::ChunkAck, v1::SampleChunk>* stream) override;
  grpc::Status Resume(grpc::ServerContext* context, const v1::ResumeRequest* request,
                      v1::ResumeResponse* response) override;

 private:
  LearnerHost* host_;
};

class WeightsServiceImpl final : public v1::WeightsService::Service {
 public:
  explicit WeightsServiceImpl(LearnerHost* host) : host_(host) {}

  grpc::Status GetManifest(grpc::ServerContext* context, const v1::GetManifestRequest* request,
                           v1::WeightManifest* response) override;
  // OUT_OF_RANGE names the chunks that the version has.
  grpc::Status PullChunks(grpc::ServerContext* context, const v1::PullChunksRequest* request,
                          grpc::ServerWriter<v1::WeightChunk>* writer) override;

 private:
  LearnerHost* host_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_LEARNER_SERVICE_H_
