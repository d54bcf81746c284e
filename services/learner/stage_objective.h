// From the run's configuration to the options of the learner's parts. Pure.
#ifndef CRESCENDO_SERVICES_LEARNER_STAGE_OBJECTIVE_H_
#define CRESCENDO_SERVICES_LEARNER_STAGE_OBJECTIVE_H_

#include "absl/status/statusor.h"
#include "common/config/run_config.h"
#include "services/learner/lr_schedule.h"
#include "services/learner/policy_loss.h"
#include "services/learner/train_step.h"

namespace crescendo {

// INVALID_ARGUMENT names the key.
absl::StatusOr<PolicyLossOptions> MakeLossOptions(const ObjectiveSection& objective);
// `objective`: that of one stage.
absl::StatusOr<StageObjective> MakeStageObjective(const RunConfig& config,
                                                  const ObjectiveSection& objective);
// [optimizer]'s, without the peak.
absl::StatusOr<LrSchedule> MakeSchedule(const RunConfig& config);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_STAGE_OBJECTIVE_H_
