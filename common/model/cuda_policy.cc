#include "common/model/cuda_policy.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr int kGraphBatchMax = 512;

int32_t Context(const CudaSequence& sequence) {
  return sequence.context_before + static_cast<int32_t>(sequence.new_tokens.size());
}
int32_t Blocks(const CudaSequence& sequence, int block_tokens) {
  return (Context(sequence) + block_tokens - 1) / block_tokens;
}

// Room for twice as much as is needed, so that it grows seldom.
StepSizes Grown(const StepSizes& have, const StepSizes& need) {
  const auto grown = [](auto now, auto wanted) { return wanted <= now ? now : 2 * wanted; };
  StepSizes sizes;
  sizes.tokens = grown(have.tokens, need.tokens);
  sizes.sequences = grown(have.sequences, need.sequences);
  sizes.draws = grown(have.draws, need.draws);
  sizes.copies = grown(have.copies, need.copies);
  sizes.plan_blocks = grown(have.plan_blocks, need.plan_blocks);
  sizes.block_ids = grown(have.block_ids, need.block_ids);
  return sizes;
}

}  // namespace

int GraphBatch(int sequences) {
  if (sequences > kGraphBatchMax) return 0;
  for (int size = 1; size < 8; size *= 2) {
    if (sequences <= size) return size;
  }
  const int step = sequences <= 64 ? 8 : sequences <= 256 ? 16 : 64;
  return (sequences + step - 1) / step * step;
}

absl::StatusOr<std::unique_ptr<CudaPolicy>> CudaPolicy::Create(const ModelConfig& config,
                                                               absl::Span<const TensorBytes> state,
                                                               const CudaPolicyOptions& options) {
  RETURN_IF_ERROR(CheckCudaDevice());
  if (int64_t{options.blocks} * options.block_tokens > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV cache: expected at most 2^31 - 1 tokens, found ", options.blocks,
                     " blocks of ", options.block_tokens));
  }
  ASSIGN_OR_RETURN(CudaStream stream, CudaStream::Create());
  auto policy = std::unique_ptr<CudaPolicy>(new CudaPolicy(config, options, std::move(stream)));
  ASSIGN_OR_RETURN(policy->forward_,
                   CudaForward::Create(config, options.dtype, options.blocks, options.block_tokens,
                                       policy->stream_.get()));
  RETURN_IF_ERROR(policy->LoadState(state));
  StepSizes sizes;
  sizes.tokens = std::max(options.step_tokens, GraphBatch(options.sequences));
  sizes.sequences = std::max(options.sequences, GraphBatch(options.sequences));
  sizes.draws = sizes.sequences;
  sizes.copies = sizes.sequences;
  sizes.plan_blocks = std::max(policy->forward_->DecodeCapacity(sizes.sequences),
                               policy->forward_->PrefillCapacity(sizes.tokens, sizes.sequences));
  sizes.block_ids = int64_t{options.blocks} + sizes.sequences * int64_t{64};
  ASSIGN_OR_RETURN(policy->inputs_, StepInputs::Create(sizes));
  PassShape shape;
  shape.rows = sizes.tokens;
  shape.drawn_rows = sizes.sequences;
  shape.draws = sizes.draws;
  shape.decode_blocks = policy->forward_->DecodeCapacity(sizes.sequences);
  RETURN_IF_ERROR(policy->forward_->Reserve(shape, 1).status());
  return policy;
}

