// Small matrix products in registers, and the attention kernels made of them. Included after
// kernels_rows.inl. Scores of a tile of query rows are kept whole (not online softmax): a tile is
// kTileRows rows, so that 32K keys are 2 MB.
namespace crescendo::kernels {
namespace {

// What a product brings near meanwhile, for the next: `bytes` of each stream for each term of its
// sums. In small portions, because a core has few buffers for lines under way: a burst of
// prefetches holds up the loads behind it.
struct Nothing {
  CRESCENDO_INLINE void Bring(int64_t) const {}
};
struct Streams {
  const char* at[4];
  int64_t count;
  int64_t bytes;
  CRESCENDO_INLINE void Bring(int64_t term) const {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at[j] + term * bytes + i, 0, 3);
    }
  }
};

// C[M, V vectors] (+)= A[M, k] B[k, V vectors]; a(m, i) at a[m * a_row + i * a_col]; vector j of
// B's row i at b[j] + i * ldb. N lanes a vector.
// `Fixed`: each sum term by term, the same for any M and V.
template <bool Fixed, int M, int V, int N, typename TB, typename Ahead>
__attribute__((noinline)) void Tile(const float* a, int64_t a_row, int64_t a_col,
                                    const TB* const* b, int64_t ldb, int64_t k, float* c,
                                    int64_t ldc, bool accumulate, const Ahead& ahead) {
  using F = typename VectorOf<N>::F;
  // Few accumulators wait for each other: then the sum goes in parts.
  constexpr int kParts = Fixed || M * V >= 8 ? 1 : M * V >= 4 ? 2 : 4;
  F sum[kParts][M][V];
  const TB* columns[V];
  for (int j = 0; j < V; ++j) columns[j] = b[j];
  for (int p = 0; p < kParts; ++p) {
    for (int m = 0; m < M; ++m) {
      for (int j = 0; j < V; ++j) {
        sum[p][m][j] = accumulate && p == 0 ? Load<N>(c + m * ldc + j * N) : F{};
      }
    }
  }
  const auto add = [&](int64_t i, F(&part)[M][V]) __attribute__((always_inline)) {
    ahead.Bring(i);
    F row[V];
    for (int j = 0; j < V; ++j) row[j] = Load<N>(columns[j] + i * ldb);
    for (int m = 0; m < M; ++m) {
      const F value = Splat<N>(a[m * a_row + i * a_col]);
      for (int j = 0; j < V; ++j) part[m][j] += value * row[j];
    }
  };
  int64_t i = 0;
  for (; i + kParts <= k; i += kParts) {
    for (int p = 0; p < kParts; ++p) add(i + p, sum[p]);
  }
  for (; i < k; ++i) add(i, sum[0]);
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < V; ++j) {
      F total = sum[0][m][j];
      for (int p = 1; p < kParts; ++p) total += sum[p][m][j];
      Store<N>(c + m * ldc + j * N, total);
    }
  }
}

// 32 vector registers with AVX-512, 16 without: so many accumulators fit.
constexpr int kRowsMax = kWidth == 16 ? 8 : 4;
constexpr int kWideRowsMax = kWidth == 16 ? 4 : 2;  // rows with which 4 vectors fit

// All `rows` rows for V vectors of columns.
template <bool Fixed, int V, int N, typename TB, typename Ahead>
CRESCENDO_INLINE void TileColumns(int64_t rows, const float* a, int64_t a_row, int64_t a_col,
                                  const TB* const* b, int64_t ldb, int64_t k, float* c, int64_t ldc,
                                  bool accumulate, const Ahead& ahead) {
  constexpr int kMax = V == 4 ? kWideRowsMax : kRowsMax;
  int64_t m = 0;
  for (; m + kMax <= rows; m += kMax) {
    Tile<Fixed, kMax, V, N>(a + m * a_row, a_row, a_col, b, ldb, k, c + m * ldc, ldc, accumulate,
                           ahead);
  }
  const float* rest = a + m * a_row;
  float* out = c + m * ldc;
#define CRESCENDO_TILE(M)                                                 \
  case M:                                                                 \
    if constexpr (M < kMax) {                                             \
      Tile<Fixed, M, V, N>(rest, a_row, a_col, b, ldb, k, out, ldc, accumulate, ahead); \
    }                                                                     \
    break;
  switch (rows - m) {
    CRESCENDO_TILE(1)
    CRESCENDO_TILE(2)
    CRESCENDO_TILE(3)
    CRESCENDO_TILE(4)
    CRESCENDO_TILE(5)
    CRESCENDO_TILE(6)
    CRESCENDO_TILE(7)
    default:
      break;
  }
#undef CRESCENDO_TILE
}

