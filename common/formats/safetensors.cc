#include "common/formats/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"

namespace crescendo {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kHeaderBytesMax = 32u << 20;
constexpr size_t kHeaderAlignment = 64;
constexpr size_t kIndexBytesMax = 32u << 20;
constexpr size_t kShardsMax = 4096;
constexpr size_t kDimensionsMax = 16;
constexpr absl::string_view kMetadataKey = "__metadata__";

struct DTypeInfo {
  DType dtype;
  absl::string_view name;
  size_t bytes;
};
constexpr std::array<DTypeInfo, 13> kDTypes = {{{DType::kF64, "F64", 8},
                                                {DType::kF32, "F32", 4},
                                                {DType::kF16, "F16", 2},
                                                {DType::kBF16, "BF16", 2},
                                                {DType::kI64, "I64", 8},
                                                {DType::kI32, "I32", 4},
                                                {DType::kI16, "I16", 2},
                                                {DType::kI8, "I8", 1},
                                                {DType::kU64, "U64", 8},
                                                {DType::kU32, "U32", 4},
                                                {DType::kU16, "U16", 2},
                                                {DType::kU8, "U8", 1},
                                                {DType::kBool, "BOOL", 1}}};

const DTypeInfo& Info(DType dtype) {
  const DTypeInfo& info = kDTypes[static_cast<size_t>(dtype)];
  CRESCENDO_CHECK(info.dtype == dtype);
  return info;
}

template <typename... Parts>
absl::Status Bad(absl::string_view place, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", parts...));
}

// The bytes that dtype and shape ask for; nullopt when they do not fit 63 bits.
std::optional<uint64_t> BytesOfShape(DType dtype, absl::Span<const int64_t> shape) {
  uint64_t bytes = DTypeBytes(dtype);
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) return std::nullopt;
  }
  if (bytes > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return bytes;
}

// One entry of the header: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}.
absl::StatusOr<TensorView> ParseEntry(const std::string& name, const Json& entry,
                                      absl::Span<const char> data, absl::string_view path) {
  const std::string place = absl::StrCat(path, ": tensor '", absl::CHexEscape(name), "'");
  if (!entry.is_object()) return Bad(place, "expected an object, found ", entry.type_name());
  const auto dtype_json = entry.find("dtype");
  const auto shape_json = entry.find("shape");
  const auto offsets_json = entry.find("data_offsets");
  if (dtype_json == entry.end() || !dtype_json->is_string()) {
    return Bad(place, "field 'dtype' is missing or no string");
  }
  if (shape_json == entry.end() || !shape_json->is_array()) {
    return Bad(place, "field 'shape' is missing or no list");
  }
  if (offsets_json == entry.end() || !offsets_json->is_array() || offsets_json->size() != 2 ||
      !(*offsets_json)[0].is_number_unsigned() || !(*offsets_json)[1].is_number_unsigned()) {
    return Bad(place, "field 'data_offsets' is missing or not two counts");
  }
  TensorView tensor;
  tensor.name = name;
  const std::string& dtype_name = dtype_json->get_ref<const std::string&>();
  const std::optional<DType> dtype = ParseDType(dtype_name);
  if (!dtype) return Bad(place, "unknown dtype '", absl::CHexEscape(dtype_name), "'");
  tensor.dtype = *dtype;
  if (shape_json->size() > kDimensionsMax) {
    return Bad(place, "expected at most ", kDimensionsMax, " dimensions, found ",
               shape_json->size());
  }
  for (const Json& size : *shape_json) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      return Bad(place, "field 'shape' holds something other than a count");
    }
    tensor.shape.push_back(size.get<int64_t>());
  }
  const uint64_t begin = (*offsets_json)[0].get<uint64_t>();
  const uint64_t end = (*offsets_json)[1].get<uint64_t>();
  if (begin > end || end > data.size()) {
    return Bad(place, "bytes ", begin, " to ", end, " lie outside the ", data.size(),
               " bytes of data (is the file cut short?)");
  }
  const std::optional<uint64_t> expected = BytesOfShape(tensor.dtype, tensor.shape);
  if (!expected || *expected != end - begin) {
    return Bad(place, dtype_name, " of shape [", absl::StrJoin(tensor.shape, ", "), "] takes ",
               expected ? absl::StrCat(*expected) : "too many", " bytes, found ", end - begin);
  }
  tensor.bytes = data.subspan(begin, end - begin);
  return tensor;
}

