// The trainer of a run with several ranks. Rank 0 has a RankTrainer: it deals each step's samples
// out, tells the others what to do, and does its own part; the others are in ServeRank.
//
// Thread rule: as Trainer.
#ifndef CRESCENDO_SERVICES_LEARNER_RANK_TRAINER_H_
#define CRESCENDO_SERVICES_LEARNER_RANK_TRAINER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
  absl::StatusOr<TrainerState> ExportState() override;
  absl::Status ImportState(const TrainerState& state) override;
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
};

// What a rank above 0 does: follows rank 0 until that says that the run is over (OK). Blocks.
// ABORTED when a rank is gone.
absl::Status ServeRank(RankGroup& ranks, Trainer& local);

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_RANK_TRAINER_H_
