#include "services/learner/checkpoint_files.h"

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/base/crc32c.h"
#include "common/base/status_macros.h"
#include "common/formats/safetensors.h"

namespace crescendo {

namespace {

constexpr absl::string_view kFormat = "crescendo-learner-checkpoint";
constexpr int kVersionOfOne = 1, kVersionOfSeveral = 2;
constexpr absl::string_view kManifest = "checkpoint.json";
constexpr absl::string_view kCrcLine = "\ncrc32c ";
constexpr size_t kManifestBytesMax = 256u << 20;  // grows with the ledger, slowly
constexpr std::array<const char*, 2> kKinds = {"weights", "optimizer"};

std::string NameOf(absl::string_view kind, int rank, int ranks) {
  if (ranks == 1) return absl::StrCat(kind, ".safetensors");
  return absl::StrCat(kind, "-", rank, "-of-", ranks, ".safetensors");
}

absl::Status WriteTensors(FileSystem& files, const std::string& path,
                          const std::vector<TensorData>& tensors) {
  std::vector<TensorView> views;
  for (const TensorData& tensor : tensors) {
    const std::optional<DType> dtype = ParseDType(tensor.dtype);
    if (!dtype.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("checkpoint ", path, ": tensor ", tensor.name,
                                                     ": dtype: expected one of "
                                                     "safetensors, found \"",
                                                     tensor.dtype, "\""));
    }
    views.push_back({tensor.name, *dtype, tensor.shape,
                     absl::Span<const char>(tensor.bytes.data(), tensor.bytes.size())});
  }
  return WriteSafetensors(files, path, views);
}

// Size and checksum of a file as the manifest says them.
absl::StatusOr<Json> Describe(FileSystem& files, const std::string& folder,
                              const std::string& name) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> map, files.MemoryMap(JoinPath(folder, name)));
  const absl::string_view bytes(map->bytes().data(), map->bytes().size());
  return Json{{"name", name}, {"bytes", bytes.size()}, {"crc32c", Crc32c(bytes)}};
}

// The entry of a file in a list of them; null: it is not there.
const Json* FindEntry(const Json& list, const std::string& name) {
  if (!list.is_array()) return nullptr;
  for (const Json& entry : list) {
    if (entry.is_object() && entry.value("name", Json()) == name) return &entry;
  }
  return nullptr;
}

absl::StatusOr<int> RanksOf(const Json& manifest, const std::string& folder) {
  ASSIGN_OR_RETURN(const int64_t version, ManifestCount(manifest, "version", folder));
  if (version == kVersionOfOne) return 1;
  ASSIGN_OR_RETURN(const int64_t ranks, ManifestCount(manifest, "ranks", folder));
  if (ranks >= 2 && ranks <= kCheckpointRanksMax) return static_cast<int>(ranks);
  return DamagedCheckpoint(
      JoinPath(folder, kManifest),
      absl::StrCat("ranks: expected 2 to ", kCheckpointRanksMax, ", found ", ranks));
}

// One kind of tensors of all ranks that wrote them.
class Parts {
 public:
  static absl::StatusOr<Parts> Open(FileSystem& files, const std::string& folder,
                                    const Json& manifest, const char* kind) {
    Parts parts;
    ASSIGN_OR_RETURN(const int ranks, RanksOf(manifest, folder));
    for (int r = 0; r < ranks; ++r) {
      parts.paths_.push_back(JoinPath(folder, NameOf(kind, r, ranks)));
      absl::StatusOr<std::unique_ptr<SafetensorsFile>> file =
          SafetensorsFile::Open(files, parts.paths_.back());
      if (!file.ok()) return DamagedCheckpoint(parts.paths_.back(), file.status().message());
      parts.files_.push_back(*std::move(file));
    }
    RETURN_IF_ERROR(parts.ReadShapes(folder, manifest, kind));
    return parts;
  }

  struct Whole {
    std::string name;
    std::vector<int64_t> shape;
    int64_t elements = 0;
  };
  const std::vector<Whole>& tensors() const { return tensors_; }

