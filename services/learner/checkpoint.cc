#include "services/learner/checkpoint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/base/crc32c.h"
#include "common/base/status_macros.h"
#include "common/formats/json.h"
#include "common/formats/safetensors.h"

namespace crescendo {

namespace {

constexpr absl::string_view kFormat = "crescendo-learner-checkpoint";
constexpr int kVersion = 1;
constexpr absl::string_view kPrefix = "step-";
constexpr absl::string_view kWriting = ".writing-";
constexpr absl::string_view kWeights = "weights.safetensors";
constexpr absl::string_view kOptimizer = "optimizer.safetensors";
constexpr absl::string_view kManifest = "checkpoint.json";
constexpr absl::string_view kCrcLine = "\ncrc32c ";
constexpr size_t kManifestBytesMax = 256u << 20;  // grows with the ledger, slowly

absl::Status Damaged(const std::string& file, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("checkpoint ", file, ": ", what));
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

absl::StatusOr<std::vector<TensorData>> ReadTensors(FileSystem& files, const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsFile> file, SafetensorsFile::Open(files, path));
  std::vector<TensorData> tensors;
  for (const TensorView& view : file->tensors()) {
    tensors.push_back({view.name, std::string(DTypeName(view.dtype)), view.shape,
                       std::string(view.bytes.data(), view.bytes.size())});
  }
  return tensors;
}

// Size and checksum of a file as the manifest says them.
absl::StatusOr<Json> Describe(FileSystem& files, const std::string& folder,
                              absl::string_view name) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> map, files.MemoryMap(JoinPath(folder, name)));
  const absl::string_view bytes(map->bytes().data(), map->bytes().size());
  return Json{{"name", std::string(name)}, {"bytes", bytes.size()}, {"crc32c", Crc32c(bytes)}};
}

absl::Status Verify(FileSystem& files, const std::string& folder, const Json& manifest,
                    absl::string_view name) {
  const std::string path = JoinPath(folder, name);
  const auto list = manifest.find("files");
  if (list != manifest.end() && list->is_array()) {
    for (const Json& entry : *list) {
      if (!entry.is_object() || entry.value("name", Json()) != std::string(name)) continue;
      const absl::StatusOr<Json> found = Describe(files, folder, name);
      if (!found.ok()) return Damaged(path, found.status().message());
      if (entry == *found) return absl::OkStatus();
      return Damaged(path, absl::StrCat("expected size and checksum ", entry.dump(), ", found ",
                                        found->dump()));
    }
  }
  return Damaged(JoinPath(folder, kManifest), absl::StrCat("files: ", name, " is not listed"));
}

// The text of checkpoint.json without its last line, verified.
absl::StatusOr<Json> ReadManifest(FileSystem& files, const std::string& path) {
  absl::StatusOr<std::string> text = files.ReadFile(path, kManifestBytesMax);
  if (!text.ok()) return Damaged(path, text.status().message());
  const size_t end = absl::string_view(*text).rfind(kCrcLine);
  uint32_t crc = 0;
  if (end == absl::string_view::npos ||
      !absl::SimpleHexAtoi(
          absl::StripSuffix(absl::string_view(*text).substr(end + kCrcLine.size()), "\n"), &crc)) {
    return Damaged(path, "expected a last line \"crc32c HEX\"; the file is torn or foreign");
  }
  const absl::string_view body = absl::string_view(*text).substr(0, end);
  if (Crc32c(body) != crc) {
    return Damaged(path, absl::StrFormat("checksum: expected %08x, found %08x", crc, Crc32c(body)));
  }
  absl::StatusOr<Json> json = ParseJson(body, path);
  if (!json.ok()) return Damaged(path, json.status().message());
  if (!json->is_object()) return Damaged(path, "expected a JSON object");
  return json;
}

absl::StatusOr<std::string> GetString(const Json& json, const char* name, const std::string& path) {
  const auto it = json.find(name);
  if (it == json.end() || !it->is_string()) {
    return Damaged(path, absl::StrCat(name, ": expected a string"));
  }
  return it->get<std::string>();
}