// C[rows, columns] (+)= A[rows, k] B[k, columns]; columns is a multiple of 8.
template <bool Fixed = false, typename TB, typename Ahead = Nothing>
void Gemm(int64_t rows, int64_t columns, int64_t k, const float* a, int64_t a_row, int64_t a_col,
          const TB* b, int64_t ldb, float* c, int64_t ldc, bool accumulate,
          const Ahead& ahead = {}) {
  int64_t n = 0;
  const TB* at[4];
  if (rows <= kWideRowsMax) {
    for (; n + 4 * kWidth <= columns; n += 4 * kWidth) {
      for (int j = 0; j < 4; ++j) at[j] = b + n + j * kWidth;
      TileColumns<Fixed, 4, kWidth>(rows, a, a_row, a_col, at, ldb, k, c + n, ldc, accumulate, ahead);
    }
  }
  for (; n + 2 * kWidth <= columns; n += 2 * kWidth) {
    for (int j = 0; j < 2; ++j) at[j] = b + n + j * kWidth;
    TileColumns<Fixed, 2, kWidth>(rows, a, a_row, a_col, at, ldb, k, c + n, ldc, accumulate, ahead);
  }
  for (; n + kWidth <= columns; n += kWidth) {
    at[0] = b + n;
    TileColumns<Fixed, 1, kWidth>(rows, a, a_row, a_col, at, ldb, k, c + n, ldc, accumulate, ahead);
  }
  if constexpr (kWidth == 16) {
    if (n < columns) {
      at[0] = b + n;
      TileColumns<Fixed, 1, 8>(rows, a, a_row, a_col, at, ldb, k, c + n, ldc, accumulate, ahead);
    }
  }
}

CRESCENDO_INLINE int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

CRESCENDO_INLINE Vec LaneNumbers() {
  float lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = static_cast<float>(i);
  return Load(lanes);
}

// scores[0, limit) := e^(score - max), [limit, end rounded up) := 0. Returns the sum, sets max.
CRESCENDO_INLINE float SoftmaxInPlace(float* scores, int64_t limit, int64_t end, float* max_out) {
  const Vec lane = LaneNumbers();
  const Vec lowest = Splat(-INFINITY);
  Vec max = lowest;
  const int64_t whole = limit / kWidth * kWidth;
  const Vec rest = Splat(static_cast<float>(limit - whole));
  for (int64_t j = 0; j < whole; j += kWidth) max = Max(max, Load(scores + j));
  if (whole < limit) max = Max(max, lane < rest ? Load(scores + whole) : lowest);
  const float top = MaxLane(max);
  Vec sum = {};
  for (int64_t j = 0; j < whole; j += kWidth) {
    const Vec e = Exp(Load(scores + j) - top);
    sum += e;
    Store(scores + j, e);
  }
  int64_t j = whole;
  if (whole < limit) {
    const Vec e = lane < rest ? Exp(Load(scores + whole) - top) : Vec{};
    sum += e;
    Store(scores + whole, e);
    j += kWidth;
  }
  for (; j < end; j += kWidth) Store(scores + j, Vec{});
  *max_out = top;
  return Sum(sum);
}

// rows of `dim` elements as fp32 times `scale`, padded with zeros to `padded`.
template <typename T>
CRESCENDO_INLINE void CopyRow(const T* in, float* out, int64_t dim, int64_t padded, float scale) {
  ForEachVector(
      dim, [&](int64_t i, int64_t count) { StoreN(out + i, LoadN(in + i, count) * scale, count); });
  for (int64_t i = dim; i < padded; ++i) out[i] = 0.0f;
}
template <typename T>
CRESCENDO_INLINE void WriteRow(const float* in, T* out, int64_t dim, float scale) {
  ForEachVector(
      dim, [&](int64_t i, int64_t count) { StoreN(out + i, LoadN(in + i, count) * scale, count); });
}

// Paged -------------------------------------------------------------------------------------------

