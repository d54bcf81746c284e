#include "common/formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace crescendo {
namespace {

constexpr uint32_t kVersionMin = 2;
constexpr uint32_t kVersionMax = 3;
constexpr size_t kNameBytesMax = 1024;
constexpr uint32_t kDimensionsMax = 8;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kAlignmentMax = 1u << 20;

// The type numbers of metadata values.
enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

template <typename... Parts>
absl::Status Bad(absl::string_view place, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", parts...));
}

// Reads little-endian values one after another; every read is checked against the end.
class Cursor {
 public:
  Cursor(absl::Span<const char> bytes, absl::string_view path) : bytes_(bytes), path_(path) {}

  template <typename T>
  absl::StatusOr<T> Read(absl::string_view what) {
    static_assert(std::is_arithmetic_v<T>);
    if (left() < sizeof(T)) return Ends(what);
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  absl::StatusOr<absl::string_view> ReadString(absl::string_view what) {
    ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    if (length > left()) return Ends(what);
    const absl::string_view text(bytes_.data() + position_, length);
    position_ += length;
    return text;
  }

  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

 private:
  absl::Status Ends(absl::string_view what) const {
    return Bad(path_, "the file ends (after ", bytes_.size(), " bytes) inside ", what,
               ": cut short or damaged");
  }
  absl::Span<const char> bytes_;
  absl::string_view path_;
  size_t position_ = 0;
};

template <typename T>
GgufValue FromInteger(T value) {
  if constexpr (std::is_same_v<T, uint64_t>) {
    if (value > static_cast<uint64_t>(INT64_MAX)) return GgufValue(value);
  }
  return GgufValue(static_cast<int64_t>(value));
}

template <typename T>
absl::StatusOr<GgufValue> ReadScalar(Cursor& cursor, absl::string_view what) {
  ASSIGN_OR_RETURN(const T value, cursor.Read<T>(what));
  if constexpr (std::is_floating_point_v<T>) {
    return GgufValue(static_cast<double>(value));
  } else {
    return FromInteger(value);
  }
}

template <typename T>
absl::StatusOr<GgufValue> ReadNumbers(Cursor& cursor, uint64_t count, absl::string_view what) {
  using Element = std::conditional_t<std::is_floating_point_v<T>, double, int64_t>;
  std::vector<Element> out;
  // Only the count that the file has room for is allocated.
  if (count > cursor.left() / sizeof(T)) {
    return Bad(what, "a list of ", count, " elements, but the file ends after ",
               cursor.left() / sizeof(T));
  }
  out.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const T value, cursor.Read<T>(what));
    if constexpr (std::is_same_v<T, uint64_t>) {
      if (value > static_cast<uint64_t>(INT64_MAX)) {
        return Bad(what, "element ", i, " is above 2^63 - 1");
      }
    }
    out.push_back(static_cast<Element>(value));
  }
  return GgufValue(std::move(out));
}

absl::StatusOr<GgufValue> ReadArray(Cursor& cursor, absl::string_view what) {
  ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(what));
  ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>(what));
  switch (type) {
    case kUint8:
      return ReadNumbers<uint8_t>(cursor, count, what);
    case kInt8:
      return ReadNumbers<int8_t>(cursor, count, what);
    case kUint16:
      return ReadNumbers<uint16_t>(cursor, count, what);
    case kInt16:
      return ReadNumbers<int16_t>(cursor, count, what);
    case kUint32:
      return ReadNumbers<uint32_t>(cursor, count, what);
    case kInt32:
      return ReadNumbers<int32_t>(cursor, count, what);
    case kFloat32:
      return ReadNumbers<float>(cursor, count, what);
    case kUint64:
      return ReadNumbers<uint64_t>(cursor, count, what);
    case kInt64:
      return ReadNumbers<int64_t>(cursor, count, what);
    case kFloat64:
      return ReadNumbers<double>(cursor, count, what);
    case kBool: {
      std::vector<bool> out;
      for (uint64_t i = 0; i < count; ++i) {
        ASSIGN_OR_RETURN(const uint8_t value, cursor.Read<uint8_t>(what));
        out.push_back(value != 0);
      }
      return GgufValue(std::move(out));
    }
    case kString: {
      std::vector<absl::string_view> out;
      for (uint64_t i = 0; i < count; ++i) {
        ASSIGN_OR_RETURN(const absl::string_view text, cursor.ReadString(what));
        out.push_back(text);
      }
      return GgufValue(std::move(out));
    }
    case kArray:
      return Bad(what, "a list of lists, which is not read");
    default:
      return Bad(what, "unknown element type ", type);
  }
}

