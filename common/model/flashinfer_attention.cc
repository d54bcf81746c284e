#include "common/model/flashinfer_attention.h"

namespace crescendo::cuda {

bool FlashInferServes(Dtype dtype, const KvShape& kv, int query_heads) {
  return dtype == Dtype::kBf16 && (kv.head_dim == 64 || kv.head_dim == 128) &&
         query_heads / kv.kv_heads <= kFlashInferPrefillTile;
}

cudaError_t FlashInferAttention(const FlashInferArgs& args, cudaStream_t stream) {
  return args.kv.head_dim == 64 ? FlashInferAttention64(args, stream)
                                : FlashInferAttention128(args, stream);
}

}  // namespace crescendo::cuda
