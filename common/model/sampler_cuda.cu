// Draws tokens from logits on the device. Contract: cuda_kernels.h; the CPU's: sampler.cc, whose
// order of truncation and of ties it keeps.
//
// One block a draw. Without truncation: one read of the row gives maximum and sum of each tile of
// tokens, then the tile that holds the draw is read again. With truncation: the kept tokens are a
// prefix of the order (weight descending, id ascending), so that all that has to be found are
// places in that order, by a radix descent over the bits of the weights. Its sums are integers,
// the same in whatever order the threads add.
#include "common/model/cuda_block.cuh"
#include "common/model/cuda_kernels.h"
#include "common/model/cuda_math.cuh"

namespace crescendo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kVocabMax = 1 << 20;
constexpr int kTilesMax = 1024;
constexpr int kBuckets = kThreads;  // of one step of the descent: 8 bits
constexpr int kNone = 0x7fffffff;

using Mass = unsigned long long;  // of a weight: in units of 2^-43, so that 2^20 of them fit
CRESCENDO_HD Mass MassOf(float weight) { return static_cast<Mass>(weight * 8796093022208.0f); }

struct Row {
  const float* x;
  int n;
  float max;
  float inverse;  // 1 / temperature
};
CRESCENDO_HD float WeightOf(const Row& row, int i) {
  return Exp((row.x[i] - row.max) * row.inverse);
}

// Tiles of tokens: their maximum, and the sum of e^z over them with z relative to that maximum, at
// the draw's temperature and at 1.
struct Tiles {
  int tokens;  // of a tile
  int count;
  float* max;
  float* sum;
  float* sum_at_1;
};

// The row's maximum; NaN when a logit is not finite.
__device__ float ReadTiles(const Row& row, const Tiles& tiles) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float check = 0.0f;  // x - x is 0 for a finite x and NaN for all else
  float max = -INFINITY;
  for (int tile = static_cast<int>(threadIdx.x) / 32; tile < tiles.count; tile += kWarps) {
    const int begin = tile * tiles.tokens;
    const int end = begin + tiles.tokens < row.n ? begin + tiles.tokens : row.n;
    float top = -INFINITY;
    for (int i = begin + lane; i < end; i += 32) {
      top = fmaxf(top, row.x[i]);
      check += row.x[i] - row.x[i];
    }
    top = WarpReduce(top, Max());
    float sum = 0.0f;
    float sum_at_1 = 0.0f;
    for (int i = begin + lane; i < end; i += 32) {
      sum += Exp((row.x[i] - top) * row.inverse);
      if (row.inverse != 1.0f) sum_at_1 += Exp(row.x[i] - top);
    }
    sum = WarpReduce(sum, Add());
    sum_at_1 = WarpReduce(sum_at_1, Add());
    if (lane == 0) {
      tiles.max[tile] = top;
      tiles.sum[tile] = sum;
      tiles.sum_at_1[tile] = row.inverse != 1.0f ? sum_at_1 : sum;
    }
    max = fmaxf(max, top);
  }
  check = BlockReduce<kThreads>(check, Add());
  return BlockReduce<kThreads>(max, Max()) + check;
}

__device__ double TileWeight(const Tiles& tiles, const float* sums, int tile, float max,
                             float inverse) {
  return static_cast<double>(sums[tile]) *
         static_cast<double>(Exp((tiles.max[tile] - max) * inverse));
}

// The lowest id with the largest logit.
__device__ int Greedy(const Row& row) {
  int best = kNone;
  for (int i = static_cast<int>(threadIdx.x); i < row.n; i += kThreads) {
    if (row.x[i] == row.max) {
      best = i;
      break;
    }
  }
  return BlockReduce<kThreads>(best, Min());
}

// The first token of a tile at which the running sum, `before` at its start, passes `target`; else
// the last with any weight; kNone when there is none. One warp.
__device__ int DrawInTile(const Row& row, int begin, int end, double before, double target) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int last = kNone;
  for (int first = begin; first < end; first += 32) {
    const int i = first + lane;
    const float weight = i < end ? WeightOf(row, i) : 0.0f;
    const bool has_weight = weight > 1.3e-38f;  // e^-87.3 is Exp's zero
    double running = has_weight ? static_cast<double>(weight) : 0.0;
    for (int step = 1; step < 32; step *= 2) {
      const double below = __shfl_up_sync(kAllLanes, running, step);
      if (lane >= step) running += below;
    }
    const unsigned passed = __ballot_sync(kAllLanes, has_weight && before + running > target);
    if (passed != 0) return first + __ffs(static_cast<int>(passed)) - 1;
    const unsigned some = __ballot_sync(kAllLanes, has_weight);
    if (some != 0) last = first + 31 - __clz(static_cast<int>(some));
    before += __shfl_sync(kAllLanes, running, 31);
  }
  return last;
}

