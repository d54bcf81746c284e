#include "common/rpc/trace_service.h"

#include <google/protobuf/util/json_util.h>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace crescendo {

v1::Trace TraceServiceImpl::Describe() const {
  v1::Trace trace;
  trace.set_service(service_);
  trace.set_instance(instance_);
  for (const LifeMoment& moment : trace_.Moments()) {
    v1::TraceMoment* out = trace.add_moments();
    out->set_kind(std::string(LifeEventName(moment.kind)));
    out->set_group_id(moment.group);
    out->set_sample(moment.sample);
    out->set_step(moment.step);
    out->set_tokens(moment.tokens);
    out->set_worker_id(moment.worker);
    out->set_unix_micros(absl::ToUnixMicros(moment.time));
  }
  return trace;
}

grpc::Status TraceServiceImpl::GetTrace(grpc::ServerContext*, const v1::GetTraceRequest*,
                                        v1::Trace* response) {
  *response = Describe();
  return grpc::Status::OK;
}

std::string TraceFolder(const std::string& run_folder) { return JoinPath(run_folder, "trace"); }

absl::Status TraceServiceImpl::Save(FileSystem& files, const std::string& run_folder) const {
  if (!files.IsDirectory(run_folder)) return absl::OkStatus();
  std::string text;
  const auto written = google::protobuf::util::MessageToJsonString(Describe(), &text);
  if (!written.ok()) return absl::InternalError("the trace cannot be written as JSON");
  const std::string folder = TraceFolder(run_folder);
  RETURN_IF_ERROR(files.MakeDirs(folder));
  return files.WriteFile(JoinPath(folder, absl::StrCat(instance_, ".json")), text);
}

absl::StatusOr<v1::Trace> ReadTrace(FileSystem& files, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, limits::kTraceFileBytesMax));
  v1::Trace trace;
  if (!google::protobuf::util::JsonStringToMessage(text, &trace).ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected the trace of a service"));
  }
  return trace;
}

}  // namespace crescendo
