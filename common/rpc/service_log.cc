#include "common/rpc/service_log.h"

#include "common/os/posix_env.h"
#include "common/rpc/grpc_log.h"

namespace crescendo {

Logger MakeServiceLog(const LogSection& config, absl::string_view service,
                      absl::string_view instance, Clock* clock) {
  const auto make = [&](Clock* of) {
    return Logger(service, instance, ParseLogLevel(config.level).value_or(LogLevel::kInfo), of,
                  StderrSink(), ParseLogFormat(config.format).value_or(LogFormat::kLogfmt));
  };
  // gRPC's threads may have something to say after the service's own clock is gone.
  static Clock* const lasting = MakeRealClock().release();
  SendGrpcLogTo(make(lasting));
  return make(clock);
}

}  // namespace crescendo