absl::StatusOr<GgufValue> ReadValue(Cursor& cursor, uint32_t type, absl::string_view what) {
  switch (type) {
    case kUint8:
      return ReadScalar<uint8_t>(cursor, what);
    case kInt8:
      return ReadScalar<int8_t>(cursor, what);
    case kUint16:
      return ReadScalar<uint16_t>(cursor, what);
    case kInt16:
      return ReadScalar<int16_t>(cursor, what);
    case kUint32:
      return ReadScalar<uint32_t>(cursor, what);
    case kInt32:
      return ReadScalar<int32_t>(cursor, what);
    case kFloat32:
      return ReadScalar<float>(cursor, what);
    case kUint64:
      return ReadScalar<uint64_t>(cursor, what);
    case kInt64:
      return ReadScalar<int64_t>(cursor, what);
    case kFloat64:
      return ReadScalar<double>(cursor, what);
    case kBool: {
      ASSIGN_OR_RETURN(const uint8_t value, cursor.Read<uint8_t>(what));
      return GgufValue(value != 0);
    }
    case kString: {
      ASSIGN_OR_RETURN(const absl::string_view text, cursor.ReadString(what));
      return GgufValue(text);
    }
    case kArray:
      return ReadArray(cursor, what);
    default:
      return Bad(what, "unknown type ", type);
  }
}

// The tensor without its bytes; its offset into the data goes to `offset`.
absl::StatusOr<GgufTensor> ReadTensorInfo(Cursor& cursor, absl::string_view path,
                                          uint64_t* offset) {
  ASSIGN_OR_RETURN(const absl::string_view name, cursor.ReadString("a tensor's name"));
  if (name.empty() || name.size() > kNameBytesMax) {
    return Bad(path, "a tensor's name: expected 1 to ", kNameBytesMax, " bytes, found ",
               name.size());
  }
  const std::string place = absl::StrCat(path, ": tensor '", absl::CHexEscape(name), "'");
  GgufTensor tensor;
  tensor.name = std::string(name);
  ASSIGN_OR_RETURN(const uint32_t dimensions, cursor.Read<uint32_t>(place));
  if (dimensions > kDimensionsMax) {
    return Bad(place, "expected at most ", kDimensionsMax, " dimensions, found ", dimensions);
  }
  for (uint32_t i = 0; i < dimensions; ++i) {
    ASSIGN_OR_RETURN(const uint64_t size, cursor.Read<uint64_t>(place));
    if (size > static_cast<uint64_t>(INT64_MAX))
      return Bad(place, "dimension ", i, " of size ", size);
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(place));
  const GgmlTypeInfo* info = FindGgmlType(type);
  if (info == nullptr) return Bad(place, "unknown tensor type ", type);
  tensor.type = info->type;
  ASSIGN_OR_RETURN(*offset, cursor.Read<uint64_t>(place));
  return tensor;
}