absl::Status CudaPolicy::Check(const CudaBatch& batch) const {
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const CudaSequence& s = batch.sequences[i];
    const auto fail = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("CUDA step: sequence ", i, ": ", what));
    };
    const int64_t context = int64_t{s.context_before} + static_cast<int64_t>(s.new_tokens.size());
    if (s.new_tokens.empty() || s.context_before < 0 || context > limits::kContextTokensMax) {
      return fail(absl::StrCat("expected at least 1 new token and a context of at most ",
                               limits::kContextTokensMax, ", found ", s.new_tokens.size(),
                               " after ", s.context_before));
    }
    for (const int32_t token : s.new_tokens) {
      if (token < 0 || token >= config_.vocab_size) {
        return fail(
            absl::StrCat("id ", token, " is outside the vocabulary of ", config_.vocab_size));
      }
    }
    const int32_t blocks = Blocks(s, options_.block_tokens);
    if (static_cast<int64_t>(s.blocks.size()) < blocks) {
      return fail(absl::StrCat("expected a table of at least ", blocks, " blocks for ", context,
                               " tokens, found ", s.blocks.size()));
    }
    for (const int32_t block : s.blocks.first(static_cast<size_t>(blocks))) {
      if (block < 0 || block >= options_.blocks) {
        return fail(absl::StrCat("block ", block, " is outside [0, ", options_.blocks, ")"));
      }
    }
    if (s.draws < 0 || s.first_draw < 0 ||
        int64_t{s.first_draw} + s.draws > static_cast<int64_t>(batch.draws.size())) {
      return fail(
          absl::StrCat("draws [", s.first_draw, ", + ", s.draws, ") of ", batch.draws.size()));
    }
  }
  for (const auto& [from, to] : batch.copies) {
    if (from < 0 || from >= options_.blocks || to < 0 || to >= options_.blocks) {
      return absl::InvalidArgumentError(absl::StrCat("CUDA step: copy of block ", from, " to ", to,
                                                     ": expected blocks in [0, ", options_.blocks,
                                                     ")"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PassShape> CudaPolicy::Fill(CudaBatch& batch) {
  // Those that decode first, so that each kind is one run of rows.
  order_.clear();
  const auto count = static_cast<int>(batch.sequences.size());
  for (const bool decode : {true, false}) {
    for (int i = 0; i < count; ++i) {
      const bool one = batch.sequences[static_cast<size_t>(i)].new_tokens.size() == 1;
      if (one == decode) order_.push_back(i);
    }
  }
  PassShape shape;
  StepSizes need;
  bool one_draw_each = batch.draws.size() == batch.sequences.size();
  longest_ = 0;
  for (const CudaSequence& s : batch.sequences) {
    shape.rows += static_cast<int>(s.new_tokens.size());
    shape.decode_rows += s.new_tokens.size() == 1 ? 1 : 0;
    one_draw_each = one_draw_each && s.draws == 1;
    need.block_ids += Blocks(s, options_.block_tokens);
    longest_ = std::max(longest_, Context(s));
  }
  shape.sequences = count;
  shape.draws = static_cast<int>(batch.draws.size());
  // Decoding only: padded to a size of the ladder.
  const int padded = GraphBatch(count);
  if (shape.rows == count && one_draw_each && padded > 0) {
    shape.rows = shape.decode_rows = shape.sequences = shape.draws = padded;
    shape.all_drawn = true;
  }
  need.tokens = shape.rows;
  need.sequences = shape.sequences;
  need.draws = shape.draws;
  need.copies = static_cast<int>(batch.copies.size());
  need.plan_blocks =
      std::max(forward_->DecodeCapacity(shape.decode_rows),
               forward_->PrefillCapacity(shape.rows - shape.decode_rows, shape.sequences));
  if (!inputs_.sizes().Covers(need)) {
    // Nothing runs now: the last step ended with a wait.
    const StepSizes sizes = Grown(inputs_.sizes(), need);
    graphs_.clear();
    inputs_ = StepInputs();
    ASSIGN_OR_RETURN(inputs_, StepInputs::Create(sizes));
  }
  FillRows(batch, &shape);
  FillDraws(batch, &shape);
  FillPlans(&shape);
  return shape;
}

void CudaPolicy::FillRows(const CudaBatch& batch, PassShape* shape) {
  const int block_tokens = options_.block_tokens;
  int row = 0;
  int32_t ids = 0;
  queries_.clear();
  contexts_.clear();
  inputs_.block_start.host[0] = 0;
  for (size_t i = 0; i < order_.size(); ++i) {
    const CudaSequence& s = batch.sequences[static_cast<size_t>(order_[i])];
    const int32_t context = Context(s);
    const int32_t blocks = Blocks(s, block_tokens);
    for (size_t t = 0; t < s.new_tokens.size(); ++t, ++row) {
      const int32_t position = s.context_before + static_cast<int32_t>(t);
      inputs_.tokens.host[row] = s.new_tokens[t];
      inputs_.positions.host[row] = position;
      inputs_.slots.host[row] =
          s.blocks[static_cast<size_t>(position / block_tokens)] * block_tokens +
          position % block_tokens;
      inputs_.row_sequence.host[row] = static_cast<int32_t>(i);
    }
    std::copy_n(s.blocks.begin(), blocks, inputs_.block_ids.host + ids);
    ids += blocks;
    inputs_.block_start.host[i + 1] = ids;
    inputs_.last_block_tokens.host[i] = context - (blocks - 1) * block_tokens;
    queries_.push_back(static_cast<int32_t>(s.new_tokens.size()));
    contexts_.push_back(context);
  }
  block_ids_used_ = ids;
  for (; row < shape->rows; ++row) {
    inputs_.tokens.host[row] = 0;
    inputs_.positions.host[row] = 0;
    inputs_.slots.host[row] = -1;
    inputs_.row_sequence.host[row] = -1;
  }
  for (int i = static_cast<int>(order_.size()); i < shape->sequences; ++i) {
    inputs_.block_start.host[i + 1] = ids;
    inputs_.last_block_tokens.host[i] = 0;
  }
}

void CudaPolicy::FillDraws(CudaBatch& batch, PassShape* shape) {
  draw_order_.clear();
  logit_rows_.assign(batch.sequences.size(), -1);
  int row = 0;         // of the pass
  int drawn_rows = 0;  // of the logits
  for (const int index : order_) {
    const CudaSequence& s = batch.sequences[static_cast<size_t>(index)];
    row += static_cast<int>(s.new_tokens.size());
    if (s.draws == 0) continue;
    inputs_.drawn_rows.host[drawn_rows] = row - 1;
    logit_rows_[static_cast<size_t>(index)] = drawn_rows;
    for (int32_t d = s.first_draw; d < s.first_draw + s.draws; ++d) {
      cuda::Draw draw = batch.draws[static_cast<size_t>(d)];
      draw.row = drawn_rows;
      inputs_.draws.host[draw_order_.size()] = draw;
      draw_order_.push_back(d);
    }
    ++drawn_rows;
  }
  for (auto i = static_cast<int>(draw_order_.size()); i < shape->draws; ++i) {
    inputs_.draws.host[i] = cuda::Draw();  // row -1: none
  }
  shape->drawn_rows = shape->all_drawn ? shape->rows : drawn_rows;
}

void CudaPolicy::FillPlans(PassShape* shape) {
  if (!forward_->uses_flashinfer()) {
    // A power of two, so that a graph serves for long.
    const int parts = (longest_ + cuda::kSplitTokens - 1) / cuda::kSplitTokens;
    shape->splits = 1;
    while (shape->decode_rows == shape->rows && shape->splits < parts) shape->splits *= 2;
    return;
  }
  const size_t decode =
      shape->all_drawn ? queries_.size() : static_cast<size_t>(shape->decode_rows);
  const auto queries = absl::MakeConstSpan(queries_);
  const auto contexts = absl::MakeConstSpan(contexts_);
  AttentionPlanShape plan_shape;
  plan_shape.group = forward_->group();
  plan_shape.block_tokens = options_.block_tokens;
  if (shape->decode_rows > 0) {
    // The launch is as large as the plan may be, so that a graph's stays the same.
    shape->decode_blocks = forward_->DecodeCapacity(shape->decode_rows);
    plan_shape.tile = cuda::kFlashInferDecodeTile;
    plan_shape.capacity = shape->decode_blocks;
    PlanAttention(queries.first(decode), contexts.first(decode), plan_shape, &decode_plan_);
    inputs_.decode.Fill(decode_plan_, queries.first(decode), shape->decode_rows,
                        shape->decode_blocks);
  }
  if (shape->rows > shape->decode_rows) {
    plan_shape.tile = cuda::kFlashInferPrefillTile;
    plan_shape.capacity = forward_->PrefillCapacity(shape->rows - shape->decode_rows,
                                                    shape->sequences - shape->decode_rows);
    PlanAttention(queries.subspan(decode), contexts.subspan(decode), plan_shape, &prefill_plan_);
    shape->prefill_blocks = prefill_plan_.blocks();
    shape->prefill_partials = prefill_plan_.partial_start.back();
    inputs_.prefill.Fill(prefill_plan_, queries.subspan(decode),
                         shape->sequences - shape->decode_rows, shape->prefill_blocks);
  }
}

// In runs in which no block is written twice or both written and read: each is one kernel.
absl::Status CudaPolicy::EnqueueCopies(const CudaBatch& batch) {
  absl::flat_hash_set<int32_t> read, written;
  copy_ends_.clear();
  for (size_t i = 0; i < batch.copies.size(); ++i) {
    const auto [from, to] = batch.copies[i];
    if (read.contains(to) || written.contains(to) || written.contains(from)) {
      copy_ends_.push_back(static_cast<int>(i));
      read.clear();
      written.clear();
    }
    read.insert(from);
    written.insert(to);
    inputs_.from_to.host[2 * i] = from;
    inputs_.from_to.host[2 * i + 1] = to;
  }
  if (!batch.copies.empty()) copy_ends_.push_back(static_cast<int>(batch.copies.size()));
  RETURN_IF_ERROR(inputs_.Upload(block_ids_used_, stream_.get()));
  int first = 0;
  for (const int end : copy_ends_) {
    RETURN_IF_ERROR(forward_->EnqueueCopies(inputs_, first, end - first));
    first = end;
  }
  return absl::OkStatus();
}

absl::Status CudaPolicy::RunPass(const PassShape& shape, bool decode_only) {
  ASSIGN_OR_RETURN(const bool moved, forward_->Reserve(shape, longest_));
  if (moved) graphs_.clear();
  if (!options_.graphs || !decode_only) return forward_->Enqueue(inputs_, shape);
  // The first step of a size runs as it is: libraries load what they need then, which a capture
  // would not allow.
  GraphSlot& slot = graphs_[GraphKey{shape.rows, shape.splits}];
  if (slot.steps++ == 0) return forward_->Enqueue(inputs_, shape);
  if (slot.steps == 2) {
    ASSIGN_OR_RETURN(slot.graph, CudaGraph::Capture(stream_.get(), [&] {
                       return forward_->Enqueue(inputs_, shape);
                     }));
  }
  ++graph_launches_;
  return slot.graph.Launch(stream_.get());
}

absl::Status CudaPolicy::Step(CudaBatch& batch, absl::Span<cuda::Drawn> results) {
  CRESCENDO_CHECK(results.size() == batch.draws.size());
  RETURN_IF_ERROR(Check(batch));
  if (batch.sequences.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const PassShape shape, Fill(batch));
  RETURN_IF_ERROR(EnqueueCopies(batch));
  RETURN_IF_ERROR(RunPass(shape, shape.all_drawn));
  last_logit_rows_ = shape.drawn_rows;
  const size_t drawn = draw_order_.size();
  const auto bytes = static_cast<int64_t>(drawn * sizeof(cuda::Drawn));
  if (results_.bytes() < bytes) {
    ASSIGN_OR_RETURN(
        results_, CudaMemory::Allocate(CudaMemory::Kind::kPinnedHost, 2 * bytes, "drawn tokens"));
  }
  if (drawn > 0) {
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpyAsync(results_.data(), forward_->drawn(), static_cast<size_t>(bytes),
                                   cudaMemcpyDeviceToHost, stream_.get()),
                   "copy the drawn tokens"));
  }
  RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream_.get()), "wait for the step"));
  for (size_t i = 0; i < drawn; ++i) {
    const auto to = static_cast<size_t>(draw_order_[i]);
    std::memcpy(&results[to], results_.data() + i * sizeof(cuda::Drawn), sizeof(cuda::Drawn));
    if (results[to].token < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("sampling: draw ", to, ": expected finite logits, found NaN or infinity"));
    }
  }
  return absl::OkStatus();
}

absl::Status CudaPolicy::CopyLogits(int32_t row, absl::Span<float> logits) const {
  CRESCENDO_CHECK(row >= 0 && row < last_logit_rows_ &&
                  logits.size() == static_cast<size_t>(config_.vocab_size));
  return CudaStatus(cudaMemcpy(logits.data(), forward_->logits() + row * config_.vocab_size,
                               logits.size() * sizeof(float), cudaMemcpyDeviceToHost),
                    "copy logits");
}

absl::StatusOr<std::vector<float>> CudaPolicy::LastLogits() const {
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  std::vector<float> logits(static_cast<size_t>(last_logit_rows_) * vocab);
  for (int32_t row = 0; row < last_logit_rows_; ++row) {
    RETURN_IF_ERROR(
        CopyLogits(row, absl::MakeSpan(logits).subspan(static_cast<size_t>(row) * vocab, vocab)));
  }
  return logits;
}

}  // namespace crescendo
