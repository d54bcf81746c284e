// A model's weights shared out over the learner's ranks (ZeRO stage 3, Rajbhandari et al. 2020,
// arXiv:1910.02054, section 5.3): of every parameter a rank keeps its share, as ShardedAdamW's, in
// the model's dtype. A unit of the weights (weight_watcher.h) is gathered when a pass begins to use
// it and given back when the pass does not use it any more; nothing else is ever whole.
//
// Invariants:
// 1. The model's parameters keep their shape and storage; between uses the storage has no memory.
// 2. Every pass over the model is collective: a rank without tokens of its own makes
//    PassForward / PassBackward instead, which call the same collectives in the same order.
//
// Thread rule: one thread. What a WeightWatcher calls throws when a collective fails; status() then
// says why, and stays so.
#ifndef CRESCENDO_SERVICES_LEARNER_SHARDED_PARAMETERS_H_
#define CRESCENDO_SERVICES_LEARNER_SHARDED_PARAMETERS_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/model/policy_model.h"
#include "common/model/weight_watcher.h"
#include "services/learner/rank_group.h"

namespace crescendo {

class ShardedParameters : public WeightWatcher {
 public:
  // `ranks` outlives it, with more than one rank.
  explicit ShardedParameters(RankGroup* ranks) : ranks_(*ranks) {}

  // For LoadOptions::after_unit, unit after unit: takes this rank's share of rank 0's weights, and
  // their memory away. Collective.
  absl::Status AddUnit(absl::Span<const NamedTensor> parameters);
  // After loading: from now on the model's passes go through this, which outlives them.
  void Attach(PolicyModel& model);
  // Of a model that is trained: called in each backward pass as soon as the gradients of a unit but
  // the embedding are whole, in the same order by all ranks. Outlives the passes.
  void SetReduce(std::function<absl::Status(int unit)> reduce) { reduce_ = std::move(reduce); }

  void BeforeUse(int unit) override;
  void AfterUse(int unit) override;

  // What a pass over no tokens is to the other ranks. Throw as BeforeUse does.
  void PassForward();
  void PassBackward();

  int units() const { return static_cast<int>(units_.size()); }
  // Parameters [first, second) of a unit.
  std::pair<size_t, size_t> RangeOf(int unit) const;
  // This rank's share of every parameter, flat, in the model's dtype: what its optimizer steps on.
  const std::vector<NamedTensor>& shards() const { return shards_; }
  // Where in its flattened parameter a share begins.
  int64_t BeginOf(size_t parameter) const { return begins_[parameter]; }

  // Why a pass threw.
  const absl::Status& status() const { return failed_; }
  // Bytes of weights here now (shares, gathered units, what travels), and the most there were.
  int64_t resident_bytes() const { return resident_; }
  int64_t resident_bytes_max() const { return resident_max_; }
  // Those of all weights, as without shares.
  int64_t whole_bytes() const { return whole_; }

 private:
  struct Unit {
    size_t begin = 0;                 // its parameters, shards
    std::vector<at::Tensor> tensors;  // the model's
    std::vector<c10::Storage> storages;
    std::vector<size_t> storage_bytes;
    at::Tensor own;     // [packed], the shares that travel together; the shards are views of it
    int64_t bytes = 0;  // of all storages
    int uses = 0;
  };
  int64_t ShareOf(const at::Tensor& tensor) const;
  bool TravelsAlone(const at::Tensor& tensor) const;
  void Keep(int64_t bytes);
  void GiveMemory(Unit& unit);
  void TakeMemory(Unit& unit);
  absl::Status TakeShares(Unit& unit, absl::Span<const NamedTensor> parameters);
  absl::Status Gather(Unit& unit);
  absl::Status GatherPacked(Unit& unit);
  void AfterLayer(int layer);

  RankGroup& ranks_;
  std::vector<Unit> units_;
  std::vector<NamedTensor> shards_;
  std::vector<int64_t> begins_;  // of the shards
  int head_unit_ = 0;
  std::function<absl::Status(int)> reduce_;
  absl::Status failed_;
  int64_t resident_ = 0, resident_max_ = 0, whole_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_SERVICES_LEARNER_SHARDED_PARAMETERS_H_
