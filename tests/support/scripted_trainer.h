// A trainer without tensors: its weights are a hash of everything it was trained on, so two runs
// that trained the same have the same weights, and a test sees from the bytes what was trained.
#ifndef CRESCENDO_TESTS_SUPPORT_SCRIPTED_TRAINER_H_
#define CRESCENDO_TESTS_SUPPORT_SCRIPTED_TRAINER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "services/learner/trainer.h"

namespace crescendo {

class ScriptedTrainer : public Trainer {
 public:
  explicit ScriptedTrainer(int vocabulary) : vocabulary_(vocabulary) {}

  absl::StatusOr<StepResult> Train(const TrainRequest& request,
                                   const std::function<bool()>& stop) override {
    if (stop()) return absl::CancelledError("scripted trainer: stopped");
    StepResult result;
    result.learning_rate = request.learning_rate;
    result.skipped = skip_next_;
    result.phases = {.forward = 1, .backward = 2, .optimizer = 3};
    if (skip_next_) return result;
    for (const MiniBatch& mini : request.mini_batches) {
      for (const PackedMicroBatch& micro : mini.micro_batches) {
        for (int32_t token : micro.targets)
          weight_ = MixSeed(weight_, static_cast<uint64_t>(token));
      }
    }
    weight_ = MixSeed(weight_, static_cast<uint64_t>(request.step.value()));
    ++updates_;
    return result;
  }
  absl::StatusOr<std::vector<TensorData>> ExportWeights() override {
    return std::vector<TensorData>{Tensor("weight", weight_)};
  }
  absl::StatusOr<TrainerState> ExportState() override {
    TrainerState state;
    state.weights = {Tensor("weight", weight_)};
    state.optimizer = {Tensor("moment", ~weight_)};
    state.extra_json = absl::StrCat(updates_);
    return state;
  }
  absl::Status ImportState(const TrainerState& state) override {
    if (state.weights.size() != 1 || !absl::SimpleHexAtoi(state.weights[0].bytes, &weight_) ||
        !absl::SimpleAtoi(state.extra_json, &updates_)) {
      return absl::InvalidArgumentError("scripted trainer: not its state");
    }
    return absl::OkStatus();
  }
  absl::Status SavePolicy(const std::string& folder) override {
    saved_to_ = folder;
    return absl::OkStatus();
  }
  int vocabulary_size() const override { return vocabulary_; }

  uint64_t weight() const { return weight_; }
  int64_t updates() const { return updates_; }
  const std::string& saved_to() const { return saved_to_; }
  void SkipFromNowOn(bool skip) { skip_next_ = skip; }

 private:
  static TensorData Tensor(const std::string& name, uint64_t value) {
    return {name, "U8", {16}, std::string(absl::StrCat(absl::Hex(value, absl::kZeroPad16)))};
  }

  int vocabulary_;
  uint64_t weight_ = 1;
  int64_t updates_ = 0;
  bool skip_next_ = false;
  std::string saved_to_;
};

}  // namespace crescendo

#endif  // CRESCENDO_TESTS_SUPPORT_SCRIPTED_TRAINER_H_