absl::Status CheckOverlap(absl::Span<const TensorView> sorted, absl::string_view path) {
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].bytes.data() < sorted[i - 1].bytes.data() + sorted[i - 1].bytes.size()) {
      return Bad(path, "tensors '", absl::CHexEscape(sorted[i - 1].name), "' and '",
                 absl::CHexEscape(sorted[i].name), "' overlap");
    }
  }
  return absl::OkStatus();
}

}  // namespace

size_t DTypeBytes(DType dtype) { return Info(dtype).bytes; }

absl::string_view DTypeName(DType dtype) { return Info(dtype).name; }

std::optional<DType> ParseDType(absl::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(FileSystem& files,
                                                                       const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  RETURN_IF_ERROR(file->AddFile(files, path));
  return file;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::OpenModel(
    FileSystem& files, const std::string& dir) {
  const std::string single = JoinPath(dir, "model.safetensors");
  const std::string index = JoinPath(dir, "model.safetensors.index.json");
  if (files.Exists(single) || !files.Exists(index)) return Open(files, single);
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = index;
  RETURN_IF_ERROR(file->AddShards(files, dir));
  return file;
}

absl::Status SafetensorsFile::AddShards(FileSystem& files, const std::string& dir) {
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path_, kIndexBytesMax));
  ASSIGN_OR_RETURN(const Json index, ParseJson(text, path_));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) {
    return Bad(path_, "field 'weight_map' is missing or no object");
  }
  absl::btree_map<std::string, size_t> shards;  // name of the file, tensors expected in it
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string()) return Bad(path_, "weight_map: '", tensor, "' is no string");
    const std::string& name = shard.get_ref<const std::string&>();
    if (name.empty() || name[0] == '.' ||
        absl::string_view(name).find('/') != absl::string_view::npos) {
      return Bad(path_, "weight_map: '", absl::CHexEscape(name), "' is no plain file name");
    }
    ++shards[name];
  }
  if (shards.size() > kShardsMax) {
    return Bad(path_, "expected at most ", kShardsMax, " shards, found ", shards.size());
  }
  for (const auto& [name, expected] : shards) {
    const size_t before = tensors_.size();
    RETURN_IF_ERROR(AddFile(files, JoinPath(dir, name)));
    for (size_t i = before; i < tensors_.size(); ++i) {
      const auto listed = map->find(tensors_[i].name);
      if (listed == map->end() || *listed != name) {
        return Bad(path_, "tensor '", absl::CHexEscape(tensors_[i].name), "' lies in ", name,
                   ", where weight_map has none");
      }
    }
    if (tensors_.size() - before != expected) {
      return Bad(path_, "weight_map has ", expected, " tensors in ", name, ", found ",
                 tensors_.size() - before);
    }
  }
  return absl::OkStatus();
}

