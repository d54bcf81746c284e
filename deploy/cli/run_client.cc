#include "deploy/cli/run_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"

namespace crescendo {
namespace {

constexpr uint32_t kPage = 2000;
// An evaluation of step k can end after step k was fetched: look back a little.
constexpr int64_t kLookBack = 2;

}  // namespace

absl::StatusOr<std::unique_ptr<RunClient>> RunClient::Make(const std::string& address,
                                                           const Transport& transport) {
  std::unique_ptr<RunClient> client(new RunClient(address, transport));
  RETURN_IF_ERROR(client->Connect());
  return client;
}

RunClient::RunClient(std::string address, const Transport& transport)
    : address_(std::move(address)), transport_(transport) {}

absl::Status RunClient::Connect() {
  ASSIGN_OR_RETURN(auto channel,
                   MakeChannel(address_, "coordinator", transport_, {Role::kCoordinator}));
  stub_ = v1::CoordinatorService::NewStub(std::move(channel));
  return absl::OkStatus();
}

absl::Status RunClient::FetchStatus(absl::Duration timeout, RunPicture* picture) {
  v1::RunStatus status;
  absl::Status called =
      Call(timeout, absl::StrCat("the coordinator at ", address_, " for the status"),
           [&](grpc::ClientContext* context) {
             return stub_->GetStatus(context, v1::GetStatusRequest(), &status);
           });
  if (!called.ok()) {
    // A new channel tries at once; the old one would wait, on a busy machine for seconds.
    RETURN_IF_ERROR(Connect());
    // What a server with TLS does with a client that speaks plain text, from the first call on.
    const bool first = picture->status.run_id().empty();
    const bool closed =
        first && transport_.tls == nullptr && absl::StrContains(called.message(), "closed");
    return closed ? Annotate(called,
                             "plain text was refused; a run with TLS wants "
                             "--security.directory=DIR with its certificates")
                  : called;
  }
  picture->status = std::move(status);
  picture->steps.erase(picture->steps.lower_bound(picture->status.step()), picture->steps.end());
  picture->evaluations.erase(picture->evaluations.upper_bound(picture->status.step()),
                             picture->evaluations.end());
  picture->other_evaluations.erase(
      picture->other_evaluations.lower_bound({picture->status.step() + 1, ""}),
      picture->other_evaluations.end());
  picture->stages.assign(picture->status.stages().begin(), picture->status.stages().end());
  return absl::OkStatus();
}

absl::Status RunClient::FetchHistory(int64_t from_step, absl::Duration timeout,
                                     RunPicture* picture) {
  const int64_t end = picture->status.step();
  while (true) {
    v1::GetHistoryRequest request;
    request.set_from_step(from_step);
    request.set_max(kPage);
    v1::GetHistoryResponse response;
    RETURN_IF_ERROR(Call(timeout, absl::StrCat("the coordinator at ", address_, " for the history"),
                         [&](grpc::ClientContext* context) {
                           return stub_->GetHistory(context, request, &response);
                         }));
    for (const v1::StepRecord& step : response.steps()) picture->steps[step.step()] = step;
    for (const v1::EvaluationResult& evaluation : response.evaluations()) {
      const bool first = !picture->status.has_last_evaluation() ||
                         evaluation.set() == picture->status.last_evaluation().set();
      if (first) {
        picture->evaluations[evaluation.step()] = evaluation;
      } else {
        picture->other_evaluations[{evaluation.step(), evaluation.set()}] = evaluation;
      }
    }
    picture->stages.assign(response.stages().begin(), response.stages().end());
    if (response.steps_size() < static_cast<int>(kPage)) return absl::OkStatus();
    from_step = response.steps(response.steps_size() - 1).step() + 1;
    if (from_step >= end) return absl::OkStatus();
  }
}

absl::Status RunClient::Update(absl::Duration timeout, RunPicture* picture) {
  RETURN_IF_ERROR(FetchStatus(timeout, picture));
  const v1::RunStatus& status = picture->status;
  const bool steps_missing = static_cast<int64_t>(picture->steps.size()) < status.step();
  bool evaluation_missing = status.has_last_evaluation() &&
                            picture->evaluations.count(status.last_evaluation().step()) == 0;
  for (int i = 1; i < status.last_evaluations_size(); ++i) {
    const v1::EvaluationResult& last = status.last_evaluations(i);
    evaluation_missing |= picture->other_evaluations.count({last.step(), last.set()}) == 0;
  }
  if (!steps_missing && !evaluation_missing) return absl::OkStatus();
  const int64_t from =
      std::max<int64_t>(0, static_cast<int64_t>(picture->steps.size()) - kLookBack);
  return FetchHistory(picture->evaluations.empty() ? 0 : from, timeout, picture);
}

absl::Status RunClient::SetStage(absl::Duration timeout, const v1::SetStageRequest& request) {
  v1::SetStageResponse response;
  return Call(
      timeout, absl::StrCat("the coordinator at ", address_, " to set the stage"),
      [&](grpc::ClientContext* context) { return stub_->SetStage(context, request, &response); });
}

absl::Status RunClient::FetchAll(absl::Duration timeout, RunPicture* picture) {
  RETURN_IF_ERROR(FetchStatus(timeout, picture));
  picture->steps.clear();
  picture->evaluations.clear();
  picture->other_evaluations.clear();
  return FetchHistory(0, timeout, picture);
}

}  // namespace crescendo