  // The elements of a slice, from wherever they lie.
  absl::StatusOr<TensorData> Read(const Whole& whole, TensorSlice wanted) const {
    TensorData tensor{whole.name, "", {wanted.size}, ""};
    const int ranks = static_cast<int>(files_.size());
    for (int r = 0; r < ranks; ++r) {
      const std::string& path = paths_[static_cast<size_t>(r)];
      const TensorView* view = files_[static_cast<size_t>(r)]->Find(whole.name);
      const TensorSlice held = SliceOf(whole.elements, r, ranks);
      if (view == nullptr || view->elements() != held.size ||
          (r > 0 && DTypeName(view->dtype) != tensor.dtype)) {
        return DamagedCheckpoint(
            path, absl::StrCat("tensor ", whole.name, ": expected ", held.size, " elements, found ",
                               view == nullptr ? "none" : absl::StrCat(view->elements())));
      }
      tensor.dtype = std::string(DTypeName(view->dtype));
      const int64_t begin = std::max(held.begin, wanted.begin);
      const int64_t end = std::min(held.begin + held.size, wanted.begin + wanted.size);
      if (begin >= end) continue;
      const size_t width = DTypeBytes(view->dtype);
      tensor.bytes.append(view->bytes.data() + static_cast<size_t>(begin - held.begin) * width,
                          static_cast<size_t>(end - begin) * width);
    }
    return tensor;
  }

 private:
  // Of one rank's files the tensors say it, of several ranks' the manifest.
  absl::Status ReadShapes(const std::string& folder, const Json& manifest, const char* kind) {
    if (files_.size() == 1) {
      for (const TensorView& view : files_[0]->tensors()) {
        tensors_.push_back({view.name, view.shape, view.elements()});
      }
      return absl::OkStatus();
    }
    const std::string place = JoinPath(folder, kManifest);
    const auto list = manifest.find(absl::StrCat(kind, "_shapes"));
    if (list == manifest.end() || !list->is_array() ||
        list->size() != files_[0]->tensors().size()) {
      return DamagedCheckpoint(place, absl::StrCat(kind, "_shapes: expected a list of ",
                                                   files_[0]->tensors().size(), " tensors"));
    }
    for (const Json& entry : *list) {
      std::optional<Whole> whole = ParseWhole(entry);
      if (!whole.has_value()) {
        return DamagedCheckpoint(place, absl::StrCat(kind, "_shapes: expected a name and a shape"));
      }
      tensors_.push_back(*std::move(whole));
    }
    return absl::OkStatus();
  }

  static std::optional<Whole> ParseWhole(const Json& entry) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_array()) {
      return std::nullopt;
    }
    constexpr int64_t kElementsMax = int64_t{1} << 50;
    Whole whole{entry[0].get<std::string>(), {}, 1};
    for (const Json& size : entry[1]) {
      if (!size.is_number_unsigned() || size.get<uint64_t>() > uint64_t{kElementsMax}) {
        return std::nullopt;
      }
      whole.shape.push_back(size.get<int64_t>());
      if (whole.shape.back() > 0 && whole.elements > kElementsMax / whole.shape.back()) {
        return std::nullopt;
      }
      whole.elements *= whole.shape.back();
    }
    return whole;
  }

  std::vector<std::string> paths_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<Whole> tensors_;
};

}  // namespace

absl::Status DamagedCheckpoint(const std::string& file, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("checkpoint ", file, ": ", what));
}

// Writing
// ----------------------------------------------------------------------------------------

absl::StatusOr<std::string> WritePart(FileSystem& files, const std::string& folder,
                                      const TrainerState& part) {
  Json written = Json::array();
  for (const char* kind : kKinds) {
    const std::string name = NameOf(kind, part.rank, part.ranks);
    RETURN_IF_ERROR(WriteTensors(files, JoinPath(folder, name),
                                 kind == kKinds[0] ? part.weights : part.optimizer));
    ASSIGN_OR_RETURN(Json entry, Describe(files, folder, name));
    written.push_back(std::move(entry));
  }
  return written.dump();
}

