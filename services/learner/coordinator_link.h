// The learner's calls to the coordinator, behind an interface so that a test can stand in for it.
//
// Thread rule: calls come from one thread; Cancel from any. Every call has a deadline and blocks
// until then at most; errors name the coordinator, the call and how long was waited.
#ifndef CRESCENDO_SERVICES_LEARNER_COORDINATOR_LINK_H_
#define CRESCENDO_SERVICES_LEARNER_COORDINATOR_LINK_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/domain.h"
#include "common/base/lease_key.h"
#include "common/rpc/transport.h"
#include "services/learner/learner_state.h"

namespace crescendo {

struct NextStepAnswer {
  LearnerDirective directive = LearnerDirective::kUnspecified;
  StepPlan plan;  // with kTrain
};

struct AttachAnswer {
  int64_t steps_rolled_back = 0;
  LeaseSecret leases;
};

class CoordinatorLink {
 public:
  virtual ~CoordinatorLink() = default;
  // The run that the last Attach was to; empty before.
  virtual std::string run_id() const { return ""; }
  virtual absl::StatusOr<AttachAnswer> Attach(int64_t steps_trained,
                                              const std::string& incarnation) = 0;
  // Long poll of at most `wait`.
  virtual absl::StatusOr<NextStepAnswer> NextStep(StepId step, const std::string& incarnation,
                                                  absl::Duration wait) = 0;
  virtual absl::Status Report(const StepReport& report, const std::string& incarnation) = 0;
  // Ends the call under way, and every later one, with CANCELLED.
  virtual void Cancel() = 0;
};

struct CoordinatorLinkOptions {
  std::string coordinator;  // host:port
  std::string
      learner_address;  // host:port that workers reach ExperienceService and WeightsService at
  std::string config_digest;
  Resources resources = {};  // that the process holds, for the cost meter
  Transport transport = {};
  absl::Duration rpc_timeout = absl::Seconds(10);
};

// Does not connect yet. Errors are those of MakeChannel.
absl::StatusOr<std::unique_ptr<CoordinatorLink>> MakeCoordinatorLink(
    const CoordinatorLinkOptions& options);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_COORDINATOR_LINK_H_
