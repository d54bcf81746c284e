#include "common/model/cuda_forward.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/policy_functions.h"
#include "common/model/torch_guard.h"

namespace crescendo {
namespace {

using cuda::Dtype;
using cuda::DtypeBytes;

// Blocks of threads beyond one a tile that a plan may have: some waves over the processors.
constexpr int kWaves = 4;

// Grows `memory` to at least `bytes`; sets *moved when it did.
absl::Status Grow(int64_t bytes, absl::string_view what, cudaStream_t stream, CudaMemory* memory,
                  bool* moved) {
  if (memory->bytes() >= bytes) return absl::OkStatus();
  RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream), "wait for the device"));
  *memory = CudaMemory();
  ASSIGN_OR_RETURN(*memory, CudaMemory::Allocate(CudaMemory::Kind::kDevice, bytes, what));
  *moved = true;
  // Rows of padding pass through every kernel: what they hold stays finite.
  return CudaStatus(cudaMemsetAsync(memory->data(), 0, static_cast<size_t>(bytes), stream),
                    absl::StrCat("clear ", what));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaForward>> CudaForward::Create(const ModelConfig& config,
                                                                 Dtype dtype, int blocks,
                                                                 int block_tokens,
                                                                 cudaStream_t stream) {
  auto forward = std::unique_ptr<CudaForward>(new CudaForward(config, dtype, stream));
  if (config.head_dim > 256) {
    return absl::UnimplementedError(absl::StrCat(
        "CUDA attention: expected a head size of at most 256, found ", config.head_dim));
  }
  if (block_tokens < 16 || block_tokens > 128 || (block_tokens & (block_tokens - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "KV cache: expected blocks of 16, 32, 64 or 128 tokens, found ", block_tokens));
  }
  forward->kv_ = {config.kv_heads, config.head_dim, block_tokens};
  forward->flashinfer_ = cuda::FlashInferServes(dtype, forward->kv_, config.query_heads);
  cudaDeviceProp properties{};
  RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, 0), "read device properties"));
  forward->processors_ = properties.multiProcessorCount;
  ASSIGN_OR_RETURN(forward->weights_, CudaWeights::Create(config, dtype));
  ASSIGN_OR_RETURN(forward->blas_, CudaBlas::Create(stream));
  forward->block_bytes_ = config.kv_size() * block_tokens * DtypeBytes(dtype);
  forward->plane_bytes_ = forward->block_bytes_ * blocks;
  bool moved = false;
  // Zero, not whatever was there: a block's unused places are read (and masked) with it.
  RETURN_IF_ERROR(Grow(2 * config.layers * forward->plane_bytes_,
                       absl::StrCat("the KV cache of ", blocks, " blocks"), stream,
                       &forward->cache_, &moved));
  return forward;
}

int CudaForward::DecodeCapacity(int sequences) const {
  const int tiles = (group() + cuda::kFlashInferDecodeTile - 1) / cuda::kFlashInferDecodeTile;
  return sequences * tiles + kWaves * processors_ / config_.kv_heads;
}

int CudaForward::PrefillCapacity(int rows, int sequences) const {
  return static_cast<int>(int64_t{rows} * group() / cuda::kFlashInferPrefillTile) + sequences +
         kWaves * processors_ / config_.kv_heads;
}

absl::Status CudaForward::ReserveRope(int64_t positions) {
  int64_t count = 4096;
  while (count < positions) count *= 2;
  RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream_), "wait for the device"));
  cosine_ = CudaMemory();
  sine_ = CudaMemory();
  return CatchTorch("RoPE tables", [&]() -> absl::Status {
    RopeTable table(config_);
    table.Reserve(count);
    const int64_t bytes = count * (config_.head_dim / 2) * static_cast<int64_t>(sizeof(float));
    const auto upload = [&](const float* values, CudaMemory* memory) -> absl::Status {
      ASSIGN_OR_RETURN(*memory,
                       CudaMemory::Allocate(CudaMemory::Kind::kDevice, bytes, "RoPE tables"));
      return CudaStatus(
          cudaMemcpy(memory->data(), values, static_cast<size_t>(bytes), cudaMemcpyHostToDevice),
          "copy RoPE tables to the device");
    };
    RETURN_IF_ERROR(upload(table.cosine(), &cosine_));
    RETURN_IF_ERROR(upload(table.sine(), &sine_));
    positions_ = count;
    return CudaStatus(cudaStreamSynchronize(nullptr), "copy RoPE tables to the device");
  });
}