absl::StatusOr<Json> CheckPart(FileSystem& files, const std::string& folder,
                               absl::string_view written, int rank, int ranks) {
  ASSIGN_OR_RETURN(Json list, ParseJson(written, absl::StrCat("files of rank ", rank)));
  for (const char* kind : kKinds) {
    const std::string name = NameOf(kind, rank, ranks);
    const Json* entry = FindEntry(list, name);
    if (entry == nullptr) {
      return absl::InternalError(absl::StrCat("rank ", rank, " did not write ", name));
    }
    const absl::StatusOr<int64_t> size = files.FileSize(JoinPath(folder, name));
    if (!size.ok() || entry->value("bytes", Json()) != Json(static_cast<uint64_t>(*size))) {
      return absl::FailedPreconditionError(absl::StrCat(
          JoinPath(folder, name), ": rank ", rank, " wrote it (", entry->dump(), "), found ",
          size.ok() ? absl::StrCat(*size, " bytes") : std::string(size.status().message()),
          ": run.out must be a folder that all ranks share"));
    }
  }
  return list;
}

absl::Status WriteManifest(FileSystem& files, const std::string& folder, const Json& manifest) {
  Json json = manifest;
  json["format"] = std::string(kFormat);
  json["version"] = json.contains("ranks") ? kVersionOfSeveral : kVersionOfOne;
  // Bytes that are no UTF-8 (in a path, say) must not cost a checkpoint.
  std::string text = json.dump(1, ' ', false, Json::error_handler_t::replace);
  const uint32_t crc = Crc32c(text);
  absl::StrAppend(&text, kCrcLine, absl::StrFormat("%08x\n", crc));
  return files.WriteFile(JoinPath(folder, kManifest), text);
}

void DescribeParts(const TrainerState& part, const std::vector<Json>& files, Json& manifest) {
  manifest["files"] = Json::array();
  for (const Json& list : files) {
    for (const Json& entry : list) manifest["files"].push_back(entry);
  }
  if (part.ranks == 1) return;
  CRESCENDO_CHECK(part.shapes.size() == part.weights.size() + part.optimizer.size());
  manifest["ranks"] = part.ranks;
  size_t next = 0;
  for (const char* kind : kKinds) {
    Json& shapes = manifest[absl::StrCat(kind, "_shapes")] = Json::array();
    for (const TensorData& tensor : kind == kKinds[0] ? part.weights : part.optimizer) {
      shapes.push_back(Json::array({tensor.name, part.shapes[next++]}));
    }
  }
}

// Reading
// ----------------------------------------------------------------------------------------

absl::StatusOr<Json> ReadManifest(FileSystem& files, const std::string& folder) {
  const std::string path = JoinPath(folder, kManifest);
  absl::StatusOr<std::string> text = files.ReadFile(path, kManifestBytesMax);
  if (!text.ok()) return DamagedCheckpoint(path, text.status().message());
  const size_t end = absl::string_view(*text).rfind(kCrcLine);
  uint32_t crc = 0;
  if (end == absl::string_view::npos ||
      !absl::SimpleHexAtoi(
          absl::StripSuffix(absl::string_view(*text).substr(end + kCrcLine.size()), "\n"), &crc)) {
    return DamagedCheckpoint(path,
                             "expected a last line \"crc32c HEX\"; the file is torn or foreign");
  }
  const absl::string_view body = absl::string_view(*text).substr(0, end);
  if (Crc32c(body) != crc) {
    return DamagedCheckpoint(
        path, absl::StrFormat("checksum: expected %08x, found %08x", crc, Crc32c(body)));
  }
  absl::StatusOr<Json> json = ParseJson(body, path);
  if (!json.ok()) return DamagedCheckpoint(path, json.status().message());
  if (!json->is_object()) return DamagedCheckpoint(path, "expected a JSON object");
  ASSIGN_OR_RETURN(const std::string format, ManifestString(*json, "format", folder));
  ASSIGN_OR_RETURN(const int64_t version, ManifestCount(*json, "version", folder));
  if (format != kFormat || (version != kVersionOfOne && version != kVersionOfSeveral)) {
    return DamagedCheckpoint(
        path, absl::StrCat("expected ", kFormat, " version ", kVersionOfOne, " or ",
                           kVersionOfSeveral, ", found ", format, " version ", version));
  }
  return json;
}

