#include "common/model/cuda_step_inputs.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace crescendo {

bool StepSizes::Covers(const StepSizes& need) const {
  return need.tokens <= tokens && need.sequences <= sequences && need.draws <= draws &&
         need.copies <= copies && need.plan_blocks <= plan_blocks && need.block_ids <= block_ids;
}

void CudaPlan::Fill(const AttentionPlan& plan, absl::Span<const int32_t> queries,
                    int sequence_count, int blocks) const {
  const auto real = static_cast<int>(queries.size());
  const int planned = plan.blocks();
  CRESCENDO_CHECK(planned <= blocks && real <= sequence_count);
  std::copy(plan.sequence.begin(), plan.sequence.end(), sequence.host);
  std::copy(plan.query_tile.begin(), plan.query_tile.end(), query_tile.host);
  std::copy(plan.key_chunk.begin(), plan.key_chunk.end(), key_chunk.host);
  for (int i = planned; i < blocks; ++i) {
    sequence.host[i] = query_tile.host[i] = key_chunk.host[i] = 0;
  }
  for (int i = 0; i < blocks; ++i) valid.host[i] = i < planned;
  std::copy(plan.merge_start.begin(), plan.merge_start.end(), merge_start.host);
  query_start.host[0] = 0;
  partial_start.host[0] = 0;
  for (int i = 0; i < sequence_count; ++i) {
    const auto at = static_cast<size_t>(i);
    query_start.host[i + 1] = query_start.host[i] + (i < real ? queries[at] : 0);
    partial_start.host[i + 1] = i < real ? plan.partial_start[at + 1] : partial_start.host[i];
  }
  *chunk_tokens.host = plan.chunk_tokens;
  *rows.host = static_cast<uint32_t>(query_start.host[real]);
}

template <typename T>
void StepInputs::Take(int64_t count, StepArray<T>* array) {
  bytes_ = (bytes_ + 15) / 16 * 16;
  if (host_.data() != nullptr) {
    array->host = reinterpret_cast<T*>(host_.data() + bytes_);
    array->device = reinterpret_cast<T*>(device_.data() + bytes_);
  }
  bytes_ += count * static_cast<int64_t>(sizeof(T));
}

void StepInputs::TakePlan(CudaPlan* plan) {
  Take(sizes_.sequences + 1, &plan->query_start);
  Take(sizes_.sequences + 1, &plan->partial_start);
  Take(sizes_.tokens + 1, &plan->merge_start);
  Take(sizes_.plan_blocks, &plan->sequence);
  Take(sizes_.plan_blocks, &plan->query_tile);
  Take(sizes_.plan_blocks, &plan->key_chunk);
  Take(sizes_.plan_blocks, &plan->valid);
  Take(1, &plan->chunk_tokens);
  Take(1, &plan->rows);
}

void StepInputs::Place() {
  bytes_ = 0;
  Take(sizes_.tokens, &tokens);
  Take(sizes_.tokens, &positions);
  Take(sizes_.tokens, &slots);
  Take(sizes_.tokens, &row_sequence);
  Take(sizes_.sequences, &drawn_rows);
  Take(sizes_.sequences + 1, &block_start);
  Take(sizes_.sequences, &last_block_tokens);
  Take(2 * int64_t{sizes_.copies}, &from_to);
  Take(sizes_.draws, &draws);
  TakePlan(&decode);
  TakePlan(&prefill);
  Take(sizes_.block_ids, &block_ids);
  block_ids_offset_ = bytes_ - sizes_.block_ids * static_cast<int64_t>(sizeof(int32_t));
}

absl::StatusOr<StepInputs> StepInputs::Create(const StepSizes& sizes) {
  StepInputs inputs;
  inputs.sizes_ = sizes;
  inputs.Place();
  const int64_t bytes = inputs.bytes_;
  ASSIGN_OR_RETURN(inputs.host_, CudaMemory::Allocate(CudaMemory::Kind::kPinnedHost, bytes,
                                                      "the inputs of a step"));
  ASSIGN_OR_RETURN(inputs.device_,
                   CudaMemory::Allocate(CudaMemory::Kind::kDevice, bytes, "the inputs of a step"));
  inputs.Place();
  return inputs;
}

absl::Status StepInputs::Upload(int64_t block_ids_used, cudaStream_t stream) const {
  const int64_t bytes = block_ids_offset_ + block_ids_used * static_cast<int64_t>(sizeof(int32_t));
  return CudaStatus(cudaMemcpyAsync(device_.data(), host_.data(), static_cast<size_t>(bytes),
                                    cudaMemcpyHostToDevice, stream),
                    "upload the inputs of a step");
}

}  // namespace crescendo