// The first token in order of ids at which the running sum of weights passes `uniform` of all.
__device__ int DrawWhole(const Row& row, const Tiles& tiles, double uniform) {
  __shared__ int found;
  __shared__ double found_before;
  const int me = static_cast<int>(threadIdx.x);
  const int share = (tiles.count + kThreads - 1) / kThreads;
  const int first = me * share;
  const int last = first + share < tiles.count ? first + share : tiles.count;
  double own = 0.0;
  for (int t = first; t < last; ++t) own += TileWeight(tiles, tiles.sum, t, row.max, row.inverse);
  double total;
  const double up_to_me = BlockScan<kThreads>(own, &total);
  const double target = uniform * total;
  // Sums of a scan need not grow to the last bit: the first thread that passes has it.
  int passes = BlockReduce<kThreads>(up_to_me > target && own > 0.0 ? me : kNone, Min());
  if (passes == kNone) passes = BlockReduce<kThreads>(own > 0.0 ? me : -1, Max());
  if (me == passes) {
    double before = up_to_me - own;
    for (int t = first; t < last; ++t) {
      const double weight = TileWeight(tiles, tiles.sum, t, row.max, row.inverse);
      if (weight <= 0.0) continue;
      found = t;
      found_before = before;
      before += weight;
      if (before > target) break;
    }
  }
  __syncthreads();
  const int tile = found;
  __syncthreads();
  if (me < 32) {
    const int begin = tile * tiles.tokens;
    const int end = begin + tiles.tokens < row.n ? begin + tiles.tokens : row.n;
    const int token = DrawInTile(row, begin, end, found_before, target);
    if (me == 0) found = token;
  }
  __syncthreads();
  return found;
}

// A place in the order (weight descending, id ascending).
struct Place {
  uint32_t bits;  // of the weight of the token there
  Mass each;      // mass of one such token
  Mass before;    // mass of all heavier tokens
  int count;      // of all heavier tokens
  int tie;        // how many of the same weight come before it
};

// The first place whose running count (by_mass: running mass), its own included, is above `limit`.
// Requires that there is one.
__device__ Place Descend(const Row& row, bool by_mass, Mass limit) {
  __shared__ Mass masses[kBuckets];
  __shared__ unsigned counts[kBuckets];
  __shared__ Mass mass_before;
  __shared__ int count_before, bucket_found;
  const int me = static_cast<int>(threadIdx.x);
  const int mine = kBuckets - 1 - me;  // buckets of heavier tokens first
  Place place{0, 0, 0, 0, 0};
  uint32_t known = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    masses[me] = 0;
    counts[me] = 0;
    __syncthreads();
    for (int i = me; i < row.n; i += kThreads) {
      const float weight = WeightOf(row, i);
      const uint32_t bits = Bits(weight);
      if ((bits & known) != place.bits) continue;
      const uint32_t bucket = (bits >> shift) & 255u;
      atomicAdd(&counts[bucket], 1u);
      if (const Mass mass = MassOf(weight); mass > 0) atomicAdd(&masses[bucket], mass);
    }
    __syncthreads();
    const Mass mass = masses[mine];
    const int count = static_cast<int>(counts[mine]);
    Mass all_mass;
    int all_count;
    const Mass mass_up_to = BlockScan<kThreads>(mass, &all_mass) + place.before;
    const int count_up_to = BlockScan<kThreads>(count, &all_count) + place.count;
    const Mass reached = by_mass ? mass_up_to : static_cast<Mass>(count_up_to);
    const int passes = BlockReduce<kThreads>(count > 0 && reached > limit ? me : kNone, Min());
    if (me == passes) {
      mass_before = mass_up_to - mass;
      count_before = count_up_to - count;
      bucket_found = mine;
    }
    __syncthreads();
    place.before = mass_before;
    place.count = count_before;
    place.bits |= static_cast<uint32_t>(bucket_found) << shift;
    known |= 255u << shift;
    __syncthreads();
  }
  place.each = MassOf(FromBits(place.bits));
  place.tie = by_mass ? static_cast<int>((limit - place.before) / place.each)
                      : static_cast<int>(limit) - place.count;
  return place;
}

// The token at a place: the one of its weight's tokens with `tie` lower ids.
__device__ int TokenAt(const Row& row, const Place& place) {
  __shared__ int found;
  const int share = (row.n + kThreads - 1) / kThreads;
  const int first = static_cast<int>(threadIdx.x) * share;
  const int last = first + share < row.n ? first + share : row.n;
  int own = 0;
  for (int i = first; i < last; ++i) own += Bits(WeightOf(row, i)) == place.bits ? 1 : 0;
  int total;
  const int up_to_me = BlockScan<kThreads>(own, &total);
  int skip = place.tie - (up_to_me - own);
  if (skip >= 0 && skip < own) {
    for (int i = first; i < last; ++i) {
      if (Bits(WeightOf(row, i)) == place.bits && skip-- == 0) {
        found = i;
        break;
      }
    }
  }
  __syncthreads();
  const int token = found;
  __syncthreads();
  return token;
}