template <typename T>
void WriteCache(const PagedTask& t) {
  for (int64_t i = 0; i < t.new_tokens; ++i) {
    const int64_t position = t.context_before + i;
    const int64_t block = t.block_table[position / t.block_size];
    const int64_t slot = position % t.block_size;
    T* keys = reinterpret_cast<T*>(t.key_blocks + block * t.key_block_bytes) + slot;
    T* values = reinterpret_cast<T*>(t.value_blocks + block * t.value_block_bytes) +
                slot * t.padded_head_dim;
    const T* k = static_cast<const T*>(t.k) + i * t.k_stride;
    const T* v = static_cast<const T*>(t.v) + i * t.v_stride;
    for (int64_t d = 0; d < t.head_dim; ++d) keys[d * t.block_size] = k[d];
    __builtin_memcpy(values, v, static_cast<size_t>(t.head_dim) * sizeof(T));
    for (int64_t d = t.head_dim; d < t.padded_head_dim; ++d) values[d] = T{};
  }
}

// Scores of `rows` rows against all keys before `end`, block by block.
template <bool Fixed, typename T>
void PagedScores(const PagedTask& t, const float* q, int64_t rows, int64_t end, float* scores,
                 int64_t ld) {
  const int64_t vectors = RoundUp(end, kWidth) / kWidth;
  const auto column = [&](int64_t vector) {
    const int64_t key = vector * kWidth;
    const int64_t block = t.block_table[key / t.block_size];
    return reinterpret_cast<const T*>(t.key_blocks + block * t.key_block_bytes) +
           key % t.block_size;
  };
  // A decode row is bound by memory: the values that these scores will weigh come meanwhile.
  const auto values = [&](int64_t vector) {
    const int64_t key = vector * kWidth;
    return t.value_blocks + t.block_table[key / t.block_size] * t.value_block_bytes +
           key % t.block_size * t.padded_head_dim * int64_t{sizeof(T)};
  };
  Streams ahead{{}, 0, kWidth * int64_t{sizeof(T)}};
  const T* at[4];
  const auto take = [&](int64_t first, int64_t count) {
    ahead.count = count;
    for (int64_t j = 0; j < count; ++j) {
      at[j] = column(first + j);
      ahead.at[j] = values(first + j);
    }
  };
  int64_t n = 0;
  if (rows <= kWideRowsMax) {
    for (; n + 4 <= vectors; n += 4) {
      take(n, 4);
      TileColumns<Fixed, 4, kWidth>(rows, q, t.head_dim, 1, at, t.block_size, t.head_dim,
                                    scores + n * kWidth, ld, false, ahead);
    }
  }
  for (; n + 2 <= vectors; n += 2) {
    take(n, 2);
    TileColumns<Fixed, 2, kWidth>(rows, q, t.head_dim, 1, at, t.block_size, t.head_dim,
                                  scores + n * kWidth, ld, false, ahead);
  }
  if (n < vectors) {
    take(n, 1);
    TileColumns<Fixed, 1, kWidth>(rows, q, t.head_dim, 1, at, t.block_size, t.head_dim,
                                  scores + n * kWidth, ld, false, ahead);
  }
}

template <bool Fixed, typename T>
void PagedRows(const PagedTask& t, float* scratch) {
  WriteCache<T>(t);
  const int64_t tile_tokens = t.group >= kTileRows ? 1 : kTileRows / t.group;
  for (int64_t first = 0; first < t.new_tokens; first += tile_tokens) {
    const int64_t left = t.new_tokens - first;
    const int64_t tokens = left < tile_tokens ? left : tile_tokens;
    const int64_t rows = tokens * t.group;
    const int64_t end = t.context_before + first + tokens;
    const int64_t ld = RoundUp(end, 64);
    float* q = scratch;
    float* out = q + rows * t.head_dim;
    float* scores = out + rows * t.padded_head_dim;
    for (int64_t r = 0; r < rows; ++r) {
      CopyRow(static_cast<const T*>(t.q) + (first + r / t.group) * t.q_stride +
                  (r % t.group) * t.head_dim,
              q + r * t.head_dim, t.head_dim, t.head_dim, t.scale);
    }
    PagedScores<Fixed, T>(t, q, rows, end, scores, ld);
    float inverse_sums[2 * kTileRows];
    float* inverse = rows <= 2 * kTileRows ? inverse_sums : scores + rows * ld;
    for (int64_t r = 0; r < rows; ++r) {
      float max;
      const int64_t limit = t.context_before + first + r / t.group + 1;
      inverse[r] = 1.0f / SoftmaxInPlace(scores + r * ld, limit, end, &max);
    }
    for (int64_t start = 0; start < end; start += t.block_size) {
      const int64_t block = t.block_table[start / t.block_size];
      const int64_t count = end - start < t.block_size ? end - start : t.block_size;
      // Meanwhile come the keys of the task behind this one.
      Streams ahead{{}, 0, t.head_dim * int64_t{sizeof(T)}};
      if (start < t.next_context) {
        ahead.count = 1;
        ahead.at[0] = t.next_key_blocks + t.next_block_table[start / t.block_size] * t.key_block_bytes;
      }
      Gemm<Fixed>(rows, t.padded_head_dim, count, scores + start, ld, 1,
                  reinterpret_cast<const T*>(t.value_blocks + block * t.value_block_bytes),
                  t.padded_head_dim, out, t.padded_head_dim, start > 0, ahead);
    }
    for (int64_t r = 0; r < rows; ++r) {
      WriteRow(out + r * t.padded_head_dim,
               static_cast<T*>(t.out) + (first + r / t.group) * t.out_stride +
                   (r % t.group) * t.head_dim,
               t.head_dim, inverse[r]);
    }
  }
}

