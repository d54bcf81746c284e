// One training step from a plan and its groups: advantages, packing, the trainer, and what the
// step's report says. Shared by the adapter and the simulation. Thread rule: that of Trainer.
#ifndef CRESCENDO_SERVICES_LEARNER_TRAIN_STEP_H_
#define CRESCENDO_SERVICES_LEARNER_TRAIN_STEP_H_

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/domain.h"
#include "services/learner/advantage.h"
#include "services/learner/batch_packer.h"
#include "services/learner/experience.h"
#include "services/learner/policy_loss.h"
#include "services/learner/trainer.h"

namespace crescendo {

// [objective] as the steps of one stage have it.
struct StageObjective {
  RewardOptions reward;
  PackOptions pack;
  PolicyLossOptions loss;
};

struct TrainStepOptions {
  std::vector<StageObjective> stages;  // by StepPlan::stage; the last one holds for all after it
  double learning_rate = 0;            // where the plan says none
};

// Blocks while it trains. Everything of the report but the times. Errors are PackBatch's and
// Trainer::Train's (CANCELLED: given up before anything changed).
absl::StatusOr<BatchSummary> TrainStep(const TrainStepOptions& options, const StepPlan& plan,
                                       const std::vector<GroupExperience>& groups, Trainer& trainer,
                                       const std::function<bool()>& stop);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_TRAIN_STEP_H_