absl::StatusOr<int64_t> GetCount(const Json& json, const char* name, const std::string& path) {
  const auto it = json.find(name);
  if (it == json.end() || !it->is_number_unsigned() || it->get<uint64_t>() > (uint64_t{1} << 62)) {
    return Damaged(path, absl::StrCat(name, ": expected a count"));
  }
  return it->get<int64_t>();
}

}  // namespace

CheckpointStore::CheckpointStore(FileSystem* files, CheckpointOptions options)
    : files_(files), options_(std::move(options)) {
  CRESCENDO_CHECK(options_.kept >= 1);
}

std::string CheckpointStore::FolderOf(int64_t steps) const {
  return JoinPath(options_.folder, absl::StrFormat("%s%06d", kPrefix, steps));
}

absl::StatusOr<std::vector<int64_t>> CheckpointStore::Steps() {
  std::vector<int64_t> steps;
  if (!files_->Exists(options_.folder)) return steps;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files_->ListDir(options_.folder));
  for (const std::string& name : names) {
    int64_t step = 0;
    absl::string_view digits = name;
    if (absl::ConsumePrefix(&digits, kPrefix) && absl::SimpleAtoi(digits, &step) && step >= 0) {
      steps.push_back(step);
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

absl::Status CheckpointStore::WriteInto(const std::string& folder, const Checkpoint& checkpoint) {
  RETURN_IF_ERROR(files_->MakeDirs(folder));
  RETURN_IF_ERROR(WriteTensors(*files_, JoinPath(folder, kWeights), checkpoint.trainer.weights));
  RETURN_IF_ERROR(
      WriteTensors(*files_, JoinPath(folder, kOptimizer), checkpoint.trainer.optimizer));
  Json json;
  json["format"] = std::string(kFormat);
  json["version"] = kVersion;
  json["run"] = options_.run_name;
  json["seed"] = options_.run_seed;
  json["steps_trained"] = checkpoint.steps_trained;
  json["stage"] = checkpoint.stage;
  json["ledger"] = checkpoint.ledger.Serialize();
  json["trainer"] = checkpoint.trainer.extra_json;
  json["config"] = checkpoint.config_toml;
  json["report"] =
      checkpoint.last_report.has_value() ? StepReportToJson(*checkpoint.last_report) : "";
  ASSIGN_OR_RETURN(Json weights, Describe(*files_, folder, kWeights));
  ASSIGN_OR_RETURN(Json optimizer, Describe(*files_, folder, kOptimizer));
  json["files"] = Json::array({std::move(weights), std::move(optimizer)});
  // Bytes that are no UTF-8 (in a path, say) must not cost a checkpoint.
  std::string text = json.dump(1, ' ', false, Json::error_handler_t::replace);
  const uint32_t crc = Crc32c(text);
  absl::StrAppend(&text, kCrcLine, absl::StrFormat("%08x\n", crc));
  return files_->WriteFile(JoinPath(folder, kManifest), text);
}

absl::Status CheckpointStore::Write(const Checkpoint& checkpoint) {
  const std::string target = FolderOf(checkpoint.steps_trained);
  const std::string writing = JoinPath(options_.folder, absl::StrCat(kWriting, BaseName(target)));
  RETURN_IF_ERROR(files_->MakeDirs(options_.folder));
  RETURN_IF_ERROR(files_->RemoveTree(writing));
  if (absl::Status status = WriteInto(writing, checkpoint); !status.ok()) {
    (void)files_->RemoveTree(writing);
    return Annotate(status, absl::StrCat("writing checkpoint ", target));
  }
  // One of the same step is there only when it was skipped as damaged.
  RETURN_IF_ERROR(files_->RemoveTree(target));
  RETURN_IF_ERROR(files_->Rename(writing, target));
  Prune(checkpoint.steps_trained);
  return absl::OkStatus();
}

// What cannot be removed now is tried again after the next checkpoint.
void CheckpointStore::Prune(int64_t newest) {
  const absl::StatusOr<std::vector<int64_t>> steps = Steps();
  if (!steps.ok()) return;
  int kept = 0;
  for (auto it = steps->rbegin(); it != steps->rend(); ++it) {
    // Those above are of a time line that was given up as damaged.
    const bool keep = *it <= newest && kept++ < options_.kept;
    if (!keep) (void)files_->RemoveTree(FolderOf(*it));
  }
  const absl::StatusOr<std::vector<std::string>> names = files_->ListDir(options_.folder);
  if (!names.ok()) return;
  for (const std::string& name : *names) {
    if (absl::StartsWith(name, kWriting)) {
      (void)files_->RemoveTree(JoinPath(options_.folder, name));
    }
  }
}

absl::StatusOr<LoadedCheckpoint> CheckpointStore::LoadNewest() {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, Steps());
  LoadedCheckpoint loaded;
  std::string errors;
  for (auto it = steps.rbegin(); it != steps.rend(); ++it) {
    absl::StatusOr<Checkpoint> checkpoint = Load(FolderOf(*it));
    if (checkpoint.ok()) {
      loaded.checkpoint = *std::move(checkpoint);
      return loaded;
    }
    absl::StrAppend(&errors, errors.empty() ? "" : "; ", checkpoint.status().message());
    loaded.skipped.push_back(checkpoint.status());
  }
  if (!loaded.skipped.empty()) {
    return absl::DataLossError(
        absl::StrCat("no checkpoint of ", options_.folder, " can be used (", errors,
                     "); move the folder away to start the run from its base"));
  }
  return loaded;
}

absl::StatusOr<Checkpoint> CheckpointStore::Load(const std::string& folder) {
  const std::string path = JoinPath(folder, kManifest);
  ASSIGN_OR_RETURN(const Json json, ReadManifest(*files_, path));
  ASSIGN_OR_RETURN(const std::string format, GetString(json, "format", path));
  ASSIGN_OR_RETURN(const int64_t version, GetCount(json, "version", path));
  if (format != kFormat || version != kVersion) {
    return Damaged(path, absl::StrCat("expected ", kFormat, " version ", kVersion, ", found ",
                                      format, " version ", version));
  }
  ASSIGN_OR_RETURN(const std::string run, GetString(json, "run", path));
  const auto seed = json.find("seed");
  if (run != options_.run_name || seed == json.end() || *seed != Json(options_.run_seed)) {
    return Damaged(path, absl::StrCat("is of another run: expected run.name \"", options_.run_name,
                                      "\" and run.seed ", options_.run_seed, ", found \"", run,
                                      "\" and ", seed == json.end() ? "none" : seed->dump()));
  }
  Checkpoint checkpoint;
  ASSIGN_OR_RETURN(checkpoint.steps_trained, GetCount(json, "steps_trained", path));
  if (FolderOf(checkpoint.steps_trained) != folder) {
    return Damaged(path, absl::StrCat("steps_trained: expected that of the folder's name, found ",
                                      checkpoint.steps_trained));
  }
  ASSIGN_OR_RETURN(const int64_t stage, GetCount(json, "stage", path));
  checkpoint.stage = static_cast<int>(std::min<int64_t>(stage, 1 << 20));
  ASSIGN_OR_RETURN(const std::string ledger, GetString(json, "ledger", path));
  ASSIGN_OR_RETURN(checkpoint.trainer.extra_json, GetString(json, "trainer", path));
  ASSIGN_OR_RETURN(checkpoint.config_toml, GetString(json, "config", path));
  ASSIGN_OR_RETURN(const std::string report, GetString(json, "report", path));
  absl::StatusOr<Ledger> parsed = Ledger::Parse(ledger);
  if (!parsed.ok()) return Damaged(path, parsed.status().message());
  checkpoint.ledger = *std::move(parsed);
  if (!report.empty()) {
    absl::StatusOr<StepReport> step_report = StepReportFromJson(report, path);
    if (!step_report.ok()) return Damaged(path, step_report.status().message());
    checkpoint.last_report = *std::move(step_report);
  }
  for (absl::string_view name : {kWeights, kOptimizer}) {
    RETURN_IF_ERROR(Verify(*files_, folder, json, name));
    absl::StatusOr<std::vector<TensorData>> tensors = ReadTensors(*files_, JoinPath(folder, name));
    if (!tensors.ok()) return Damaged(JoinPath(folder, name), tensors.status().message());
    (name == kWeights ? checkpoint.trainer.weights : checkpoint.trainer.optimizer) =
        *std::move(tensors);
  }
  return checkpoint;
}

}  // namespace crescendo