__device__ int DrawTruncated(const Row& row, const Draw& draw, double uniform) {
  // Of all tokens, and of those that min-p leaves.
  Mass own = 0;
  Mass own_min_p = 0;
  int own_count = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.n; i += kThreads) {
    const float weight = WeightOf(row, i);
    own += MassOf(weight);
    if (weight < draw.min_p) continue;
    own_min_p += MassOf(weight);
    ++own_count;
  }
  Mass all = BlockReduce<kThreads>(own, Add());
  const Mass mass_min_p = BlockReduce<kThreads>(own_min_p, Add());
  const int count_min_p = BlockReduce<kThreads>(own_count, Add());

  int kept = row.n;
  if (draw.top_k > 0 && draw.top_k < row.n) {
    const Place last = Descend(row, false, static_cast<Mass>(draw.top_k - 1));
    kept = draw.top_k;
    all = last.before + static_cast<Mass>(last.tie + 1) * last.each;
  }
  if (draw.top_p < 1.0) {
    // The last token that stays is the first with which they hold top_p or more.
    const auto least = static_cast<Mass>(ceil(draw.top_p * static_cast<double>(all)));
    const Place last = Descend(row, true, (least < all ? least : all) - 1);
    if (last.count + last.tie + 1 < kept) {
      kept = last.count + last.tie + 1;
      all = last.before + static_cast<Mass>(last.tie + 1) * last.each;
    }
  }
  if (count_min_p < kept) all = mass_min_p;
  auto limit = static_cast<Mass>(uniform * static_cast<double>(all));
  if (limit >= all) limit = all - 1;
  return TokenAt(row, Descend(row, true, limit));
}

__global__ void SampleKernel(SampleArgs args, int tile_tokens) {
  __shared__ float tile_max[kTilesMax], tile_sum[kTilesMax], tile_sum_at_1[kTilesMax];
  const Draw draw = args.draws[blockIdx.x];
  if (draw.row < 0) return;
  const bool greedy = draw.temperature == 0.0;
  Row row{args.logits + static_cast<int64_t>(draw.row) * args.vocab, args.vocab, 0.0f,
          greedy ? 1.0f : static_cast<float>(1.0 / draw.temperature)};
  const Tiles tiles{tile_tokens, (args.vocab + tile_tokens - 1) / tile_tokens, tile_max, tile_sum,
                    tile_sum_at_1};
  row.max = ReadTiles(row, tiles);
  Drawn out;
  if (isfinite(row.max)) {
    double own = 0.0;
    double own_at_1 = 0.0;
    for (int t = static_cast<int>(threadIdx.x); t < tiles.count; t += kThreads) {
      own += TileWeight(tiles, tiles.sum, t, row.max, row.inverse);
      own_at_1 += TileWeight(tiles, tiles.sum_at_1, t, row.max, 1.0f);
    }
    const double sum = BlockReduce<kThreads>(own, Add());
    const double sum_at_1 = BlockReduce<kThreads>(own_at_1, Add());
    const double uniform = UniformOf(draw.seed, draw.group, draw.sample, draw.position);
    if (greedy) {
      out.token = Greedy(row);
    } else if (draw.top_k > 0 || draw.top_p < 1.0 || draw.min_p > 0.0f) {
      out.token = DrawTruncated(row, draw, uniform);
    } else {
      out.token = DrawWhole(row, tiles, uniform);
      if (out.token == kNone) out.token = Greedy(row);
    }
    const float x = row.x[out.token] - row.max;
    out.log_prob = static_cast<float>(static_cast<double>(x * row.inverse) - log(sum));
    out.log_prob_untempered = static_cast<float>(static_cast<double>(x) - log(sum_at_1));
  }
  if (threadIdx.x == 0) args.out[blockIdx.x] = out;
}

}  // namespace

cudaError_t Sample(const SampleArgs& args, cudaStream_t stream) {
  if (args.count == 0) return cudaSuccess;
  if (args.vocab < 1 || args.vocab > kVocabMax) return cudaErrorInvalidValue;
  const int tile_tokens = args.vocab <= kTilesMax * 512 ? 512 : kVocabMax / kTilesMax;
  return Launch(SampleKernel, dim3(static_cast<unsigned>(args.count)), kThreads, stream, args,
                tile_tokens);
}

}  // namespace crescendo::cuda
