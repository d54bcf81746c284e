// Writes GGUF version 3, atomically: metadata in the given order, then tensors, aligned to 32
// bytes.
#ifndef CRESCENDO_COMMON_FORMATS_GGUF_WRITER_H_
#define CRESCENDO_COMMON_FORMATS_GGUF_WRITER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/formats/gguf_quant.h"
#include "common/os/env.h"

namespace crescendo {

// A metadata value, written as the type that it has here.
using GgufWriteValue =
    std::variant<bool, uint32_t, int32_t, uint64_t, int64_t, float, std::string,
                 std::vector<std::string>, std::vector<int32_t>, std::vector<float>>;

struct GgufWriteTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;  // one that CanQuantize
  std::vector<int64_t> shape;      // row-major, [out, in]; the last is a whole number of blocks
  // Fills `row` (shape.back() floats; one for a scalar) with row `index` of the tensor seen as a
  // matrix. Called once for each row in order, while the file is written: the tensor is never held
  // in memory twice.
  std::function<void(int64_t index, absl::Span<float> row)> read_row;
};

// INVALID_ARGUMENT for repeated names or keys, negative sizes, types that are not written or rows
// of no whole blocks; otherwise the file system's errors. On an error nothing of the file is left.
absl::Status WriteGguf(FileSystem& files, const std::string& path,
                       absl::Span<const std::pair<std::string, GgufWriteValue>> metadata,
                       absl::Span<const GgufWriteTensor> tensors);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_FORMATS_GGUF_WRITER_H_
