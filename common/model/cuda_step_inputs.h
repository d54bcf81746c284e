// What a step of the policy is told each time: tokens, places, tables, draws, attention plans. One
// pinned host buffer and one device buffer of the same layout, so that a step's upload is one copy,
// and a captured graph finds everything where it was.
//
// Thread rule: one thread at a time.
#ifndef CRESCENDO_COMMON_MODEL_CUDA_STEP_INPUTS_H_
#define CRESCENDO_COMMON_MODEL_CUDA_STEP_INPUTS_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/attention_plan.h"
#include "common/model/cuda_kernels.h"
#include "common/model/cuda_memory.h"

namespace crescendo {

// Room for so many of each.
struct StepSizes {
  int tokens = 0;
  int sequences = 0;
  int draws = 0;
  int copies = 0;
  int plan_blocks = 0;  // of one attention plan
  int64_t block_ids = 0;
  // Whether `need` fits.
  bool Covers(const StepSizes& need) const;
};

template <typename T>
struct StepArray {
  T* host = nullptr;
  T* device = nullptr;
};

// An AttentionPlan of a part of the batch.
struct CudaPlan {
  StepArray<int32_t> query_start, sequence, query_tile, key_chunk, partial_start, merge_start,
      chunk_tokens;
  StepArray<uint32_t> rows;
  StepArray<bool> valid;
  // Writes the plan of `plan.partial_start.size() - 1` sequences with these `queries`; blocks from
  // the plan's to `blocks`, and sequences up to `sequences`, become padding.
  void Fill(const AttentionPlan& plan, absl::Span<const int32_t> queries, int sequences,
            int blocks) const;
};

class StepInputs {
 public:
  static absl::StatusOr<StepInputs> Create(const StepSizes& sizes);

  StepArray<int32_t> tokens, positions, slots, row_sequence;  // a row each
  StepArray<int32_t> drawn_rows;                              // rows whose logits are wanted
  StepArray<int32_t> block_start, last_block_tokens;          // a sequence each
  StepArray<int32_t> from_to;                                 // pairs
  StepArray<cuda::Draw> draws;
  CudaPlan decode, prefill;
  StepArray<int32_t> block_ids;

  // All but the block ids from `block_ids_used` on.
  absl::Status Upload(int64_t block_ids_used, cudaStream_t stream) const;
  const StepSizes& sizes() const { return sizes_; }
  int64_t device_bytes() const { return device_.bytes(); }

 private:
  // Called with no memory to add up `bytes_`, then to set the arrays.
  void Place();
  template <typename T>
  void Take(int64_t count, StepArray<T>* array);
  void TakePlan(CudaPlan* plan);

  StepSizes sizes_;
  CudaMemory host_;
  CudaMemory device_;
  int64_t bytes_ = 0;
  int64_t block_ids_offset_ = 0;
};

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_MODEL_CUDA_STEP_INPUTS_H_