absl::Status VerifyFiles(FileSystem& files, const std::string& folder, const Json& manifest) {
  ASSIGN_OR_RETURN(const int ranks, RanksOf(manifest, folder));
  const auto list = manifest.find("files");
  for (int r = 0; r < ranks; ++r) {
    for (const char* kind : kKinds) {
      const std::string name = NameOf(kind, r, ranks);
      const Json* entry = list == manifest.end() ? nullptr : FindEntry(*list, name);
      if (entry == nullptr) {
        return DamagedCheckpoint(JoinPath(folder, kManifest),
                                 absl::StrCat("files: ", name, " is not listed"));
      }
      const std::string path = JoinPath(folder, name);
      const absl::StatusOr<Json> found = Describe(files, folder, name);
      if (!found.ok()) return DamagedCheckpoint(path, found.status().message());
      if (*entry != *found) {
        return DamagedCheckpoint(path, absl::StrCat("expected size and checksum ", entry->dump(),
                                                    ", found ", found->dump()));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<TrainerState> ReadPart(FileSystem& files, const std::string& folder,
                                      const Json& manifest, int rank, int ranks) {
  TrainerState part;
  part.rank = rank;
  part.ranks = ranks;
  ASSIGN_OR_RETURN(part.extra_json, ManifestString(manifest, "trainer", folder));
  for (const char* kind : kKinds) {
    ASSIGN_OR_RETURN(const Parts parts, Parts::Open(files, folder, manifest, kind));
    for (const Parts::Whole& whole : parts.tensors()) {
      ASSIGN_OR_RETURN(TensorData tensor, parts.Read(whole, SliceOf(whole.elements, rank, ranks)));
      if (ranks == 1) {
        tensor.shape = whole.shape;
      } else {
        part.shapes.push_back(whole.shape);
      }
      (kind == kKinds[0] ? part.weights : part.optimizer).push_back(std::move(tensor));
    }
  }
  return part;
}

absl::StatusOr<TrainerState> ReadPart(FileSystem& files, const std::string& folder, int rank,
                                      int ranks) {
  ASSIGN_OR_RETURN(const Json manifest, ReadManifest(files, folder));
  return ReadPart(files, folder, manifest, rank, ranks);
}

absl::StatusOr<std::vector<TensorData>> ReadWeights(FileSystem& files, const std::string& folder) {
  ASSIGN_OR_RETURN(const Json manifest, ReadManifest(files, folder));
  ASSIGN_OR_RETURN(const Parts parts, Parts::Open(files, folder, manifest, kKinds[0]));
  std::vector<TensorData> weights;
  for (const Parts::Whole& whole : parts.tensors()) {
    ASSIGN_OR_RETURN(TensorData tensor, parts.Read(whole, {0, whole.elements}));
    tensor.shape = whole.shape;
    weights.push_back(std::move(tensor));
  }
  return weights;
}

absl::StatusOr<std::string> ManifestString(const Json& manifest, const char* name,
                                           const std::string& folder) {
  const auto it = manifest.find(name);
  if (it == manifest.end() || !it->is_string()) {
    return DamagedCheckpoint(JoinPath(folder, kManifest),
                             absl::StrCat(name, ": expected a string"));
  }
  return it->get<std::string>();
}

absl::StatusOr<int64_t> ManifestCount(const Json& manifest, const char* name,
                                      const std::string& folder) {
  const auto it = manifest.find(name);
  if (it == manifest.end() || !it->is_number_unsigned() ||
      it->get<uint64_t>() > (uint64_t{1} << 62)) {
    return DamagedCheckpoint(JoinPath(folder, kManifest), absl::StrCat(name, ": expected a count"));
  }
  return it->get<int64_t>();
}

}  // namespace crescendo
