// What the core shows of the run, on the wire. Pure; thread-safe.
#ifndef CRESCENDO_SERVICES_COORDINATOR_VIEW_TO_PROTO_H_
#define CRESCENDO_SERVICES_COORDINATOR_VIEW_TO_PROTO_H_

#include "crescendo/v1/coordinator.pb.h"
#include "services/coordinator/run_view.h"

namespace crescendo {

v1::RunStatus ToProto(const RunView& view);
v1::GetHistoryResponse ToProto(const HistoryView& view);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_COORDINATOR_VIEW_TO_PROTO_H_
