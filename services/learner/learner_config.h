// From the run's configuration to the options of the learner's parts. Pure.
#ifndef CRESCENDO_SERVICES_LEARNER_LEARNER_CONFIG_H_
#define CRESCENDO_SERVICES_LEARNER_LEARNER_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/config/run_config.h"
#include "services/learner/checkpoint.h"
#include "services/learner/learner_host.h"

namespace crescendo {

// Memory for samples: twice what admission control can let be in flight at once, so that only a
// worker that sends what was never leased can meet the bound.
int64_t ExperienceBytesMax(const RunConfig& config);

// INVALID_ARGUMENT names the key of [objective].
absl::StatusOr<LearnerHostOptions> MakeHostOptions(const RunConfig& config, int vocabulary_size,
                                                   const std::string& incarnation);
CheckpointOptions MakeCheckpointOptions(const RunConfig& config);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_LEARNER_CONFIG_H_
