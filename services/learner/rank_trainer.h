// The trainer of a run with several ranks. Rank 0 has a RankTrainer: it deals each step's samples
// out, tells the others what to do, and does its own part; the others are in ServeRank.
//
// Thread rule: as Trainer.
#ifndef CRESCENDO_SERVICES_LEARNER_RANK_TRAINER_H_
#define CRESCENDO_SERVICES_LEARNER_RANK_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/os/env.h"
#include "services/learner/rank_group.h"
#include "services/learner/trainer.h"

namespace crescendo {

class RankTrainer : public Trainer {
 public:
  // `local` trains as rank 0 of `ranks`. `on_imbalance`, when set, is told of each step how much
  // more the fullest rank computes than the mean (RankImbalance, the worst of its mini-batches).
  RankTrainer(std::unique_ptr<RankGroup> ranks, std::unique_ptr<Trainer> local,
              int microbatch_tokens, std::function<void(double)> on_imbalance);
  // Lets the other ranks end.
  ~RankTrainer() override;

  absl::StatusOr<StepResult> Train(const TrainRequest& request,
                                   const std::function<bool()>& stop) override;
  // Rank 0's part alone; nobody else is asked.
  absl::StatusOr<TrainerState> ExportState() override { return local_->ExportState(); }
  // FAILED_PRECONDITION: the others' parts are in a folder (Restore).
  absl::Status ImportState(const TrainerState& state) override;
  int ranks() const override { return ranks_->size(); }
  absl::StatusOr<TrainerState> BeginCheckpoint(const std::string& folder) override;
  absl::StatusOr<std::vector<std::string>> AwaitParts() override;
  absl::Status Restore(const TrainerState& part, const std::string& folder) override;
  absl::Status Check() override { return ranks_->Check(); }

  // Rank 0 alone, or all where weights are shared out (Trainer::sharded).
  absl::StatusOr<std::vector<TensorData>> ExportWeights() override;
  absl::Status SavePolicy(const std::string& folder) override;
  absl::StatusOr<std::vector<double>> SampleKl(const PackedMicroBatch& micro,
                                               KlEstimator estimator) override;
  double kl_scale() const override { return local_->kl_scale(); }
  int vocabulary_size() const override { return local_->vocabulary_size(); }

 private:
  absl::Status Tell(absl::Status status);

  const std::unique_ptr<RankGroup> ranks_;
  const std::unique_ptr<Trainer> local_;
  const int microbatch_tokens_;
  const std::function<void(double)> on_imbalance_;
  int64_t checkpoints_ = 0;  // begun; AwaitParts is of the last one
};

// What a rank above 0 does: follows rank 0 until that says that the run is over (OK). Its parts of
// checkpoints go into `files`, by a thread of its own, one at a time. Blocks. ABORTED when a rank
// is gone.
absl::Status ServeRank(RankGroup& ranks, Trainer& local, FileSystem& files);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_RANK_TRAINER_H_
