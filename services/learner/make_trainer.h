// The real trainer of a run. Its own unit, so that main sees neither LibTorch nor its headers.
#ifndef CRESCENDO_SERVICES_LEARNER_MAKE_TRAINER_H_
#define CRESCENDO_SERVICES_LEARNER_MAKE_TRAINER_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/config/run_config.h"
#include "common/os/env.h"
#include "services/learner/rank_environment.h"
#include "services/learner/trainer.h"

namespace crescendo {

// Where this process stands among the learner's ranks.
struct RankSetup {
  RankEnvironment ranks;
  std::function<bool()> stopped;             // ends the wait for the others
  std::function<void(double)> on_imbalance;  // RankTrainer's; may be empty
  Clock* clock = nullptr;                    // TorchTrainerOptions'
};

// Loads the policy; with several ranks, meets the others first and leads them. Requires rank 0.
// Call it from the thread that will train. `files` outlives the trainer.
absl::StatusOr<std::unique_ptr<Trainer>> MakeTrainer(FileSystem& files, const RunConfig& config,
                                                     const RankSetup& setup);

// The life of a rank above 0: trains its part of each step until rank 0 ends. Errors are
// RankGroup::Join's, PolicyModel::Load's and ServeRank's.
absl::Status RunRank(FileSystem& files, const RunConfig& config, const RankSetup& setup);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_MAKE_TRAINER_H_
