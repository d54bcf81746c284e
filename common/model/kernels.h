// The CPU kernels: plain functions over rows and tiles, compiled once for each instruction set from
// the same source (kernels_rows.inl, kernels_attention.inl) and chosen when the process starts. No
// LibTorch, no threads: callers split the rows.
//
// All sums are fp32 (double over blocks where a row is long), whatever the stored type. A row's
// result does not depend on the other rows. Thread-safe.
#ifndef CRESCENDO_COMMON_MODEL_KERNELS_H_
#define CRESCENDO_COMMON_MODEL_KERNELS_H_

#include <cstdint>

namespace crescendo::kernels {

struct Bf16 {
  uint16_t bits;
};

// Sum of e^z and of z e^z over a row, z = (x - max) * inverse_temperature.
struct SoftmaxSums {
  double exp = 0.0;
  double z_exp = 0.0;
};

// Sums over a row are taken in blocks of this many logits, so that a draw can skip blocks.
inline constexpr int64_t kSumBlock = 512;

// One sequence and KV head of a paged pass (see paged_attention.cc).
struct PagedTask {
  const void* q;  // [new_tokens, group, head_dim], strides q_stride and head_dim
  const void* k;  // [new_tokens, head_dim], stride kv_stride
  const void* v;
  int64_t q_stride;
  int64_t k_stride;
  int64_t v_stride;
  void* out;  // [new_tokens, group, head_dim], stride out_stride
  int64_t out_stride;
  char* key_blocks;  // of this layer and KV head; block b starts at b * key_block_bytes
  char* value_blocks;
  int64_t key_block_bytes;
  int64_t value_block_bytes;
  const int32_t* block_table;
  int64_t context_before;
  int64_t new_tokens;
  int32_t block_size;
  int32_t group;  // query heads of one KV head
  int32_t head_dim;
  int32_t padded_head_dim;
  float scale;
  bool fixed_order;  // see PackedTask
  // The task that this thread will do next, whose keys are brought near; next_context 0: none.
  const char* next_key_blocks;
  const int32_t* next_block_table;
  int64_t next_context;
};

// One sequence and KV head of a packed pass.
struct PackedTask {
  const void* q;  // [length, group, head_dim], stride q_stride
  const void* k;  // [length, head_dim], stride k_stride
  const void* v;
  int64_t q_stride;
  int64_t k_stride;
  int64_t v_stride;
  void* out;  // [length, group, head_dim], stride out_stride
  int64_t out_stride;
  float* lse;  // [length, group], stride lse_stride: log of the sum of e^score
  int64_t lse_stride;
  int64_t length;
  int32_t group;
  int32_t head_dim;
  float scale;
  // Every sum goes over its terms one by one, so that a row has the same bits whatever the rows
  // beside it, paged or packed (forward only). Slower for few rows.
  bool fixed_order;
  // Backward only.
  const void* d_out;  // as out, stride d_out_stride
  int64_t d_out_stride;
  void* d_q;  // as q, k, v, strides d_*_stride
  void* d_k;
  void* d_v;
  int64_t d_q_stride;
  int64_t d_k_stride;
  int64_t d_v_stride;
};

// What is typed: one set for fp32, one for bf16 storage. Strides are in elements.
template <typename T>
struct TypedTable {
  // y = x / rms(x) * weight over rows of n; rstd (nullable) gets 1 / rms.
  void (*rms_norm)(const T* x, int64_t x_stride, const T* weight, T* y, int64_t y_stride,
                   float* rstd, int64_t rows, int64_t n, float eps);
  // d_x from d_y; d_weight (fp32 [n]) is added to.
  void (*rms_norm_backward)(const T* x, int64_t x_stride, const T* weight, const T* d_y,
                            int64_t d_y_stride, const float* rstd, T* d_x, float* d_weight,
                            int64_t rows, int64_t n);
  // Rotates `heads` heads of a token from `in` to `out` (may be equal): pairs (i, i + half).
  // sine_sign -1 rotates back.
  void (*rope)(const T* in, T* out, const float* cosine, const float* sine, int64_t heads,
               int64_t head_dim, float sine_sign);
  // out = silu(gate) * up; gate_up [rows, 2 n], gate first.
  void (*swiglu)(const T* gate_up, T* out, int64_t rows, int64_t n);
  void (*swiglu_backward)(const T* gate_up, const T* d_out, T* d_gate_up, int64_t rows, int64_t n);
  // Writes k and v into the cache, then attends. Scratch: PagedScratchFloats.
  void (*paged_attention)(const PagedTask& task, float* scratch);
  void (*packed_forward)(const PackedTask& task, float* scratch);
  void (*packed_backward)(const PackedTask& task, float* scratch);
};

struct Table {
  TypedTable<float> f32;
  TypedTable<Bf16> bf16;
  // The largest value of a row; NaN when a value is not finite.
  float (*row_max)(const float* x, int64_t n);
  // Sums over a row; block_sums (nullable) gets the sum of e^z of each block of kSumBlock.
  SoftmaxSums (*softmax_sums)(const float* x, int64_t n, float max, float inverse_temperature,
                              float* block_sums, bool want_entropy);
  // e^z of one value, as in the sums.
  void (*row_exp)(const float* x, float* y, int64_t n, float max, float inverse_temperature);
  // x := -scale * e^z / sum, in place: the gradient of a log-probability but for the target's
  // place.
  void (*log_prob_gradient)(float* x, int64_t n, float max, float inverse_temperature, double sum,
                            float scale);
  // x := e^z (constant + slope z), in place: with the entropy H, constant = (-scale - entropy_scale
  // (H - log sum)) / sum and slope = -entropy_scale / sum, the gradient of scale log-prob +
  // entropy_scale H but for the target's place.
  void (*exp_times_line)(float* x, int64_t n, float max, float inverse_temperature, float constant,
                         float slope);
  void (*bf16_to_f32)(const Bf16* x, float* y, int64_t n);
  void (*f32_to_bf16)(const float* x, Bf16* y, int64_t n);  // to nearest even
  void (*add_bf16)(const Bf16* x, float* y, int64_t n);     // y += x
  const char* instruction_set;
};

// The best that this CPU has, chosen at the first call.
const Table& Kernels();
// A given one, for tests: "avx512", "avx2" or "generic"; nullptr when the CPU lacks it.
const Table* KernelsFor(const char* instruction_set);

template <typename T>
const TypedTable<T>& TypedKernels();
template <>
inline const TypedTable<float>& TypedKernels<float>() {
  return Kernels().f32;
}
template <>
inline const TypedTable<Bf16>& TypedKernels<Bf16>() {
  return Kernels().bf16;
}

// Floats of scratch that one thread needs.
int64_t PagedScratchFloats(int64_t context, int32_t group, int32_t head_dim, int32_t block_size);
int64_t PackedScratchFloats(int64_t length, int32_t head_dim, bool backward);

// Query rows of one tile; rows of a tile share the loads of keys and values.
inline constexpr int64_t kTileRows = 16;

}  // namespace crescendo::kernels

#endif  // CRESCENDO_COMMON_MODEL_KERNELS_H_
