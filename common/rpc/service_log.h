// The logger of a service, as its run's configuration says; gRPC's own lines go there too.
#ifndef CRESCENDO_COMMON_RPC_SERVICE_LOG_H_
#define CRESCENDO_COMMON_RPC_SERVICE_LOG_H_

#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/config/run_config.h"
#include "common/os/log.h"

namespace crescendo {

// On standard error. `clock` outlives the logger.
Logger MakeServiceLog(const LogSection& config, absl::string_view service,
                      absl::string_view instance, Clock* clock);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_RPC_SERVICE_LOG_H_
