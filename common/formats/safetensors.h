// Hugging Face's safetensors, read from a memory map and written atomically, without a tensor
// library. The format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON
// header, the tensors' bytes).
//
// What a reader hands out was checked whole at Open: names are unique, each tensor's bytes lie
// inside the file, overlap no other's, and are as many as dtype and shape say. Errors are
// INVALID_ARGUMENT and name the file, the tensor, what was expected and what was found. A tensor's
// bytes are little-endian, row-major and need not be aligned in a file written by others.
//
// Thread-safe after Open. A view's bytes live as long as the SafetensorsFile.
#ifndef CRESCENDO_COMMON_FORMATS_SAFETENSORS_H_
#define CRESCENDO_COMMON_FORMATS_SAFETENSORS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/os/env.h"

namespace crescendo {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };

// Bytes of one element.
size_t DTypeBytes(DType dtype);
// As the format writes it: "F32", "BF16", "BOOL".
absl::string_view DTypeName(DType dtype);
std::optional<DType> ParseDType(absl::string_view name);

struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;    // empty for a scalar
  absl::Span<const char> bytes;  // little-endian, row-major
  int64_t elements() const { return static_cast<int64_t>(bytes.size() / DTypeBytes(dtype)); }
};

class SafetensorsFile {
 public:
  // One file.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(FileSystem& files,
                                                               const std::string& path);
  // A model's folder: model.safetensors, or the shards that model.safetensors.index.json lists.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenModel(FileSystem& files,
                                                                    const std::string& dir);

  // In the order of their bytes; shard after shard.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  // Null when there is none of that name.
  const TensorView* Find(absl::string_view name) const;
  // NOT_FOUND, with the file, when there is none of that name.
  absl::StatusOr<const TensorView*> Get(absl::string_view name) const;
  // The header's __metadata__; of a sharded model the first shard's.
  const absl::btree_map<std::string, std::string>& metadata() const { return metadata_; }
  // The file's path, or the index's.
  const std::string& path() const { return path_; }

 private:
  SafetensorsFile() = default;
  absl::Status AddFile(FileSystem& files, const std::string& path);
  absl::Status AddShards(FileSystem& files, const std::string& dir);

  std::string path_;
  std::vector<std::unique_ptr<MappedFile>> maps_;
  std::vector<TensorView> tensors_;
  absl::flat_hash_map<std::string, size_t> by_name_;
  absl::btree_map<std::string, std::string> metadata_;
};

// Writes tensors (views of the caller's memory) as one file, atomically. Wide element types come
// first, so that every tensor is aligned; among equals the given order stays. INVALID_ARGUMENT when
// names repeat or bytes do not fit a shape.
absl::Status WriteSafetensors(FileSystem& files, const std::string& path,
                              absl::Span<const TensorView> tensors,
                              const absl::btree_map<std::string, std::string>& metadata = {});

}  // namespace crescendo

#endif  // CRESCENDO_COMMON_FORMATS_SAFETENSORS_H_
