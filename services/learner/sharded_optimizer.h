// AdamW over the learner's ranks: each keeps and updates its share of every parameter's optimizer
// state (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054, stages 1 to 3). Alone, it is AdamW
// itself, bit for bit.
//
// With R ranks, rank r owns elements [r s, (r + 1) s) of every flattened parameter of n elements,
// s = ceil(n / R), the last ones fewer. Gradients are summed over the ranks by reduce-scatter, in
// buckets of consecutive parameters, so that a rank receives its share only; it takes AdamW's step
// on its share of the (fp32 master) weights; then the shares of the weights are gathered. With
// stage 3 the shares are all that there is between passes (sharded_parameters.h), and gradients are
// summed unit by unit in the backward pass.
//
// Invariants:
// 1. After Step all ranks hold the same parameters, bit for bit (stage 3: whenever they hold them).
// 2. Exported state is the rank's own part (SliceOf); the parts of any number of ranks, cut anew,
// can
//    be imported by any other number.
//
// Thread rule: one thread; what is marked collective is called by all ranks, in the same order.
#ifndef CRESCENDO_SERVICES_LEARNER_SHARDED_OPTIMIZER_H_
#define CRESCENDO_SERVICES_LEARNER_SHARDED_OPTIMIZER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/policy_model.h"
#include "services/learner/optimizer.h"
#include "services/learner/rank_group.h"
#include "services/learner/sharded_parameters.h"
#include "services/learner/tensor_data.h"

namespace crescendo {

class ShardedAdamW {
 public:
  // `parameters` as AdamW's. `ranks` null: alone; else it outlives this. `zero_stage` 1 sums the
  // gradients over the ranks once an update, 2 after each micro-batch, so that no rank keeps whole
  // gradients.
  ShardedAdamW(std::vector<NamedTensor> parameters, const AdamWOptions& options, RankGroup* ranks,
               int zero_stage);
  // Stage 3: `parameters` are those that `sharded` has shares of. Both outlive it.
  ShardedAdamW(std::vector<NamedTensor> parameters, const AdamWOptions& options, RankGroup* ranks,
               ShardedParameters* sharded);

  // After each backward pass. With stages 2 and 3 it is collective, and a rank without a
  // micro-batch of its own calls it too.
  absl::Status AfterBackward();
  // AfterBackward is called so often by all ranks: the most micro-batches of any. Collective.
  absl::StatusOr<int64_t> Rounds(int64_t own);
  // Stage 3: sums the gradients of a unit of the weights, which are whole. Collective.
  absl::Status ReduceUnit(int unit);
  // Gradients of the whole batch from here on, and their norm (AdamW::GradNorm). Collective.
  absl::StatusOr<double> ReduceGradients();
  // Collective, after ReduceGradients.
  absl::Status Step(double learning_rate, double grad_scale);
  void ZeroGrad();

  int64_t steps() const { return adamw_.steps(); }

  // A batch without micro-batches at any rank: gradients of 0. Not collective.
  void AddGradientsOfZero();

  // This rank's part of a checkpoint: fp32 masters under the parameters' names, and moments,
  // "exp_avg.NAME", "exp_avg_sq.NAME", in parameter order. Not collective.
  TrainerState Export() const;
  // Whether Import would take it: INVALID_ARGUMENT names the tensor that is missing, unknown or
  // doubled, or whose shape, dtype or length is wrong. Not collective.
  absl::Status Check(const TrainerState& part) const;
  // Takes this rank's part, which Check took, and sets the parameters too. Collective.
  absl::Status Import(const TrainerState& part, int64_t steps);
  // All ranks take rank 0's parameters and begin anew. Collective.
  absl::Status Synchronize();

 private:
  // Consecutive parameters whose gradients travel together.
  struct Bucket {
    size_t begin = 0, end = 0;
    int64_t share = 0;  // elements of one rank's part
  };
  TensorSlice RangeOf(size_t parameter, int rank) const;
  int64_t ShareOf(size_t parameter) const;
  at::TensorOptions Options(at::ScalarType dtype) const;  // on the parameters' device
  absl::Status ReduceBucket(const Bucket& bucket);
  absl::Status GatherBucket(const Bucket& bucket);
  absl::Status ReduceAll();
  at::Tensor TakeGradient(size_t parameter);
  std::vector<NamedTensor> MakeShards() const;
  std::vector<Bucket> MakeBuckets() const;
  bool BeginsUnit(size_t parameter) const;
  std::vector<int64_t> WholeShape(size_t parameter) const;

  RankGroup* const ranks_;            // null: alone
  ShardedParameters* const sharded_;  // null: not stage 3
  const int zero_stage_;
  std::vector<NamedTensor> parameters_;  // whole
  std::vector<NamedTensor> shards_;      // views into them, or they themselves, or `sharded_`'s
  std::vector<at::Tensor>
      folded_;  // fp32 sums of bf16 gradients, whole (stage 1); may be undefined
  std::vector<Bucket> buckets_;
  AdamW adamw_;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_SHARDED_OPTIMIZER_H_
