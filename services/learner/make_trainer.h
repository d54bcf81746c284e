// The real trainer of a run. Its own unit, so that main sees neither LibTorch nor its headers.
#ifndef CRESCENDO_SERVICES_LEARNER_MAKE_TRAINER_H_
#define CRESCENDO_SERVICES_LEARNER_MAKE_TRAINER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "common/config/run_config.h"
#include "common/os/env.h"
#include "services/learner/trainer.h"

namespace crescendo {

// Loads the policy. Call it from the thread that will train. `files` outlives the trainer.
absl::StatusOr<std::unique_ptr<Trainer>> MakeTrainer(FileSystem& files, const RunConfig& config);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_MAKE_TRAINER_H_
