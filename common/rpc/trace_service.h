// The moments of a process's LifeTrace for whoever asks, and in the run's folder at the end.
#ifndef CRESCENDO_COMMON_RPC_TRACE_SERVICE_H_
#define CRESCENDO_COMMON_RPC_TRACE_SERVICE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/metrics/life_trace.h"
#include "common/os/env.h"
#include "crescendo/v1/trace.grpc.pb.h"

namespace crescendo {

// Thread-safe. `trace` outlives it.
class TraceServiceImpl : public v1::TraceService::Service {
 public:
  TraceServiceImpl(std::string service, std::string instance, const LifeTrace* trace)
      : service_(std::move(service)), instance_(std::move(instance)), trace_(*trace) {}

  grpc::Status GetTrace(grpc::ServerContext* context, const v1::GetTraceRequest* request,
                        v1::Trace* response) override;

  // Writes RUN/trace/INSTANCE.json, so that a run that is over can be looked at too. Where the
  // run's folder is not there (another machine's), nothing is written. Errors of the file system.
  absl::Status Save(FileSystem& files, const std::string& run_folder) const;

 private:
  v1::Trace Describe() const;

  const std::string service_, instance_;
  const LifeTrace& trace_;
};

std::string TraceFolder(const std::string& run_folder);
absl::StatusOr<v1::Trace> ReadTrace(FileSystem& files, const std::string& path);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_TRACE_SERVICE_H_