// Bytes that type and shape ask for; nullopt when rows are no whole blocks or the count overflows.
std::optional<uint64_t> BytesOf(const GgufTensor& tensor) {
  const GgmlTypeInfo& info = InfoOf(tensor.type);
  uint64_t elements = 1;
  for (const int64_t size : tensor.shape) {
    if (__builtin_mul_overflow(elements, static_cast<uint64_t>(size), &elements))
      return std::nullopt;
  }
  const uint64_t row = tensor.shape.empty() ? 1 : static_cast<uint64_t>(tensor.shape.back());
  uint64_t bytes;
  if (row % info.block_elements != 0 ||
      __builtin_mul_overflow(elements / info.block_elements, uint64_t{info.block_bytes}, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

}  // namespace

int64_t GgufTensor::elements() const {
  const GgmlTypeInfo& info = InfoOf(type);
  return static_cast<int64_t>(bytes.size() / info.block_bytes * info.block_elements);
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(FileSystem& files,
                                                         const std::string& path) {
  std::unique_ptr<GgufFile> file(new GgufFile);
  file->path_ = path;
  ASSIGN_OR_RETURN(file->map_, files.MemoryMap(path));
  RETURN_IF_ERROR(file->Parse());
  return file;
}

absl::Status GgufFile::Parse() {
  const absl::Span<const char> bytes = map_->bytes();
  if (bytes.size() < 4 || std::memcmp(bytes.data(), "GGUF", 4) != 0) {
    return Bad(path_, "expected a GGUF file, but it does not start with 'GGUF'");
  }
  Cursor cursor(bytes, path_);
  RETURN_IF_ERROR(cursor.Read<uint32_t>("the header").status());
  ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>("the header"));
  if (version < kVersionMin || version > kVersionMax) {
    return Bad(path_, "expected GGUF version ", kVersionMin, " or ", kVersionMax,
               " (little-endian), found ", version);
  }
  ASSIGN_OR_RETURN(const uint64_t tensor_count, cursor.Read<uint64_t>("the header"));
  ASSIGN_OR_RETURN(const uint64_t value_count, cursor.Read<uint64_t>("the header"));
  // Counts are not trusted: nothing is allocated by them, and the loops end where the file does.
  for (uint64_t i = 0; i < value_count; ++i) {
    ASSIGN_OR_RETURN(const absl::string_view key, cursor.ReadString("a metadata key"));
    if (key.empty() || key.size() > kNameBytesMax) {
      return Bad(path_, "a metadata key: expected 1 to ", kNameBytesMax, " bytes, found ",
                 key.size());
    }
    const std::string what = absl::StrCat(path_, ": key '", absl::CHexEscape(key), "'");
    ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(what));
    ASSIGN_OR_RETURN(GgufValue value, ReadValue(cursor, type, what));
    if (!values_.emplace(std::string(key), std::move(value)).second) {
      return Bad(what, "is there twice");
    }
  }
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    uint64_t offset = 0;
    ASSIGN_OR_RETURN(GgufTensor tensor, ReadTensorInfo(cursor, path_, &offset));
    if (!by_name_.emplace(tensor.name, tensors_.size()).second) {
      return Bad(path_, "tensor '", absl::CHexEscape(tensor.name), "' is there twice");
    }
    tensors_.push_back(std::move(tensor));
    offsets.push_back(offset);
  }
  ASSIGN_OR_RETURN(const uint64_t alignment, Alignment());
  const uint64_t data_begin = (cursor.position() + alignment - 1) / alignment * alignment;
  if (data_begin > bytes.size() && !tensors_.empty()) {
    return Bad(path_, "the file ends before the tensors' bytes: cut short or damaged");
  }
  for (size_t i = 0; i < offsets.size(); ++i) {
    if (offsets[i] % alignment != 0) {
      return Bad(path_, "tensor '", absl::CHexEscape(tensors_[i].name), "': offset ", offsets[i],
                 " is no multiple of the alignment of ", alignment);
    }
  }
  return PlaceTensors(offsets, bytes.subspan(std::min<uint64_t>(data_begin, bytes.size())));
}

absl::StatusOr<uint64_t> GgufFile::Alignment() const {
  if (!Has("general.alignment")) return kDefaultAlignment;
  ASSIGN_OR_RETURN(const int64_t value, GetInt("general.alignment"));
  const uint64_t alignment = static_cast<uint64_t>(value);
  if (value <= 0 || alignment > kAlignmentMax || (alignment & (alignment - 1)) != 0) {
    return Bad(path_, "key 'general.alignment': expected a power of two up to ", kAlignmentMax,
               ", found ", value);
  }
  return alignment;
}

