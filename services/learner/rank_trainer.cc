#include "services/learner/rank_trainer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/learner/rank_balance.h"
#include "services/learner/rank_wire.h"

namespace crescendo {
namespace {

constexpr char kTrain[] = "train";
constexpr char kExport[] = "export state";
constexpr char kImport[] = "import state";
constexpr char kWeights[] = "export weights";
constexpr char kSave[] = "save policy";
constexpr char kSampleKl[] = "sample kl";
constexpr char kEnd[] = "end";
constexpr size_t kRequestBytesMax = size_t{16} << 30;

}  // namespace

RankTrainer::RankTrainer(std::unique_ptr<RankGroup> ranks, std::unique_ptr<Trainer> local,
                         int microbatch_tokens, std::function<void(double)> on_imbalance)
    : ranks_(std::move(ranks)),
      local_(std::move(local)),
      microbatch_tokens_(microbatch_tokens),
      on_imbalance_(std::move(on_imbalance)) {}

RankTrainer::~RankTrainer() {
  // Each says that it has heard, for the rendezvous goes with this process.
  if (!ranks_->Announce(kEnd).ok()) return;
  for (int r = 1; r < ranks_->size(); ++r) (void)ranks_->Receive(r, 16, "goodbye");
}

// The other ranks are told why this one ends.
absl::Status RankTrainer::Tell(absl::Status status) {
  if (!status.ok() && !absl::IsCancelled(status)) ranks_->Tell(status);
  return status;
}

absl::StatusOr<StepResult> RankTrainer::Train(const TrainRequest& request,
                                              const std::function<bool()>& stop) {
  if (stop && stop()) {
    return absl::CancelledError(
        absl::StrCat("step ", request.step.value(), " was stopped before it began"));
  }
  const auto ranks = static_cast<size_t>(ranks_->size());
  std::vector<TrainRequest> parts(ranks);
  for (TrainRequest& part : parts) {
    part.step = request.step;
    part.learning_rate = request.learning_rate;
    part.loss = request.loss;
    part.reward_kl = request.reward_kl;
  }
  double imbalance = 1;
  for (const MiniBatch& mini : request.mini_batches) {
    std::vector<MiniBatch> split = SplitOverRanks(mini, ranks_->size(), microbatch_tokens_);
    imbalance = std::max(imbalance, RankImbalance(split));
    for (size_t r = 0; r < ranks; ++r) parts[r].mini_batches.push_back(std::move(split[r]));
  }
  if (on_imbalance_) on_imbalance_(imbalance);
  RETURN_IF_ERROR(ranks_->Announce(kTrain));
  for (size_t r = 1; r < ranks; ++r) {
    RETURN_IF_ERROR(ranks_->Send(static_cast<int>(r), EncodeTrainRequest(parts[r]),
                                 absl::StrCat("giving out step ", request.step.value())));
  }
  absl::StatusOr<StepResult> result = local_->Train(parts[0], stop);
  RETURN_IF_ERROR(Tell(result.status()));
  return result;
}

absl::StatusOr<TrainerState> RankTrainer::ExportState() {
  RETURN_IF_ERROR(ranks_->Announce(kExport));
  absl::StatusOr<TrainerState> state = local_->ExportState();
  RETURN_IF_ERROR(Tell(state.status()));
  return state;
}

absl::Status RankTrainer::ImportState(const TrainerState& state) {
  RETURN_IF_ERROR(ranks_->Announce(kImport));
  return Tell(local_->ImportState(state));
}

absl::StatusOr<std::vector<TensorData>> RankTrainer::ExportWeights() {
  if (!local_->sharded()) return local_->ExportWeights();
  RETURN_IF_ERROR(ranks_->Announce(kWeights));
  absl::StatusOr<std::vector<TensorData>> weights = local_->ExportWeights();
  RETURN_IF_ERROR(Tell(weights.status()));
  return weights;
}

absl::Status RankTrainer::SavePolicy(const std::string& folder) {
  if (!local_->sharded()) return local_->SavePolicy(folder);
  RETURN_IF_ERROR(ranks_->Announce(kSave));
  return Tell(local_->SavePolicy(folder));
}

absl::StatusOr<std::vector<double>> RankTrainer::SampleKl(const PackedMicroBatch& micro,
                                                          KlEstimator estimator) {
  if (!local_->sharded()) return local_->SampleKl(micro, estimator);
  RETURN_IF_ERROR(ranks_->Announce(kSampleKl));
  absl::StatusOr<std::vector<double>> sums = local_->SampleKl(micro, estimator);
  RETURN_IF_ERROR(Tell(sums.status()));
  return sums;
}

namespace {

absl::Status Follow(RankGroup& ranks, Trainer& local, const std::string& command) {
  if (command == kTrain) {
    ASSIGN_OR_RETURN(const std::string bytes,
                     ranks.Receive(0, kRequestBytesMax, "a step's part of rank 0"));
    ASSIGN_OR_RETURN(const TrainRequest request, DecodeTrainRequest(bytes));
    const absl::Status trained = local.Train(request, nullptr).status();
    // Rank 0 was told to stop: nothing has changed.
    return absl::IsCancelled(trained) ? absl::OkStatus() : trained;
  }
  if (command == kExport) return local.ExportState().status();
  if (command == kWeights) return local.ExportWeights().status();
  if (command == kSave) return local.SavePolicy("");
  if (command == kSampleKl) return local.SampleKl(PackedMicroBatch(), KlEstimator::kK1).status();
  if (command == kImport) return local.ImportState(TrainerState());
  return absl::InternalError(
      absl::StrCat("rank ", ranks.rank(), ": unknown command \"", command, "\""));
}

}  // namespace

absl::Status ServeRank(RankGroup& ranks, Trainer& local) {
  while (true) {
    ASSIGN_OR_RETURN(const std::string command, ranks.AwaitAnnouncement());
    if (command == kEnd) return ranks.Send(0, "bye", "goodbye");
    const absl::Status status = Follow(ranks, local, command);
    if (status.ok()) continue;
    ranks.Tell(status);
    return status;
  }
}

}  // namespace crescendo
