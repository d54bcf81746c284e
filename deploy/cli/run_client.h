// What the coordinator says of a run, fetched with deadlines and kept together.
#ifndef CRESCENDO_DEPLOY_CLI_RUN_CLIENT_H_
#define CRESCENDO_DEPLOY_CLI_RUN_CLIENT_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/transport.h"
#include "crescendo/v1/coordinator.grpc.pb.h"

namespace crescendo {

// A run as it is known here. Steps and evaluations by their step; a roll-back takes away what it
// must. `evaluations` are those of the first set, the run's curve.
struct RunPicture {
  v1::RunStatus status;
  std::map<int64_t, v1::StepRecord> steps;
  std::map<int64_t, v1::EvaluationResult> evaluations;
  std::map<std::pair<int64_t, std::string>, v1::EvaluationResult> other_evaluations;  // and set
  std::vector<v1::StageStatus> stages;
};

// Not thread-safe.
class RunClient {
 public:
  // Does not connect yet. Errors as of MakeChannel.
  static absl::StatusOr<std::unique_ptr<RunClient>> Make(const std::string& address,
                                                         const Transport& transport);

  // Brings the status up to date, and the history when the status says that there is more of it.
  // Blocks for at most `timeout` a call. On an error the picture is as it was, or partly newer.
  absl::Status Update(absl::Duration timeout, RunPicture* picture);
  // The whole history anew, whatever the status says.
  absl::Status FetchAll(absl::Duration timeout, RunPicture* picture);
  absl::Status SetStage(absl::Duration timeout, const v1::SetStageRequest& request);
  const std::string& address() const { return address_; }

 private:
  RunClient(std::string address, const Transport& transport);
  absl::Status Connect();
  absl::Status FetchStatus(absl::Duration timeout, RunPicture* picture);
  absl::Status FetchHistory(int64_t from_step, absl::Duration timeout, RunPicture* picture);

  const std::string address_;
  const Transport transport_;
  std::unique_ptr<v1::CoordinatorService::Stub> stub_;
};

}  // namespace crescendo

#endif  // CRESCENDO_DEPLOY_CLI_RUN_CLIENT_H_