absl::Status GgufFile::PlaceTensors(absl::Span<const uint64_t> offsets,
                                    absl::Span<const char> data) {
  std::vector<size_t> order;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    GgufTensor& tensor = tensors_[i];
    const std::string place = absl::StrCat(path_, ": tensor '", absl::CHexEscape(tensor.name), "'");
    const std::optional<uint64_t> size = BytesOf(tensor);
    if (!size) {
      return Bad(place, "a shape that is too large, or whose rows are no whole blocks of ",
                 InfoOf(tensor.type).name);
    }
    if (offsets[i] > data.size() || *size > data.size() - offsets[i]) {
      return Bad(place, "its ", *size, " bytes at ", offsets[i], " lie outside the ", data.size(),
                 " bytes of data (is the file cut short?)");
    }
    tensor.bytes = data.subspan(offsets[i], *size);
    order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::make_pair(offsets[a], tensors_[a].bytes.size()) <
           std::make_pair(offsets[b], tensors_[b].bytes.size());
  });
  for (size_t i = 1; i < order.size(); ++i) {
    const GgufTensor& before = tensors_[order[i - 1]];
    if (offsets[order[i]] < offsets[order[i - 1]] + before.bytes.size()) {
      return Bad(path_, "tensors '", absl::CHexEscape(before.name), "' and '",
                 absl::CHexEscape(tensors_[order[i]].name), "' overlap");
    }
  }
  return absl::OkStatus();
}

const GgufTensor* GgufFile::Find(absl::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

absl::StatusOr<const GgufTensor*> GgufFile::Get(absl::string_view name) const {
  const GgufTensor* tensor = Find(name);
  if (tensor != nullptr) return tensor;
  return absl::NotFoundError(
      absl::StrCat(path_, ": tensor '", absl::CHexEscape(name), "' is missing"));
}

const GgufValue* GgufFile::FindValue(absl::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

template <typename T>
absl::StatusOr<const T*> GgufFile::GetTyped(absl::string_view key,
                                            absl::string_view expected) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) {
    return absl::NotFoundError(absl::StrCat(path_, ": key '", key, "' is missing"));
  }
  const T* typed = std::get_if<T>(value);
  if (typed == nullptr) return Bad(path_, "key '", key, "': expected ", expected);
  return typed;
}

absl::StatusOr<int64_t> GgufFile::GetInt(absl::string_view key) const {
  ASSIGN_OR_RETURN(const int64_t* value, GetTyped<int64_t>(key, "a whole number"));
  return *value;
}
absl::StatusOr<double> GgufFile::GetFloat(absl::string_view key) const {
  ASSIGN_OR_RETURN(const double* value, GetTyped<double>(key, "a floating-point number"));
  return *value;
}
absl::StatusOr<bool> GgufFile::GetBool(absl::string_view key) const {
  ASSIGN_OR_RETURN(const bool* value, GetTyped<bool>(key, "a bool"));
  return *value;
}
absl::StatusOr<std::string> GgufFile::GetString(absl::string_view key) const {
  ASSIGN_OR_RETURN(const absl::string_view* value, GetTyped<absl::string_view>(key, "a string"));
  return std::string(*value);
}
absl::StatusOr<const std::vector<absl::string_view>*> GgufFile::GetStrings(
    absl::string_view key) const {
  return GetTyped<std::vector<absl::string_view>>(key, "a list of strings");
}
absl::StatusOr<const std::vector<int64_t>*> GgufFile::GetInts(absl::string_view key) const {
  return GetTyped<std::vector<int64_t>>(key, "a list of whole numbers");
}
absl::StatusOr<const std::vector<double>*> GgufFile::GetFloats(absl::string_view key) const {
  return GetTyped<std::vector<double>>(key, "a list of floating-point numbers");
}

std::vector<std::string> GgufFile::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : values_) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  return keys;
}

absl::Status Dequantize(const GgufTensor& tensor, absl::Span<float> out) {
  const GgmlTypeInfo& info = InfoOf(tensor.type);
  if (!info.dequantizes) {
    return absl::UnimplementedError(
        absl::StrCat("tensor '", tensor.name, "': type ", info.name, " is not read"));
  }
  CRESCENDO_CHECK(static_cast<int64_t>(out.size()) == tensor.elements());
  DequantizeRow(tensor.type, tensor.bytes, out);
  return absl::OkStatus();
}

}  // namespace crescendo