template <typename T>
void PagedAttention(const PagedTask& t, float* scratch) {
  t.fixed_order ? PagedRows<true, T>(t, scratch) : PagedRows<false, T>(t, scratch);
}

// Packed ------------------------------------------------------------------------------------------

// in [length, dim] -> out [dim, ld] (transposed, columns past length zero).
template <typename T>
void TransposeInto(const T* in, int64_t stride, int64_t length, int64_t dim, float* out,
                   int64_t ld) {
  for (int64_t i = 0; i < length; ++i) {
    for (int64_t d = 0; d < dim; ++d) out[d * ld + i] = ToFloat(in[i * stride + d]);
  }
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t i = length; i < ld; ++i) out[d * ld + i] = 0.0f;
  }
}
template <typename T>
void CopyInto(const T* in, int64_t stride, int64_t length, int64_t dim, float* out,
              int64_t padded) {
  for (int64_t i = 0; i < length; ++i)
    CopyRow(in + i * stride, out + i * padded, dim, padded, 1.0f);
}

template <bool Fixed, typename T>
void PackedRows(const PackedTask& t, float* scratch) {
  const int64_t dim = t.head_dim;
  const int64_t padded = RoundUp(dim, 8);
  const int64_t ld = RoundUp(t.length, 32);
  float* keys = scratch;                 // [dim, ld]
  float* values = keys + dim * ld;       // [length, padded]
  float* scores = values + ld * padded;  // [tile, ld]
  float* q = scores + kTileRows * ld;    // [tile, dim]
  float* out = q + kTileRows * padded;   // [tile, padded]
  TransposeInto(static_cast<const T*>(t.k), t.k_stride, t.length, dim, keys, ld);
  CopyInto(static_cast<const T*>(t.v), t.v_stride, t.length, dim, values, padded);
  for (int64_t head = 0; head < t.group; ++head) {
    for (int64_t first = 0; first < t.length; first += kTileRows) {
      const int64_t rows = t.length - first < kTileRows ? t.length - first : kTileRows;
      const int64_t end = first + rows;
      for (int64_t r = 0; r < rows; ++r) {
        CopyRow(static_cast<const T*>(t.q) + (first + r) * t.q_stride + head * dim, q + r * dim,
                dim, dim, t.scale);
      }
      Gemm<Fixed>(rows, RoundUp(end, kWidth), dim, q, dim, 1, keys, ld, scores, ld, false);
      float inverse[kTileRows];
      for (int64_t r = 0; r < rows; ++r) {
        float max;
        const float sum = SoftmaxInPlace(scores + r * ld, first + r + 1, end, &max);
        inverse[r] = 1.0f / sum;
        if (t.lse != nullptr) t.lse[(first + r) * t.lse_stride + head] = max + logf(sum);
      }
      Gemm<Fixed>(rows, padded, end, scores, ld, 1, values, padded, out, padded, false);
      for (int64_t r = 0; r < rows; ++r) {
        WriteRow(out + r * padded, static_cast<T*>(t.out) + (first + r) * t.out_stride + head * dim,
                 dim, inverse[r]);
      }
    }
  }
}

template <typename T>
void PackedForward(const PackedTask& t, float* scratch) {
  t.fixed_order ? PackedRows<true, T>(t, scratch) : PackedRows<false, T>(t, scratch);
}

