// WeightsService (proto/crescendo/v1/weights.proto) as a worker serves it to other workers: what
// its relay holds, chunk by chunk as it arrives. Thread-safe; what it is given outlives the
// service.
#ifndef CRESCENDO_SERVICES_ROLLOUT_RELAY_SERVICE_H_
#define CRESCENDO_SERVICES_ROLLOUT_RELAY_SERVICE_H_

#include "crescendo/v1/weights.grpc.pb.h"
#include "prometheus/counter.h"
#include "services/rollout/weight_relay.h"

namespace crescendo {

class RelayServiceImpl final : public v1::WeightsService::Service {
 public:
  // `relayed_bytes` counts what was sent.
  RelayServiceImpl(const WeightRelay* relay, prometheus::Counter* relayed_bytes)
      : relay_(relay), relayed_bytes_(relayed_bytes) {}

  grpc::Status GetManifest(grpc::ServerContext* context, const v1::GetManifestRequest* request,
                           v1::WeightManifest* response) override;
  // NOT_FOUND when the version was not begun here and is not within two seconds (who asks may have
  // had the news before), OUT_OF_RANGE names the chunks that it has, UNAVAILABLE when this worker
  // has given it up, FAILED_PRECONDITION when deltas are asked for and it has none.
  grpc::Status PullChunks(grpc::ServerContext* context, const v1::PullChunksRequest* request,
                          grpc::ServerWriter<v1::WeightChunk>* writer) override;

 private:
  const WeightRelay* const relay_;
  prometheus::Counter* const relayed_bytes_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_RELAY_SERVICE_H_
