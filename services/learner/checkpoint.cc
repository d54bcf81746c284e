#include "services/learner/checkpoint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "services/learner/checkpoint_files.h"

namespace crescendo {

namespace {

constexpr absl::string_view kPrefix = "step-";
constexpr absl::string_view kWriting = ".writing-";

}  // namespace

CheckpointStore::CheckpointStore(FileSystem* files, CheckpointOptions options)
    : files_(files), options_(std::move(options)) {
  CRESCENDO_CHECK(options_.kept >= 1);
}

std::string CheckpointStore::FolderOf(int64_t steps) const {
  return JoinPath(options_.folder, absl::StrFormat("%s%06d", kPrefix, steps));
}

std::string CheckpointStore::WritingOf(int64_t steps) const {
  return JoinPath(options_.folder, absl::StrCat(kWriting, BaseName(FolderOf(steps)),
                                                options_.nonce.empty() ? "" : "-", options_.nonce));
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

absl::Status CheckpointStore::WriteInto(const std::string& folder, const Checkpoint& checkpoint,
                                        const OtherParts& others) {
  const TrainerState& part = checkpoint.trainer;
  ASSIGN_OR_RETURN(const std::string own, WritePart(*files_, folder, part));
  std::vector<std::string> written;
  if (part.ranks > 1) {
    ASSIGN_OR_RETURN(written, others());
  }
  written.insert(written.begin(), own);
  CRESCENDO_CHECK(written.size() == static_cast<size_t>(part.ranks));
  std::vector<Json> lists;
  for (int r = 0; r < part.ranks; ++r) {
    ASSIGN_OR_RETURN(lists.emplace_back(),
                     CheckPart(*files_, folder, written[static_cast<size_t>(r)], r, part.ranks));
  }
  Json json;
  json["run"] = options_.run_name;
  json["seed"] = options_.run_seed;
  json["steps_trained"] = checkpoint.steps_trained;
  json["stage"] = checkpoint.stage;
  json["ledger"] = checkpoint.ledger.Serialize();
  json["trainer"] = part.extra_json;
  json["config"] = checkpoint.config_toml;
  json["report"] =
      checkpoint.last_report.has_value() ? StepReportToJson(*checkpoint.last_report) : "";
  DescribeParts(part, lists, json);
  return WriteManifest(*files_, folder, json);
}

absl::StatusOr<std::string> CheckpointStore::Begin(int64_t steps) {
  const std::string writing = WritingOf(steps);
  RETURN_IF_ERROR(files_->MakeDirs(options_.folder));
  RemoveUnfinished();
  RETURN_IF_ERROR(files_->RemoveTree(writing));
  RETURN_IF_ERROR(files_->MakeDirs(writing));
  return writing;
}

absl::Status CheckpointStore::Write(const Checkpoint& checkpoint, const OtherParts& others) {
  CRESCENDO_CHECK(checkpoint.trainer.rank == 0);
  const std::string target = FolderOf(checkpoint.steps_trained);
  const std::string writing = WritingOf(checkpoint.steps_trained);
  if (checkpoint.trainer.ranks == 1) RETURN_IF_ERROR(Begin(checkpoint.steps_trained).status());
  if (absl::Status status = WriteInto(writing, checkpoint, others); !status.ok()) {
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
  RemoveUnfinished();
}

void CheckpointStore::RemoveUnfinished() {
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
  const std::string path = JoinPath(folder, "checkpoint.json");
  ASSIGN_OR_RETURN(const Json json, ReadManifest(*files_, folder));
  ASSIGN_OR_RETURN(const std::string run, ManifestString(json, "run", folder));
  const auto seed = json.find("seed");
  if (run != options_.run_name || seed == json.end() || *seed != Json(options_.run_seed)) {
    return DamagedCheckpoint(
        path, absl::StrCat("is of another run: expected run.name \"", options_.run_name,
                           "\" and run.seed ", options_.run_seed, ", found \"", run, "\" and ",
                           seed == json.end() ? "none" : seed->dump()));
  }
  Checkpoint checkpoint;
  checkpoint.folder = folder;
  ASSIGN_OR_RETURN(checkpoint.steps_trained, ManifestCount(json, "steps_trained", folder));
  if (FolderOf(checkpoint.steps_trained) != folder) {
    return DamagedCheckpoint(
        path, absl::StrCat("steps_trained: expected that of the folder's name, found ",
                           checkpoint.steps_trained));
  }
  ASSIGN_OR_RETURN(const int64_t stage, ManifestCount(json, "stage", folder));
  checkpoint.stage = static_cast<int>(std::min<int64_t>(stage, 1 << 20));
  ASSIGN_OR_RETURN(const std::string ledger, ManifestString(json, "ledger", folder));
  ASSIGN_OR_RETURN(checkpoint.config_toml, ManifestString(json, "config", folder));
  ASSIGN_OR_RETURN(const std::string report, ManifestString(json, "report", folder));
  absl::StatusOr<Ledger> parsed = Ledger::Parse(ledger);
  if (!parsed.ok()) return DamagedCheckpoint(path, parsed.status().message());
  checkpoint.ledger = *std::move(parsed);
  if (!report.empty()) {
    absl::StatusOr<StepReport> step_report = StepReportFromJson(report, path);
    if (!step_report.ok()) return DamagedCheckpoint(path, step_report.status().message());
    checkpoint.last_report = *std::move(step_report);
  }
  RETURN_IF_ERROR(VerifyFiles(*files_, folder, json));
  ASSIGN_OR_RETURN(checkpoint.trainer, ReadPart(*files_, folder, json, 0, options_.ranks));
  return checkpoint;
}

}  // namespace crescendo