// scores := P, d_scores := P (dP - delta): Dao et al., "FlashAttention", algorithm 4, lines 11-16.
CRESCENDO_INLINE void ScoreGradients(float* scores, float* d_scores, int64_t limit, int64_t end,
                                     float lse, float delta) {
  const Vec lane = LaneNumbers();
  for (int64_t j = 0; j < end; j += kWidth) {
    Vec p = Exp(Load(scores + j) - lse);
    if (j + kWidth > limit) p = lane < Splat(static_cast<float>(limit - j)) ? p : Vec{};
    Store(scores + j, p);
    Store(d_scores + j, p * (Load(d_scores + j) - delta));
  }
}

template <typename T>
void PackedBackward(const PackedTask& t, float* scratch) {
  const int64_t dim = t.head_dim;
  const int64_t padded = RoundUp(dim, 8);
  const int64_t ld = RoundUp(t.length, 32);
  float* keys_t = scratch;                    // [dim, ld]
  float* values_t = keys_t + padded * ld;     // [dim, ld]
  float* keys = values_t + padded * ld;       // [length, padded]
  float* d_keys = keys + padded * ld;         // [length, padded]
  float* d_values = d_keys + padded * ld;     // [length, padded]
  float* scores = d_values + padded * ld;     // [tile, ld]
  float* d_scores = scores + kTileRows * ld;  // [tile, ld]
  float* q = d_scores + kTileRows * ld;       // [tile, padded]
  float* d_out = q + kTileRows * padded;      // [tile, padded]
  float* d_q = d_out + kTileRows * padded;    // [tile, padded]
  TransposeInto(static_cast<const T*>(t.k), t.k_stride, t.length, dim, keys_t, ld);
  TransposeInto(static_cast<const T*>(t.v), t.v_stride, t.length, dim, values_t, ld);
  CopyInto(static_cast<const T*>(t.k), t.k_stride, t.length, dim, keys, padded);
  for (int64_t i = 0; i < t.length * padded; ++i) d_keys[i] = d_values[i] = 0.0f;
  for (int64_t head = 0; head < t.group; ++head) {
    for (int64_t first = 0; first < t.length; first += kTileRows) {
      const int64_t rows = t.length - first < kTileRows ? t.length - first : kTileRows;
      const int64_t end = first + rows;
      const int64_t columns = RoundUp(end, kWidth);
      float delta[kTileRows];
      for (int64_t r = 0; r < rows; ++r) {
        CopyRow(static_cast<const T*>(t.q) + (first + r) * t.q_stride + head * dim, q + r * padded,
                dim, padded, t.scale);
        CopyRow(static_cast<const T*>(t.d_out) + (first + r) * t.d_out_stride + head * dim,
                d_out + r * padded, dim, padded, 1.0f);
        const T* out = static_cast<const T*>(t.out) + (first + r) * t.out_stride + head * dim;
        Vec dot = {};
        ForEachVector(dim, [&](int64_t i, int64_t count) {
          dot += LoadN(out + i, count) * LoadN(d_out + r * padded + i, count);
        });
        delta[r] = Sum(dot);
      }
      Gemm(rows, columns, dim, q, padded, 1, keys_t, ld, scores, ld, false);
      Gemm(rows, columns, dim, d_out, padded, 1, values_t, ld, d_scores, ld, false);
      for (int64_t r = 0; r < rows; ++r) {
        ScoreGradients(scores + r * ld, d_scores + r * ld, first + r + 1, end,
                       t.lse[(first + r) * t.lse_stride + head], delta[r]);
      }
      Gemm(rows, padded, end, d_scores, ld, 1, keys, padded, d_q, padded, false);
      for (int64_t r = 0; r < rows; ++r) {
        WriteRow(d_q + r * padded, static_cast<T*>(t.d_q) + (first + r) * t.d_q_stride + head * dim,
                 dim, t.scale);
      }
      Gemm(end, padded, rows, d_scores, 1, ld, q, padded, d_keys, padded, true);
      Gemm(end, padded, rows, scores, 1, ld, d_out, padded, d_values, padded, true);
    }
  }
  for (int64_t i = 0; i < t.length; ++i) {
    WriteRow(d_keys + i * padded, static_cast<T*>(t.d_k) + i * t.d_k_stride, dim, 1.0f);
    WriteRow(d_values + i * padded, static_cast<T*>(t.d_v) + i * t.d_v_stride, dim, 1.0f);
  }
}

}  // namespace
}  // namespace crescendo::kernels
