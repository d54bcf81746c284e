// The element types of GGUF tensors and their blocks, to floats and from them.
//
// A row is a sequence of blocks of a fixed number of elements, each with its own scale (and
// minimum). The layouts are those of ggml (ggml-common.h, ggml-quants.c); results equal gguf-py's
// bit for bit (tests/parity/text). Pure functions; thread-safe.
#ifndef CRESCENDO_COMMON_FORMATS_GGUF_QUANT_H_
#define CRESCENDO_COMMON_FORMATS_GGUF_QUANT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace crescendo {

enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
};

struct GgmlTypeInfo {
  GgmlType type;
  absl::string_view name;  // as ggml writes it: "Q4_K"
  uint32_t block_elements;
  uint32_t block_bytes;
  bool dequantizes;  // whether DequantizeRow takes it
};

// Null for a number that stands for no type we know the size of.
const GgmlTypeInfo* FindGgmlType(uint32_t type);
const GgmlTypeInfo& InfoOf(GgmlType type);

// Whether QuantizeRow makes this type: F32, F16, BF16, Q8_0 and Q4_0.
bool CanQuantize(GgmlType type);

// Appends `row` as blocks of `type` to `out`, as gguf-py does. Requires CanQuantize(type) and
// row.size() a multiple of the block. Values must be finite for the quantised types.
void QuantizeRow(GgmlType type, absl::Span<const float> row, std::string* out);

// Requires InfoOf(type).dequantizes, out.size() a multiple of the block, and row of the bytes that
// out.size() takes.
void DequantizeRow(GgmlType type, absl::Span<const char> row, absl::Span<float> out);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_FORMATS_GGUF_QUANT_H_
