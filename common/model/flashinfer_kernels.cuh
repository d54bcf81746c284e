// FlashInfer's kernel for one head size, with tiles for decoding and for prefill: two
// instantiations, in a unit of its own for each head size (flashinfer_64_cuda.cu,
// flashinfer_128_cuda.cu), since each takes long to compile. The plan is ours (attention_plan.h);
// the kernel reads it as that of FlashInfer's own planner (attention/scheduler.cuh, PrefillPlan).
#ifndef CRESCENDO_COMMON_MODEL_FLASHINFER_KERNELS_CUH_
#define CRESCENDO_COMMON_MODEL_FLASHINFER_KERNELS_CUH_

#include <cuda_bf16.h>

#include <exception>
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/mask.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/variants.cuh>
#include <flashinfer/pos_enc.cuh>

#include "common/model/flashinfer_attention.h"

namespace crescendo::cuda {
namespace {

using Params =
    flashinfer::BatchPrefillPagedParams<__nv_bfloat16, __nv_bfloat16, __nv_bfloat16, int32_t>;
using Variant =
    flashinfer::DefaultAttention</*use_custom_mask=*/false, /*use_sliding_window=*/false,
                                 /*use_logits_soft_cap=*/false, /*use_alibi=*/false>;

// The kernel's parameters are pointers to non-const; it writes to out and the partial results only.
template <typename To, typename From>
To* Mutable(const From* pointer) {
  return const_cast<To*>(static_cast<const To*>(static_cast<const void*>(pointer)));
}

Params MakeParams(const FlashInferArgs& args) {
  const flashinfer::paged_kv_t<__nv_bfloat16, int32_t> kv(
      static_cast<uint32_t>(args.kv.kv_heads), static_cast<uint32_t>(args.kv.block_tokens),
      static_cast<uint32_t>(args.kv.head_dim), static_cast<uint32_t>(args.sequences),
      flashinfer::QKVLayout::kHND, Mutable<__nv_bfloat16>(args.key_cache),
      Mutable<__nv_bfloat16>(args.value_cache), Mutable<int32_t>(args.block_ids),
      Mutable<int32_t>(args.block_start), Mutable<int32_t>(args.last_block_tokens));
  Params params(Mutable<__nv_bfloat16>(args.q), kv, /*maybe_custom_mask=*/nullptr,
                Mutable<int32_t>(args.query_start), /*maybe_mask_indptr=*/nullptr,
                /*maybe_q_rope_offset=*/nullptr, static_cast<__nv_bfloat16*>(args.out),
                /*lse=*/nullptr, /*maybe_alibi_slopes=*/nullptr,
                static_cast<uint32_t>(args.query_heads), args.query_heads * args.kv.head_dim,
                args.kv.head_dim, /*window_left=*/-1, /*logits_soft_cap=*/0.0f, args.scale,
                /*rope_scale=*/1.0f, /*rope_theta=*/1e4f);
  params.request_indices = Mutable<int32_t>(args.sequence);
  params.qo_tile_indices = Mutable<int32_t>(args.query_tile);
  params.kv_tile_indices = Mutable<int32_t>(args.key_chunk);
  params.merge_indptr = Mutable<int32_t>(args.merge_start);
  params.o_indptr = Mutable<int32_t>(args.partial_start);
  params.kv_chunk_size_ptr = Mutable<int32_t>(args.chunk_tokens);
  params.block_valid_mask = Mutable<bool>(args.valid);
  params.max_total_num_rows = static_cast<uint32_t>(args.rows_max);
  params.total_num_rows = Mutable<uint32_t>(args.rows);
  params.padded_batch_size = static_cast<uint32_t>(args.blocks);
  return params;
}

template <int kTile, int kHeadDim>
cudaError_t AttendInTiles(const FlashInferArgs& args, cudaStream_t stream) {
  return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
      /*SAME_KV_STRIDES=*/true, kTile, kHeadDim, kHeadDim, flashinfer::PosEncodingMode::kNone,
      /*USE_FP16_QK_REDUCTION=*/false, flashinfer::MaskMode::kCausal, Variant, Params>(
      MakeParams(args), static_cast<__nv_bfloat16*>(args.partial_out), args.partial_lse,
      /*enable_pdl=*/false, stream);
}

template <int kHeadDim>
cudaError_t AttendWith(const FlashInferArgs& args, cudaStream_t stream) {
  try {
    return args.tile == kFlashInferDecodeTile
               ? AttendInTiles<kFlashInferDecodeTile, kHeadDim>(args, stream)
               : AttendInTiles<kFlashInferPrefillTile, kHeadDim>(args, stream);
  } catch (const std::exception&) {  // FlashInfer's: shared memory that the device does not have
    return cudaErrorInvalidConfiguration;
  }
}

}  // namespace
}  // namespace crescendo::cuda

#endif  // CRESCENDO_COMMON_MODEL_FLASHINFER_KERNELS_CUH_