absl::Status SafetensorsFile::AddFile(FileSystem& files, const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> map, files.MemoryMap(path));
  const absl::Span<const char> bytes = map->bytes();
  if (bytes.size() < kLengthBytes) {
    return Bad(path, "expected a safetensors file, found ", bytes.size(), " bytes");
  }
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > bytes.size() - kLengthBytes || header_bytes > kHeaderBytesMax) {
    return Bad(path, "the header's length of ", header_bytes, " bytes does not fit the file of ",
               bytes.size(), " bytes (no safetensors file, or cut short)");
  }
  const absl::string_view header_text(bytes.data() + kLengthBytes, header_bytes);
  ASSIGN_OR_RETURN(const Json header, ParseJson(header_text, absl::StrCat(path, ": header")));
  if (!header.is_object()) return Bad(path, "header: expected an object");
  const absl::Span<const char> data = bytes.subspan(kLengthBytes + header_bytes);
  const size_t first = tensors_.size();
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      if (!entry.is_object()) return Bad(path, "header: __metadata__ is no object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string())
          return Bad(path, "header: __metadata__ holds no string at '", key, "'");
        metadata_.emplace(key, value.get<std::string>());
      }
      continue;
    }
    ASSIGN_OR_RETURN(TensorView tensor, ParseEntry(name, entry, data, path));
    tensors_.push_back(std::move(tensor));
  }
  std::sort(tensors_.begin() + static_cast<ptrdiff_t>(first), tensors_.end(),
            [](const TensorView& a, const TensorView& b) {
              return std::make_pair(a.bytes.data(), a.bytes.size()) <
                     std::make_pair(b.bytes.data(), b.bytes.size());
            });
  RETURN_IF_ERROR(CheckOverlap(absl::MakeConstSpan(tensors_).subspan(first), path));
  for (size_t i = first; i < tensors_.size(); ++i) {
    if (!by_name_.emplace(tensors_[i].name, i).second) {
      return Bad(path, "tensor '", absl::CHexEscape(tensors_[i].name), "' is in another shard too");
    }
  }
  maps_.push_back(std::move(map));
  return absl::OkStatus();
}

const TensorView* SafetensorsFile::Find(absl::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

absl::StatusOr<const TensorView*> SafetensorsFile::Get(absl::string_view name) const {
  const TensorView* tensor = Find(name);
  if (tensor != nullptr) return tensor;
  return absl::NotFoundError(
      absl::StrCat(path_, ": tensor '", absl::CHexEscape(name), "' is missing"));
}

absl::Status WriteSafetensors(FileSystem& files, const std::string& path,
                              absl::Span<const TensorView> tensors,
                              const absl::btree_map<std::string, std::string>& metadata) {
  std::vector<const TensorView*> order;
  absl::flat_hash_set<absl::string_view> names;
  for (const TensorView& tensor : tensors) {
    const std::string place = absl::StrCat("write ", path, ": tensor '", tensor.name, "'");
    if (tensor.name == kMetadataKey || !names.insert(tensor.name).second) {
      return Bad(place, "the name is taken");
    }
    const bool negative = std::any_of(tensor.shape.begin(), tensor.shape.end(),
                                      [](int64_t size) { return size < 0; });
    const std::optional<uint64_t> expected =
        negative ? std::nullopt : BytesOfShape(tensor.dtype, tensor.shape);
    if (!expected || *expected != tensor.bytes.size()) {
      return Bad(place, DTypeName(tensor.dtype), " of shape [", absl::StrJoin(tensor.shape, ", "),
                 "] does not take ", tensor.bytes.size(), " bytes");
    }
    order.push_back(&tensor);
  }
  std::stable_sort(order.begin(), order.end(), [](const TensorView* a, const TensorView* b) {
    return DTypeBytes(a->dtype) > DTypeBytes(b->dtype);
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    for (const auto& [key, value] : metadata) header[std::string(kMetadataKey)][key] = value;
  }
  uint64_t offset = 0;
  // push_back of pairs on the object: ordered_json's operator[] looks through all names before.
  auto& entries = header.get_ref<nlohmann::ordered_json::object_t&>();
  for (const TensorView* tensor : order) {
    const uint64_t end = offset + tensor->bytes.size();
    nlohmann::ordered_json entry = {{"dtype", std::string(DTypeName(tensor->dtype))},
                                    {"shape", tensor->shape},
                                    {"data_offsets", {offset, end}}};
    entries.push_back({tensor->name, std::move(entry)});
    offset = end;
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.resize(
      (text.size() + kLengthBytes + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment -
          kLengthBytes,
      ' ');
  const uint64_t length = text.size();
  ASSIGN_OR_RETURN(std::unique_ptr<AtomicFile> file, files.CreateAtomic(path));
  RETURN_IF_ERROR(
      file->Append(absl::string_view(reinterpret_cast<const char*>(&length), sizeof(length))));
  RETURN_IF_ERROR(file->Append(text));
  for (const TensorView* tensor : order) {
    RETURN_IF_ERROR(file->Append(absl::string_view(tensor->bytes.data(), tensor->bytes.size())));
  }
  return file->Commit();
}

}  // namespace crescendo