absl::StatusOr<bool> CudaForward::Reserve(const PassShape& shape, int64_t positions) {
  bool moved = false;
  const int64_t rows = shape.rows;
  const int64_t width = DtypeBytes(dtype_);
  const auto grow = [&](int64_t elements, int64_t bytes_each, absl::string_view what,
                        CudaMemory* memory) {
    return Grow(elements * bytes_each, what, stream_, memory, &moved);
  };
  const ModelConfig& c = config_;
  RETURN_IF_ERROR(grow(rows * c.hidden_size, width, "activations", &residual_));
  RETURN_IF_ERROR(grow(rows * c.hidden_size, width, "activations", &normed_));
  RETURN_IF_ERROR(grow(rows * (c.query_size() + 2 * c.kv_size()), width, "activations", &qkv_));
  RETURN_IF_ERROR(grow(rows * c.query_size(), width, "activations", &q_));
  RETURN_IF_ERROR(grow(rows * c.query_size(), width, "activations", &attention_));
  RETURN_IF_ERROR(grow(rows * 2 * c.mlp_size, width, "activations", &gate_up_));
  RETURN_IF_ERROR(grow(rows * c.mlp_size, width, "activations", &mlp_));
  RETURN_IF_ERROR(grow(shape.drawn_rows * c.hidden_size, width, "activations", &gathered_));
  RETURN_IF_ERROR(grow(shape.drawn_rows * c.vocab_size, 4, "logits", &logits_));
  RETURN_IF_ERROR(grow(shape.draws, sizeof(cuda::Drawn), "drawn tokens", &drawn_));
  if (flashinfer_) {
    const int64_t partials = int64_t{shape.decode_blocks} * c.query_heads;
    RETURN_IF_ERROR(grow(partials * c.head_dim, width, "attention's parts", &partial_));
    RETURN_IF_ERROR(grow(partials, 4, "attention's parts", &partial_lse_));
    const int64_t more = shape.prefill_partials * c.query_heads;
    RETURN_IF_ERROR(grow(more * c.head_dim, width, "attention's parts", &prefill_partial_));
    RETURN_IF_ERROR(grow(more, 4, "attention's parts", &prefill_partial_lse_));
  } else if (shape.splits > 1) {
    RETURN_IF_ERROR(grow(cuda::PartialFloats(shape.rows, c.query_heads, shape.splits, c.head_dim),
                         4, "attention's parts", &partial_));
  }
  if (positions > positions_) {
    RETURN_IF_ERROR(ReserveRope(positions));
    moved = true;
  }
  return moved;
}

int64_t CudaForward::scratch_bytes() const {
  int64_t bytes = 0;
  for (const CudaMemory* memory : {&cosine_, &sine_, &residual_, &normed_, &qkv_, &q_, &attention_,
                                   &gate_up_, &mlp_, &gathered_, &logits_, &drawn_, &partial_,
                                   &partial_lse_, &prefill_partial_, &prefill_partial_lse_}) {
    bytes += memory->bytes();
  }
  return bytes;
}

char* CudaForward::Keys(int layer) const { return cache_.data() + 2 * layer * plane_bytes_; }
char* CudaForward::Values(int layer) const { return Keys(layer) + plane_bytes_; }

absl::Status CudaForward::EnqueueCopies(const StepInputs& inputs, int first, int count) {
  cuda::CopyBlocksArgs args{};
  args.pool = cache_.data();
  args.from_to = inputs.from_to.device + 2 * int64_t{first};
  args.copies = count;
  args.planes = 2 * config_.layers;
  args.plane_bytes = plane_bytes_;
  args.block_bytes = block_bytes_;
  return CudaStatus(cuda::CopyBlocks(args, stream_), "copy KV blocks");
}

absl::Status CudaForward::MatMul(const void* x, const void* w, void* out, int64_t rows,
                                 int64_t columns, int64_t inner, bool accumulate) {
  MatMulArgs args;
  args.x = x;
  args.w = w;
  args.out = out;
  args.rows = rows;
  args.columns = columns;
  args.inner = inner;
  args.dtype = dtype_;
  args.out_dtype = dtype_;
  args.accumulate = accumulate;
  return blas_->MatMul(args);
}

