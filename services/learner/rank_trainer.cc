#include "services/learner/rank_trainer.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "services/learner/checkpoint_files.h"
#include "services/learner/rank_balance.h"
#include "services/learner/rank_wire.h"

namespace crescendo {
namespace {

constexpr char kTrain[] = "train";
constexpr char kCheckpoint[] = "checkpoint ";  // its number, and the folder
constexpr char kRestore[] = "restore ";        // the folder
constexpr char kWeights[] = "export weights";
constexpr char kSave[] = "save policy";
constexpr char kSampleKl[] = "sample kl";
constexpr char kEnd[] = "end";
constexpr size_t kRequestBytesMax = size_t{16} << 30;
constexpr char kWritten[] = "ok ";  // begins a note of a part that was written

std::string PartNote(int64_t checkpoint) { return absl::StrCat("checkpoint part ", checkpoint); }

// An announcement is followed by a collective.
absl::Status Meet(RankGroup& ranks, absl::string_view what) {
  double here = 1;
  return ranks.Sum(absl::MakeSpan(&here, 1), what);
}

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

absl::Status RankTrainer::ImportState(const TrainerState&) {
  return absl::FailedPreconditionError("several ranks take over their parts from a folder");
}

absl::StatusOr<TrainerState> RankTrainer::BeginCheckpoint(const std::string& folder) {
  ++checkpoints_;
  RETURN_IF_ERROR(ranks_->Announce(absl::StrCat(kCheckpoint, checkpoints_, " ", folder)));
  absl::StatusOr<TrainerState> part = local_->ExportState();
  RETURN_IF_ERROR(Tell(part.status()));
  RETURN_IF_ERROR(Meet(*ranks_, "beginning a checkpoint"));
  return part;
}

absl::StatusOr<std::vector<std::string>> RankTrainer::AwaitParts() {
  std::vector<std::string> written;
  for (int r = 1; r < ranks_->size(); ++r) {
    ASSIGN_OR_RETURN(const std::string note, ranks_->AwaitNote(r, PartNote(checkpoints_)));
    absl::string_view files = note;
    if (!absl::ConsumePrefix(&files, kWritten)) {
      return absl::UnavailableError(absl::StrCat("rank ", r, ": ", note));
    }
    written.emplace_back(files);
  }
  return written;
}

absl::Status RankTrainer::Restore(const TrainerState& part, const std::string& folder) {
  RETURN_IF_ERROR(ranks_->Announce(absl::StrCat(kRestore, folder)));
  return Tell(local_->ImportState(part));
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

// Writes this rank's parts of checkpoints, one at a time, and tells rank 0.
class PartWriter {
 public:
  PartWriter(RankGroup& ranks, FileSystem& files) : ranks_(ranks), files_(files) {}
  ~PartWriter() {
    if (writing_.joinable()) writing_.join();
  }
  // Waits for the last one, which rank 0 has given up or finished.
  void Begin(TrainerState part, const std::string& folder, int64_t checkpoint) {
    if (writing_.joinable()) writing_.join();
    writing_ = std::thread([this, part = std::move(part), folder, checkpoint] {
      const absl::StatusOr<std::string> written = WritePart(files_, folder, part);
      const std::string note =
          written.ok() ? absl::StrCat(kWritten, *written) : written.status().ToString();
      // Without the note rank 0 gives the checkpoint up, or is gone.
      (void)ranks_.LeaveNote(PartNote(checkpoint), note);
    });
  }

 private:
  RankGroup& ranks_;
  FileSystem& files_;
  std::thread writing_;
};

absl::Status BeginPart(RankGroup& ranks, Trainer& local, absl::string_view words,
                       PartWriter& writer) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(words, absl::MaxSplits(' ', 1));
  int64_t checkpoint = 0;
  if (!absl::SimpleAtoi(parts.first, &checkpoint)) {
    return absl::InternalError(absl::StrCat("checkpoint of no number: \"", words, "\""));
  }
  ASSIGN_OR_RETURN(TrainerState part, local.ExportState());
  RETURN_IF_ERROR(Meet(ranks, "beginning a checkpoint"));
  writer.Begin(std::move(part), std::string(parts.second), checkpoint);
  return absl::OkStatus();
}

absl::Status Follow(RankGroup& ranks, Trainer& local, const std::string& command, FileSystem& files,
                    PartWriter& writer) {
  if (command == kTrain) {
    ASSIGN_OR_RETURN(const std::string bytes,
                     ranks.Receive(0, kRequestBytesMax, "a step's part of rank 0"));
    ASSIGN_OR_RETURN(const TrainRequest request, DecodeTrainRequest(bytes));
    const absl::Status trained = local.Train(request, nullptr).status();
    // Rank 0 was told to stop: nothing has changed.
    return absl::IsCancelled(trained) ? absl::OkStatus() : trained;
  }
  absl::string_view words = command;
  if (absl::ConsumePrefix(&words, kCheckpoint)) return BeginPart(ranks, local, words, writer);
  if (absl::ConsumePrefix(&words, kRestore)) {
    ASSIGN_OR_RETURN(const TrainerState part,
                     ReadPart(files, std::string(words), ranks.rank(), ranks.size()));
    return local.ImportState(part);
  }
  if (command == kWeights) return local.ExportWeights().status();
  if (command == kSave) return local.SavePolicy("");
  if (command == kSampleKl) return local.SampleKl(PackedMicroBatch(), KlEstimator::kK1).status();
  return absl::InternalError(
      absl::StrCat("rank ", ranks.rank(), ": unknown command \"", command, "\""));
}

}  // namespace

absl::Status ServeRank(RankGroup& ranks, Trainer& local, FileSystem& files) {
  PartWriter writer(ranks, files);
  while (true) {
    ASSIGN_OR_RETURN(const std::string command, ranks.AwaitAnnouncement());
    if (command == kEnd) return ranks.Send(0, "bye", "goodbye");
    const absl::Status status = Follow(ranks, local, command, files, writer);
    if (status.ok()) continue;
    ranks.Tell(status);
    return status;
  }
}

}  // namespace crescendo
