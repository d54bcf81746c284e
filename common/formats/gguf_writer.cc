#include "common/formats/gguf_writer.h"

#include <memory>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr size_t kAlignment = 32;  // the format's default
constexpr size_t kFlushBytes = 1u << 20;

template <typename T>
void Put(T value, std::string* out) {
  static_assert(std::is_arithmetic_v<T>);
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void PutString(absl::string_view text, std::string* out) {
  Put<uint64_t>(text.size(), out);
  absl::StrAppend(out, text);
}

// The type's number and the value, as the format has them.
struct ValueWriter {
  std::string* out;
  template <typename T>
  void Scalar(uint32_t type, T value) const {
    Put(type, out);
    Put(value, out);
  }
  template <typename T>
  void List(uint32_t type, const std::vector<T>& values) const {
    Put<uint32_t>(9, out);
    Put(type, out);
    Put<uint64_t>(values.size(), out);
    for (const T& value : values) {
      if constexpr (std::is_same_v<T, std::string>) {
        PutString(value, out);
      } else {
        Put(value, out);
      }
    }
  }
  void operator()(bool value) const { Scalar<uint8_t>(7, value ? 1 : 0); }
  void operator()(uint32_t value) const { Scalar(4, value); }
  void operator()(int32_t value) const { Scalar(5, value); }
  void operator()(uint64_t value) const { Scalar(10, value); }
  void operator()(int64_t value) const { Scalar(11, value); }
  void operator()(float value) const { Scalar(6, value); }
  void operator()(const std::string& value) const {
    Put<uint32_t>(8, out);
    PutString(value, out);
  }
  void operator()(const std::vector<std::string>& values) const { List(8, values); }
  void operator()(const std::vector<int32_t>& values) const { List(5, values); }
  void operator()(const std::vector<float>& values) const { List(6, values); }
};

struct Size {
  int64_t rows;
  int64_t columns;
  uint64_t bytes;
};

absl::StatusOr<Size> SizeOf(const GgufWriteTensor& tensor, absl::string_view place) {
  if (!CanQuantize(tensor.type)) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, ": type ", InfoOf(tensor.type).name, " is not written"));
  }
  const GgmlTypeInfo& info = InfoOf(tensor.type);
  Size size{1, tensor.shape.empty() ? 1 : tensor.shape.back(), 0};
  bool fits = size.columns >= 0 && size.columns % info.block_elements == 0;
  for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) {
    fits = fits && tensor.shape[i] >= 0 &&
           !__builtin_mul_overflow(size.rows, tensor.shape[i], &size.rows);
  }
  const uint64_t row_bytes =
      fits ? static_cast<uint64_t>(size.columns) / info.block_elements * info.block_bytes : 0;
  if (!fits || __builtin_mul_overflow(row_bytes, static_cast<uint64_t>(size.rows), &size.bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        place, ": a negative or too large size, or rows that are no whole blocks of ", info.name));
  }
  return size;
}

std::string Padding(uint64_t position) {
  return std::string((kAlignment - position % kAlignment) % kAlignment, '\0');
}

absl::Status WriteTensor(const GgufWriteTensor& tensor, const Size& size, AtomicFile* file) {
  std::vector<float> row(static_cast<size_t>(size.columns));
  std::string buffer;
  for (int64_t i = 0; i < size.rows; ++i) {
    tensor.read_row(i, absl::MakeSpan(row));
    QuantizeRow(tensor.type, row, &buffer);
    if (buffer.size() < kFlushBytes) continue;
    RETURN_IF_ERROR(file->Append(buffer));
    buffer.clear();
  }
  absl::StrAppend(&buffer, Padding(size.bytes));
  return file->Append(buffer);
}

}  // namespace

absl::Status WriteGguf(FileSystem& files, const std::string& path,
                       absl::Span<const std::pair<std::string, GgufWriteValue>> metadata,
                       absl::Span<const GgufWriteTensor> tensors) {
  std::string header = "GGUF";
  Put<uint32_t>(3, &header);
  Put<uint64_t>(tensors.size(), &header);
  Put<uint64_t>(metadata.size(), &header);
  absl::flat_hash_set<absl::string_view> keys, names;
  for (const auto& [key, value] : metadata) {
    if (key.empty() || !keys.insert(key).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("write ", path, ": key '", key, "' is empty or there twice"));
    }
    PutString(key, &header);
    std::visit(ValueWriter{&header}, value);
  }
  std::vector<Size> sizes;
  uint64_t offset = 0;
  for (const GgufWriteTensor& tensor : tensors) {
    const std::string place = absl::StrCat("write ", path, ": tensor '", tensor.name, "'");
    if (tensor.name.empty() || !names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": the name is empty or there twice"));
    }
    ASSIGN_OR_RETURN(const Size size, SizeOf(tensor, place));
    PutString(tensor.name, &header);
    Put(static_cast<uint32_t>(tensor.shape.size()), &header);
    for (size_t i = tensor.shape.size(); i-- > 0;)
      Put(static_cast<uint64_t>(tensor.shape[i]), &header);
    Put(static_cast<uint32_t>(tensor.type), &header);
    Put(offset, &header);
    offset += size.bytes + Padding(size.bytes).size();
    sizes.push_back(size);
  }
  absl::StrAppend(&header, Padding(header.size()));
  ASSIGN_OR_RETURN(const std::unique_ptr<AtomicFile> file, files.CreateAtomic(path));
  RETURN_IF_ERROR(file->Append(header));
  for (size_t i = 0; i < tensors.size(); ++i)
    RETURN_IF_ERROR(WriteTensor(tensors[i], sizes[i], file.get()));
  return file->Commit();
}

}  // namespace crescendo