cuda::FlashInferArgs CudaForward::AttendArgs(const StepInputs& inputs, int layer,
                                             const CudaPlan& plan) const {
  cuda::FlashInferArgs args;
  args.key_cache = Keys(layer);
  args.value_cache = Values(layer);
  args.kv = kv_;
  args.query_heads = config_.query_heads;
  args.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  args.rows = plan.rows.device;
  args.query_start = plan.query_start.device;
  args.block_ids = inputs.block_ids.device;
  args.valid = plan.valid.device;
  args.sequence = plan.sequence.device;
  args.query_tile = plan.query_tile.device;
  args.key_chunk = plan.key_chunk.device;
  args.chunk_tokens = plan.chunk_tokens.device;
  args.partial_start = plan.partial_start.device;
  args.merge_start = plan.merge_start.device;
  return args;
}

absl::Status CudaForward::Attend(const StepInputs& inputs, const PassShape& shape, int layer) {
  if (!flashinfer_) {
    cuda::PagedAttentionArgs args{};
    args.q = q_.data();
    args.key_cache = Keys(layer);
    args.value_cache = Values(layer);
    args.row_sequence = inputs.row_sequence.device;
    args.positions = inputs.positions.device;
    args.block_start = inputs.block_start.device;
    args.block_ids = inputs.block_ids.device;
    args.out = attention_.data();
    args.partial = reinterpret_cast<float*>(partial_.data());
    args.kv = kv_;
    args.rows = shape.rows;
    args.query_heads = config_.query_heads;
    args.splits = shape.splits;
    args.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    return CudaStatus(cuda::PagedAttentionSimple(dtype_, args, stream_), "attention");
  }
  if (shape.decode_rows > 0) {
    cuda::FlashInferArgs args = AttendArgs(inputs, layer, inputs.decode);
    args.q = q_.data();
    args.out = attention_.data();
    args.sequences = shape.decode_rows;
    args.rows_max = shape.decode_rows;
    args.block_start = inputs.block_start.device;
    args.last_block_tokens = inputs.last_block_tokens.device;
    args.tile = cuda::kFlashInferDecodeTile;
    args.blocks = shape.decode_blocks;
    args.partial_out = partial_.data();
    args.partial_lse = reinterpret_cast<float*>(partial_lse_.data());
    RETURN_IF_ERROR(CudaStatus(cuda::FlashInferAttention(args, stream_), "decoding attention"));
  }
  if (shape.rows > shape.decode_rows) {
    const int64_t first = shape.decode_rows * config_.query_size() * DtypeBytes(dtype_);
    cuda::FlashInferArgs args = AttendArgs(inputs, layer, inputs.prefill);
    args.q = q_.data() + first;
    args.out = attention_.data() + first;
    args.sequences = shape.sequences - shape.decode_rows;
    args.rows_max = shape.rows - shape.decode_rows;
    args.block_start = inputs.block_start.device + shape.decode_rows;
    args.last_block_tokens = inputs.last_block_tokens.device + shape.decode_rows;
    args.tile = cuda::kFlashInferPrefillTile;
    args.blocks = shape.prefill_blocks;
    args.partial_out = prefill_partial_.data();
    args.partial_lse = reinterpret_cast<float*>(prefill_partial_lse_.data());
    RETURN_IF_ERROR(CudaStatus(cuda::FlashInferAttention(args, stream_), "prefill attention"));
  }
  return absl::OkStatus();
}

