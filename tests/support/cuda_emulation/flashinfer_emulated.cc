// FlashInfer's kernel on the host, as far as its callers can tell: it reads the plan and the tables
// where the kernel reads them (attention/prefill.cuh, BatchPrefillWithPagedKVCacheDevice, with
// partition_kv; attention/cascade.cuh, VariableLengthMergeStates), in plain sums. Tests of the
// policy so cover the plans, the split of a batch in two, and the padding of graphs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "common/model/cuda_math.cuh"
#include "common/model/flashinfer_attention.h"

namespace crescendo::cuda {
namespace {

void Check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "cuda emulation: FlashInfer: %s\n", what);
  std::abort();
}

int32_t Context(const FlashInferArgs& args, int sequence) {
  const int32_t blocks = args.block_start[sequence + 1] - args.block_start[sequence];
  if (blocks == 0) return 0;
  return (blocks - 1) * args.kv.block_tokens + args.last_block_tokens[sequence];
}

// One query head of one row over keys [begin, end): the normalised result and log2 of its sum.
void AttendOne(const FlashInferArgs& args, int sequence, const Bf16* q, int kv_head, int begin,
               int end, Bf16* out, float* lse) {
  const int dim = args.kv.head_dim;
  double sum = 0.0;
  std::vector<double> total(static_cast<size_t>(dim));
  for (int p = begin; p < end; ++p) {
    const int64_t block = args.block_ids[args.block_start[sequence] + p / args.kv.block_tokens];
    const int64_t at =
        KvOffset(args.kv, block * args.kv.block_tokens + p % args.kv.block_tokens, kv_head);
    double dot = 0.0;
    for (int d = 0; d < dim; ++d) {
      dot += static_cast<double>(Widen(q[d])) *
             Widen(static_cast<const Bf16*>(args.key_cache)[at + d]);
    }
    const double e = std::exp(dot * args.scale);
    sum += e;
    for (int d = 0; d < dim; ++d) {
      total[static_cast<size_t>(d)] +=
          e * Widen(static_cast<const Bf16*>(args.value_cache)[at + d]);
    }
  }
  for (int d = 0; d < dim; ++d) {
    NarrowInto(sum > 0.0 ? static_cast<float>(total[static_cast<size_t>(d)] / sum) : 0.0f, &out[d]);
  }
  *lse = sum > 0.0 ? static_cast<float>(std::log2(sum)) : -INFINITY;
}

void RunBlock(const FlashInferArgs& args, int block) {
  const int sequence = args.sequence[block];
  const int chunk = args.key_chunk[block];
  const int group = args.query_heads / args.kv.kv_heads;
  const int queries = args.query_start[sequence + 1] - args.query_start[sequence];
  const int context = Context(args, sequence);
  const int chunks = (context + *args.chunk_tokens - 1) / *args.chunk_tokens;
  Check(sequence < args.sequences && chunk < chunks && queries <= context, "a plan that is wrong");
  const int begin = chunk * *args.chunk_tokens;
  for (int row = args.query_tile[block] * args.tile;
       row < std::min((args.query_tile[block] + 1) * args.tile, queries * group); ++row) {
    const int query = row / group;
    const int end = std::min({begin + *args.chunk_tokens, context, context - queries + query + 1});
    const int64_t partial = args.partial_start[sequence] + query * chunks + chunk;
    for (int kv_head = 0; kv_head < args.kv.kv_heads; ++kv_head) {
      const int head = kv_head * group + row % group;
      const int64_t q = int64_t{args.query_start[sequence] + query} * args.query_heads + head;
      const int64_t to = partial * args.query_heads + head;
      AttendOne(args, sequence, static_cast<const Bf16*>(args.q) + q * args.kv.head_dim, kv_head,
                begin, end, static_cast<Bf16*>(args.partial_out) + to * args.kv.head_dim,
                args.partial_lse + to);
    }
  }
}

void Merge(const FlashInferArgs& args) {
  Check(*args.rows <= static_cast<uint32_t>(args.rows_max), "more rows than launched for");
  const int dim = args.kv.head_dim;
  for (int64_t row = 0; row < *args.rows; ++row) {
    for (int head = 0; head < args.query_heads; ++head) {
      double sum = 0.0;
      std::vector<double> total(static_cast<size_t>(dim));
      for (int64_t i = args.merge_start[row]; i < args.merge_start[row + 1]; ++i) {
        const int64_t from = i * args.query_heads + head;
        const double weight = std::exp2(static_cast<double>(args.partial_lse[from]));
        sum += weight;
        for (int d = 0; d < dim; ++d) {
          total[static_cast<size_t>(d)] +=
              weight * Widen(static_cast<const Bf16*>(args.partial_out)[from * dim + d]);
        }
      }
      Bf16* out = static_cast<Bf16*>(args.out) + (row * args.query_heads + head) * dim;
      for (int d = 0; d < dim; ++d) {
        NarrowInto(static_cast<float>(total[static_cast<size_t>(d)] / sum), &out[d]);
      }
    }
  }
}

cudaError_t Enqueue(const FlashInferArgs& args, cudaStream_t stream) {
  cuda_emulation::Enqueue(stream, [args] {
    for (int block = 0; block < args.blocks; ++block) {
      if (args.valid[block]) RunBlock(args, block);
    }
    Merge(args);
  });
  return cudaSuccess;
}

}  // namespace

cudaError_t FlashInferAttention64(const FlashInferArgs& args, cudaStream_t stream) {
  return Enqueue(args, stream);
}
cudaError_t FlashInferAttention128(const FlashInferArgs& args, cudaStream_t stream) {
  return Enqueue(args, stream);
}

}  // namespace crescendo::cuda
