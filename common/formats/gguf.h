// GGUF, the model files of llama.cpp, versions 2 and 3: typed metadata and tensors, read from a
// memory map. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// What a reader hands out was checked whole at Open: every count and length lies inside the file,
// names and keys are unique, tensors are aligned, lie in the file and do not overlap. Errors are
// INVALID_ARGUMENT and name the file, the key or tensor, what was expected and what was found.
//
// Thread-safe after Open. Views (strings of the metadata, tensors' bytes) live as long as the
// GgufFile.
#ifndef CRESCENDO_COMMON_FORMATS_GGUF_H_
#define CRESCENDO_COMMON_FORMATS_GGUF_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/formats/gguf_quant.h"
#include "common/os/env.h"

namespace crescendo {

// A metadata value. Integers of every width are int64_t when they fit, else uint64_t; floats are
// double.
using GgufValue =
    std::variant<bool, int64_t, uint64_t, double, absl::string_view, std::vector<bool>,
                 std::vector<int64_t>, std::vector<double>, std::vector<absl::string_view>>;

struct GgufTensor {
  std::string name;  // llama.cpp's: "blk.0.attn_q.weight"
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t>
      shape;  // row-major as in PyTorch ([out, in]): the reverse of the file's order
  absl::Span<const char> bytes;
  int64_t elements() const;
};

class GgufFile {
 public:
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(FileSystem& files, const std::string& path);

  // In the file's order.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  // Null when there is none of that name.
  const GgufTensor* Find(absl::string_view name) const;
  // NOT_FOUND, with the file, when there is none of that name.
  absl::StatusOr<const GgufTensor*> Get(absl::string_view name) const;

  // Null when there is no such key.
  const GgufValue* FindValue(absl::string_view key) const;
  bool Has(absl::string_view key) const { return FindValue(key) != nullptr; }
  // NOT_FOUND without the key, INVALID_ARGUMENT for another type; both name file and key.
  absl::StatusOr<int64_t> GetInt(absl::string_view key) const;
  absl::StatusOr<double> GetFloat(absl::string_view key) const;
  absl::StatusOr<bool> GetBool(absl::string_view key) const;
  absl::StatusOr<std::string> GetString(absl::string_view key) const;
  absl::StatusOr<const std::vector<absl::string_view>*> GetStrings(absl::string_view key) const;
  absl::StatusOr<const std::vector<int64_t>*> GetInts(absl::string_view key) const;
  absl::StatusOr<const std::vector<double>*> GetFloats(absl::string_view key) const;
  // All keys, sorted.
  std::vector<std::string> Keys() const;

  const std::string& path() const { return path_; }

 private:
  GgufFile() = default;
  template <typename T>
  absl::StatusOr<const T*> GetTyped(absl::string_view key, absl::string_view expected) const;
  absl::Status Parse();
  absl::Status PlaceTensors(absl::Span<const uint64_t> offsets, absl::Span<const char> data);
  absl::StatusOr<uint64_t> Alignment() const;

  std::string path_;
  std::unique_ptr<MappedFile> map_;
  absl::flat_hash_map<std::string, GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> by_name_;
};

// All of a tensor as floats, row-major. Requires out.size() == tensor.elements(). UNIMPLEMENTED for
// a type that CanDequantize refuses.
absl::Status Dequantize(const GgufTensor& tensor, absl::Span<float> out);

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_FORMATS_GGUF_H_