absl::Status CudaForward::Layer(const StepInputs& inputs, const PassShape& shape, int layer) {
  const ModelConfig& c = config_;
  const CudaLayerWeights& w = weights_.layer(layer);
  const int64_t rows = shape.rows;
  cuda::RmsNormArgs norm{};
  norm.x = residual_.data();
  norm.weight = w.input_norm;
  norm.y = normed_.data();
  norm.rows = shape.rows;
  norm.n = static_cast<int>(c.hidden_size);
  norm.eps = static_cast<float>(c.norm_eps);
  RETURN_IF_ERROR(CudaStatus(cuda::RmsNorm(dtype_, norm, stream_), "input norm"));
  RETURN_IF_ERROR(MatMul(normed_.data(), w.qkv, qkv_.data(), rows, c.query_size() + 2 * c.kv_size(),
                         c.hidden_size, false));
  cuda::QkvArgs qkv{};
  qkv.qkv = qkv_.data();
  qkv.bias = w.qkv_bias;
  qkv.q_norm = w.q_norm;
  qkv.k_norm = w.k_norm;
  qkv.cosine = reinterpret_cast<const float*>(cosine_.data());
  qkv.sine = reinterpret_cast<const float*>(sine_.data());
  qkv.positions = inputs.positions.device;
  qkv.slots = inputs.slots.device;
  qkv.q = q_.data();
  qkv.key_cache = Keys(layer);
  qkv.value_cache = Values(layer);
  qkv.kv = kv_;
  qkv.rows = shape.rows;
  qkv.query_heads = c.query_heads;
  qkv.eps = static_cast<float>(c.norm_eps);
  RETURN_IF_ERROR(CudaStatus(cuda::QkvToCache(dtype_, qkv, stream_), "queries, keys and values"));
  RETURN_IF_ERROR(Attend(inputs, shape, layer));
  // The products add to the residual themselves.
  RETURN_IF_ERROR(
      MatMul(attention_.data(), w.o, residual_.data(), rows, c.hidden_size, c.query_size(), true));
  norm.weight = w.post_norm;
  RETURN_IF_ERROR(CudaStatus(cuda::RmsNorm(dtype_, norm, stream_), "norm after attention"));
  RETURN_IF_ERROR(MatMul(normed_.data(), w.gate_up, gate_up_.data(), rows, 2 * c.mlp_size,
                         c.hidden_size, false));
  const cuda::SwiGluArgs swiglu{gate_up_.data(), mlp_.data(), shape.rows,
                                static_cast<int>(c.mlp_size)};
  RETURN_IF_ERROR(CudaStatus(cuda::SwiGlu(dtype_, swiglu, stream_), "SwiGLU"));
  return MatMul(mlp_.data(), w.down, residual_.data(), rows, c.hidden_size, c.mlp_size, true);
}

absl::Status CudaForward::Enqueue(const StepInputs& inputs, const PassShape& shape) {
  const ModelConfig& c = config_;
  const auto hidden = static_cast<int>(c.hidden_size);
  const cuda::GatherRowsArgs embed{weights_.embedding(), inputs.tokens.device, residual_.data(),
                                   shape.rows, hidden};
  RETURN_IF_ERROR(CudaStatus(cuda::GatherRows(dtype_, embed, stream_), "embedding"));
  for (int layer = 0; layer < c.layers; ++layer) RETURN_IF_ERROR(Layer(inputs, shape, layer));
  if (shape.drawn_rows == 0) return absl::OkStatus();

  // Only the rows that are drawn from go further.
  void* rows = residual_.data();
  if (!shape.all_drawn) {
    const cuda::GatherRowsArgs gather{residual_.data(), inputs.drawn_rows.device, gathered_.data(),
                                      shape.drawn_rows, hidden};
    RETURN_IF_ERROR(CudaStatus(cuda::GatherRows(dtype_, gather, stream_), "rows that are drawn"));
    rows = gathered_.data();
  }
  cuda::RmsNormArgs norm{};
  norm.x = rows;
  norm.weight = weights_.final_norm();
  norm.y = normed_.data();
  norm.rows = shape.drawn_rows;
  norm.n = hidden;
  norm.eps = static_cast<float>(c.norm_eps);
  RETURN_IF_ERROR(CudaStatus(cuda::RmsNorm(dtype_, norm, stream_), "final norm"));
  MatMulArgs head;
  head.x = normed_.data();
  head.w = weights_.head();
  head.out = logits_.data();
  head.rows = shape.drawn_rows;
  head.columns = c.vocab_size;
  head.inner = c.hidden_size;
  head.dtype = dtype_;
  head.out_dtype = Dtype::kF32;
  RETURN_IF_ERROR(blas_->MatMul(head));
  cuda::SampleArgs sample{};
  sample.logits = reinterpret_cast<const float*>(logits_.data());
  sample.draws = inputs.draws.device;
  sample.out = reinterpret_cast<cuda::Drawn*>(drawn_.data());
  sample.count = shape.draws;
  sample.vocab = static_cast<int>(c.vocab_size);
  return CudaStatus(cuda::Sample(sample, stream_), "draw tokens");
}

}  // namespace crescendo
