// crescendo-rollout serve: the engine and its endpoint alone, of any policy, without a run.
#ifndef CRESCENDO_SERVICES_ROLLOUT_SERVE_COMMAND_H_
#define CRESCENDO_SERVICES_ROLLOUT_SERVE_COMMAND_H_

#include "common/base/clock.h"
#include "common/os/env.h"
#include "common/os/process.h"

namespace crescendo {

// `argv` behind "serve". Serves until a stop is asked for; the exit status. The first line on
// standard output is the endpoint's URL, once it answers.
int ServeCommand(int argc, const char* const* argv, FileSystem& files, Clock* clock,
                 StopSignal& stop);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_ROLLOUT_SERVE_COMMAND_H_
